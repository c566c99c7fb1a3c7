//! What must hold in an archive beyond its being readable: what its readers rely on, and what they
//! stumble over. Looks at the archive alone, never at what it points to.

use serde::Serialize;

use super::storage_info::StorageInfo;

/// What must hold of the storage info.
mod storage;
/// What must hold of the tree.
mod tree;

pub use storage::storage;
pub use tree::tree;

/// Findings of one grade that one check keeps; the rest are counted.
const KEPT: usize = 20;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Readers get along; something is missing or not as it was in the image.
    Warning,
    /// Readers fail, or get something wrong.
    Error,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub grade: Grade,
    /// Where and what.
    pub text: String,
}

/// One thing that was checked, many times over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// How often.
    pub checked: u64,
    /// What was counted.
    pub unit: &'static str,
    /// How many errors there are.
    pub errors: u64,
    /// How many warnings there are.
    pub warnings: u64,
    /// The first of them.
    pub findings: Vec<Finding>,
}

impl Check {
    /// Nothing checked yet.
    pub fn new(name: &'static str, unit: &'static str) -> Self {
        Self { name, checked: 0, unit, errors: 0, warnings: 0, findings: Vec::new() }
    }

    /// Adds a finding.
    pub fn find(&mut self, grade: Grade, text: impl Into<String>) {
        let count = match grade {
            Grade::Error => &mut self.errors,
            Grade::Warning => &mut self.warnings,
        };
        *count += 1;
        if *count <= KEPT as u64 {
            self.findings.push(Finding { grade, text: text.into() });
        }
    }

    /// Adds what another check found, what it only counted too.
    pub fn absorb(&mut self, other: Self) {
        let (errors, warnings) = (self.errors + other.errors, self.warnings + other.warnings);
        other.findings.into_iter().for_each(|one| self.find(one.grade, one.text));
        (self.errors, self.warnings) = (errors, warnings);
        self.checked += other.checked;
    }

    /// Adds an error.
    pub fn error(&mut self, text: impl Into<String>) {
        self.find(Grade::Error, text);
    }

    /// Adds a warning.
    pub fn warning(&mut self, text: impl Into<String>) {
        self.find(Grade::Warning, text);
    }
}

/// The grade of what upstream's indexer is known to get wrong (CONTRACT B.4): its readers live with
/// that. Its archives are told by their lists of checkpoints, which no other writer makes.
pub fn known_weakness(storage: &StorageInfo) -> Grade {
    match storage {
        StorageInfo::Oci(image) if !image.gzip_checkpoints.is_empty() => Grade::Warning,
        _ => Grade::Error,
    }
}

#[cfg(test)]
mod tests;
