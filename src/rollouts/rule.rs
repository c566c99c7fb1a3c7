//! What a rule says of a pull. Nothing is read and nothing remembered: the same pull always gets the same
//! answer, a greater share keeps all that a smaller one had, and another salt chooses others.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use super::kind::KindName;
use crate::archive::ClipVersion;
use crate::image_id::ImageId;
use crate::oci::Reference;
use crate::workspace::WorkspaceId;

/// What always gets the same version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sticky {
    /// Each image.
    #[default]
    Image,
    /// All images of a workspace.
    Workspace,
}

impl Sticky {
    /// As it stands in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Workspace => "workspace",
        }
    }

    /// Of its name.
    pub fn of(name: &str) -> Option<Self> {
        [Self::Image, Self::Workspace].into_iter().find(|sticky| sticky.as_str() == name)
    }
}

/// Whether a rollout decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// It sends its share to v2 and the rest to v1.
    #[default]
    Active,
    /// It decides nothing, as if it were not there.
    Paused,
    /// It sends everything to v1.
    RolledBack,
}

impl RolloutState {
    /// As it stands in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::RolledBack => "rolled_back",
        }
    }

    /// Of its name.
    pub fn of(name: &str) -> Option<Self> {
        let all = [Self::Active, Self::Paused, Self::RolledBack];
        all.into_iter().find(|state| state.as_str() == name)
    }
}

/// Which sources: a registry, `registry.example`, or a pattern of repositories in one,
/// `registry.example/team/*`, in which `*` stands for anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = r"^[0-9A-Za-z._:*\[\]-][0-9A-Za-z._:/*\[\]-]{0,254}$", examples("registry.example/team/*"))]
pub struct SourcePattern(String);

/// The text is not a [`SourcePattern`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no pattern of sources: expected 1 to 255 characters of 0-9 a-z A-Z . _ : / - * and \
     brackets, a registry before the first slash"
)]
pub struct InvalidSourcePattern {
    text: String,
}

impl SourcePattern {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn matches(&self, source: &Reference) -> bool {
        let (registry, repository) = match self.0.split_once('/') {
            Some((registry, repository)) => (registry, Some(repository)),
            None => (self.0.as_str(), None),
        };
        let host = if registry == "docker.io" { "index.docker.io" } else { registry };
        is_like(source.registry(), host)
            && repository.is_none_or(|pattern| is_like(source.repository(), pattern))
    }
}

/// Whether `text` is `pattern`, each `*` of which stands for anything. Takes time in proportion to the
/// product of their lengths at most: a star that came to nothing is never asked again once a later
/// one has matched.
fn is_like(text: &str, pattern: &str) -> bool {
    let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
    let (mut t, mut p) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            (t, p) = (t + 1, p + 1);
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            (t, p) = (taken + 1, at + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

impl FromStr for SourcePattern {
    type Err = InvalidSourcePattern;

    fn from_str(text: &str) -> Result<Self, InvalidSourcePattern> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-*[]".contains(&byte);
        if (1..=255).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with('/') {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidSourcePattern { text: text.chars().take(100).collect() })
        }
    }
}

impl TryFrom<String> for SourcePattern {
    type Error = InvalidSourcePattern;

    fn try_from(text: String) -> Result<Self, InvalidSourcePattern> {
        text.parse()
    }
}

impl From<SourcePattern> for String {
    fn from(pattern: SourcePattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for SourcePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A rule, and what it is about.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Names it.
    pub name: String,
    /// Whether it decides.
    pub state: RolloutState,
    /// The share that gets v2, 0 to 100.
    pub percent: f64,
    /// Another salt chooses others.
    pub salt: String,
    /// What always gets the same version.
    pub sticky: Sticky,
    /// Only these workspaces; all when absent.
    pub workspaces: Option<Vec<WorkspaceId>>,
    /// Only jobs of these kinds; all when absent.
    pub kinds: Option<Vec<KindName>>,
    /// Only pulls from these; all when absent.
    pub sources: Option<Vec<SourcePattern>>,
}

/// What is pulled, as far as rules ask.
#[derive(Debug, Clone, Copy)]
pub struct Pulled<'a> {
    /// The kind of the job.
    pub kind: &'a str,
    /// Whose it is.
    pub workspace: &'a WorkspaceId,
    /// The image that is made.
    pub image: &'a ImageId,
    /// Where it comes from.
    pub source: &'a Reference,
}

impl Rule {
    /// The version that a pull is to get; `None` if the rule has nothing to say of it.
    pub fn decide(&self, pulled: Pulled<'_>) -> Option<ClipVersion> {
        let is_one = |ids: &Vec<WorkspaceId>| ids.contains(pulled.workspace);
        let comes_from =
            |patterns: &Vec<SourcePattern>| patterns.iter().any(|p| p.matches(pulled.source));
        let is_kind = |kinds: &Vec<KindName>| kinds.iter().any(|k| k.as_str() == pulled.kind);
        if !self.workspaces.as_ref().is_none_or(is_one)
            || !self.kinds.as_ref().is_none_or(is_kind)
            || !self.sources.as_ref().is_none_or(comes_from)
        {
            return None;
        }
        match self.state {
            RolloutState::Paused => None,
            RolloutState::Active if self.place(pulled) < self.percent => Some(ClipVersion::V2),
            RolloutState::Active | RolloutState::RolledBack => Some(ClipVersion::V1),
        }
    }

    /// Where a pull stands among all there could be, from 0 to less than 100.
    fn place(&self, pulled: Pulled<'_>) -> f64 {
        let key = match self.sticky {
            Sticky::Image => format!("{}/{}", pulled.workspace, pulled.image),
            Sticky::Workspace => pulled.workspace.to_string(),
        };
        let mut hasher = Sha256::new();
        hasher.update((self.salt.len() as u64).to_be_bytes());
        hasher.update(&self.salt);
        hasher.update(key);
        let hash = hasher.finalize();
        let bits = hash[..4].iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        f64::from(bits) / (f64::from(u32::MAX) + 1.0) * 100.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(percent: f64) -> Rule {
        Rule {
            name: "half".into(),
            state: RolloutState::Active,
            percent,
            salt: "salt".into(),
            sticky: Sticky::Image,
            workspaces: None,
            kinds: None,
            sources: None,
        }
    }

    fn decide(rule: &Rule, workspace: &str, image: u64, source: &str) -> Option<u8> {
        let workspace = workspace.parse().unwrap();
        let image = format!("{image:016x}").parse().unwrap();
        let source = source.parse().unwrap();
        let pulled = Pulled { kind: "pull", workspace: &workspace, image: &image, source: &source };
        rule.decide(pulled).map(|version| version as u8)
    }

    #[test]
    fn the_share_is_what_it_says_and_growing_takes_nobody_out() {
        let shares = [0.0, 10.0, 50.0, 100.0].map(|percent| {
            (0..2000)
                .filter(|n| decide(&rule(percent), "w", *n, "app") == Some(2))
                .collect::<Vec<_>>()
        });
        assert_eq!((shares[0].len(), shares[3].len()), (0, 2000));
        assert!((150..250).contains(&shares[1].len()), "{}", shares[1].len());
        assert!((920..1080).contains(&shares[2].len()), "{}", shares[2].len());
        assert!(shares[1].iter().all(|n| shares[2].contains(n)));
        let other = Rule { salt: "other".into(), ..rule(50.0) };
        let others = (0..2000).filter(|n| decide(&other, "w", *n, "app") == Some(2));
        let both = others.filter(|n| shares[2].contains(n)).count();
        assert!((400..600).contains(&both), "another salt chooses others: {both}");
    }

    #[test]
    fn a_rule_is_about_what_it_matches_alone() {
        let all = rule(100.0);
        let of = |workspaces: &[&str]| Rule {
            workspaces: Some(workspaces.iter().map(|id| id.parse().unwrap()).collect()),
            ..all.clone()
        };
        assert_eq!(decide(&of(&["a", "b"]), "b", 1, "app"), Some(2));
        assert_eq!(decide(&of(&["a", "b"]), "c", 1, "app"), None);
        let from = |patterns: &[&str]| Rule {
            sources: Some(patterns.iter().map(|text| text.parse().unwrap()).collect()),
            ..all.clone()
        };
        for (pattern, source, matches) in [
            ("registry.example", "registry.example/a/b:1", true),
            ("registry.example", "registry.example:5000/a/b:1", false),
            ("registry.example:5000/team/*", "registry.example:5000/team/a/b", true),
            ("registry.example:5000/team/*", "registry.example:5000/teams/a", false),
            ("*/team/*-gpu", "r.example/team/x/y-gpu:1", true),
            ("docker.io/library/*", "alpine", true),
            ("docker.io/library/*", "someone/alpine", false),
        ] {
            let found = decide(&from(&[pattern]), "w", 1, source).is_some();
            assert_eq!(found, matches, "{pattern} {source}");
        }
        let about = |kinds: &[&str]| Rule {
            kinds: Some(kinds.iter().map(|name| name.parse().unwrap()).collect()),
            ..all.clone()
        };
        assert_eq!(decide(&about(&["build", "pull"]), "w", 1, "app"), Some(2));
        assert_eq!(decide(&about(&["build"]), "w", 1, "app"), None);
        let paused = Rule { state: RolloutState::Paused, ..all.clone() };
        let back = Rule { state: RolloutState::RolledBack, ..all };
        assert_eq!((decide(&paused, "w", 1, "app"), decide(&back, "w", 1, "app")), (None, Some(1)));
    }

    #[test]
    fn sticky_by_workspace_gives_all_of_one_the_same() {
        let by_workspace = Rule { sticky: Sticky::Workspace, ..rule(50.0) };
        let mut seen = std::collections::BTreeSet::new();
        for workspace in 0..40 {
            let name = format!("w{workspace}");
            let first = decide(&by_workspace, &name, 0, "app");
            assert!((1..20).all(|n| decide(&by_workspace, &name, n, "app") == first));
            seen.insert(first);
        }
        assert_eq!(seen.len(), 2);
    }

    proptest! {
        #[test]
        fn stars_stand_for_anything(parts in prop::collection::vec("[ab]{0,3}", 1..5), gaps in prop::collection::vec("[ab]{0,3}", 5)) {
            let pattern = parts.join("*");
            let text: String = parts.iter().zip(&gaps).enumerate()
                .flat_map(|(n, (part, gap))| [if n == 0 { "" } else { gap.as_str() }, part.as_str()])
                .collect();
            prop_assert!(is_like(&text, &pattern));
            let (longer, other) = (format!("{text}c"), format!("{pattern}a"));
            prop_assert!(!is_like(&longer, &other));
        }
    }
}
