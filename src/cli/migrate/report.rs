//! What became of each image, as a table or as JSON.

use std::io::Write;

use indicatif::HumanBytes;
use serde::Serialize;

use crate::image_id::ImageId;
use crate::publish::migrate::Comparison;
use crate::publish::stored::ListedArchive;

/// What became of one image.
#[derive(Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(super) enum ImageReport {
    /// It would be migrated.
    Planned,
    /// It has the version already.
    PassedOver,
    /// It has the version now.
    Migrated {
        /// What both versions have in common.
        compared: Option<Comparison>,
        /// Where the archive is that was there before.
        kept: Option<String>,
    },
    /// It is what it was.
    Failed(#[serde(serialize_with = "reason")] String),
}

/// `{"reason": ...}`: a tagged variant has to be an object.
fn reason<S: serde::Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap as _;
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry("reason", text)?;
    map.end()
}

#[derive(Debug, Serialize)]
struct Line {
    image_id: ImageId,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(flatten)]
    outcome: ImageReport,
}

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    to: u8,
    dry_run: bool,
    images: Vec<Line>,
}

/// Says why a migration that goes on has not come to its end yet.
pub(super) fn tell_waiting(image: &ImageId, job: uuid::Uuid, reason: &str) {
    eprintln!("{image}: job {job} is tried again: {reason}");
}

impl Report {
    pub(super) fn new(to: u8, dry_run: bool) -> Self {
        Self { to, dry_run, images: Vec::new() }
    }

    pub(super) fn add(
        &mut self,
        image_id: ImageId,
        was: Option<&ListedArchive>,
        outcome: ImageReport,
    ) {
        let (from, size) = (was.and_then(|was| was.clip_version), was.map(|was| was.size));
        self.images.push(Line { image_id, from, size, outcome });
    }

    /// Says on standard error what just happened: many images take long.
    pub(super) fn tell(&self, image: &ImageId, outcome: &ImageReport) {
        match outcome {
            ImageReport::Failed(reason) => eprintln!("{image} failed: {reason}"),
            _ => eprintln!("{image} is version {} now", self.to),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.images.len()
    }

    pub(super) fn failed(&self) -> usize {
        self.count(|outcome| matches!(outcome, ImageReport::Failed(_)))
    }

    fn count(&self, what: impl Fn(&ImageReport) -> bool) -> usize {
        self.images.iter().filter(|line| what(&line.outcome)).count()
    }

    pub(super) fn print(&self, json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if json {
            writeln!(out, "{}", serde_json::to_string(self)?)?;
            return Ok(());
        }
        for Line { image_id, from, size, outcome } in &self.images {
            let from = from.map_or_else(|| "-".to_owned(), |from| format!("v{from}"));
            let size = size.map_or_else(|| "-".to_owned(), |size| HumanBytes(size).to_string());
            write!(out, "{image_id}  {from:>2} {size:>12}  ")?;
            match outcome {
                ImageReport::Planned => writeln!(out, "would become v{}", self.to)?,
                ImageReport::PassedOver => writeln!(out, "is v{} already", self.to)?,
                ImageReport::Migrated { compared: Some(same), .. } => {
                    let bytes = HumanBytes(same.bytes);
                    writeln!(out, "v{}: {} files, {bytes} are the same", self.to, same.files)?;
                }
                ImageReport::Migrated { compared: None, .. } => writeln!(out, "v{}", self.to)?,
                ImageReport::Failed(reason) => writeln!(out, "failed: {reason}")?,
            }
        }
        let migrated = self.count(|outcome| matches!(outcome, ImageReport::Migrated { .. }));
        let planned = self.count(|outcome| matches!(outcome, ImageReport::Planned));
        let passed = self.count(|outcome| matches!(outcome, ImageReport::PassedOver));
        let failed = self.failed();
        if self.dry_run {
            writeln!(out, "{planned} to migrate, {passed} passed over, {failed} can't be read")?;
        } else {
            writeln!(out, "{migrated} migrated, {passed} passed over, {failed} failed")?;
        }
        Ok(())
    }
}
