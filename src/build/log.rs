//! What a build says: a line each, with the step that it belongs to, and no secret in it.

use std::time::Duration;

use async_trait::async_trait;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a line comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output, of the builder or of what it runs.
    #[serde(rename = "stdout")]
    Output,
    /// Standard error.
    #[serde(rename = "stderr")]
    Errors,
    /// The service itself.
    #[serde(rename = "service")]
    Service,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// The step of the Dockerfile that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepNumber>,
    /// Where it comes from.
    pub stream: Stream,
    /// Without its end.
    pub text: String,
}

/// Names a step: a stage, and an instruction in it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
pub struct StepNumber {
    /// Counts from 1.
    pub stage: u32,
    /// Counts from 1 within the stage; `FROM` is the first.
    pub step: u32,
    /// The Dockerfile's line.
    pub line: u32,
}

/// Takes the lines of a build.
#[async_trait]
pub trait LogSink: Send + Sync {
    /// Takes one; what it does with it may take a while, and the build waits for it.
    async fn write(&self, line: LogLine);

    /// The builder has been silent for this long since its last line.
    async fn silence(&self, since_start: Duration);
}

/// The shortest part of a secret that is looked for, in bytes: shorter ones stand everywhere.
const SHORTEST: usize = 4;
/// What stands where a secret was.
const MASK: &str = "***";

/// Replaces what must not be read.
#[derive(Debug, Clone, Default)]
pub struct Mask(Vec<SecretString>);

impl Mask {
    /// Of whole values, and of each line of those that have several. Values shorter than four bytes are
    /// left alone.
    pub fn of<'a>(secrets: impl IntoIterator<Item = &'a SecretString>) -> Self {
        let mut parts: Vec<&str> = Vec::new();
        for secret in secrets {
            let text = secret.expose_secret();
            parts.push(text);
            parts.extend(text.lines().map(str::trim));
        }
        parts.retain(|part| part.len() >= SHORTEST);
        // What is a part of another goes after it.
        parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
        parts.dedup();
        Self(parts.into_iter().map(SecretString::from).collect())
    }

    /// The text without them.
    pub fn apply(&self, text: String) -> String {
        self.0.iter().fold(text, |text, secret| {
            let secret = secret.expose_secret();
            if text.contains(secret) { text.replace(secret, MASK) } else { text }
        })
    }

    /// Whether there is nothing to mask.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_masked_whole_and_line_by_line() {
        let secrets = ["hunter22", "hunter22-and-more", "first line\nsecond line\n", "abc", ""];
        let secrets = secrets.map(SecretString::from);
        let mask = Mask::of(&secrets);
        for (text, masked) in [
            ("a hunter22 b hunter22", "a *** b ***"),
            ("hunter22-and-more", "***"),
            ("> second line", "> ***"),
            ("abc", "abc"),
        ] {
            assert_eq!(mask.apply(text.to_owned()), masked);
        }
        assert!(Mask::of([]).is_empty());
    }
}
