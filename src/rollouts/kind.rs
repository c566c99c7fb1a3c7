//! Kinds of jobs by their names, so that a rule can be about kinds that a later version brings.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The longest name there may be, in bytes.
const MAX: usize = 32;

/// A kind of jobs, such as `pull`; one that this version does not know matches nothing yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[a-z][a-z0-9_]{0,31}$", examples("pull"))]
pub struct KindName(String);

/// The text is not a [`KindName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no kind of jobs: expected 1 to 32 lowercase letters, digits and '_', a letter first, \
     such as pull"
)]
pub struct InvalidKindName {
    text: String,
}

impl KindName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KindName {
    type Err = InvalidKindName;

    fn from_str(text: &str) -> Result<Self, InvalidKindName> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let named = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
        if named && text.len() <= MAX && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidKindName { text: text.chars().take(100).collect() })
        }
    }
}

impl TryFrom<String> for KindName {
    type Error = InvalidKindName;

    fn try_from(text: String) -> Result<Self, InvalidKindName> {
        text.parse()
    }
}

impl From<KindName> for String {
    fn from(kind: KindName) -> Self {
        kind.0
    }
}

impl fmt::Display for KindName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::job::JobKind;

    #[test]
    fn every_kind_has_such_a_name_and_not_every_text_is_one() {
        for kind in JobKind::ALL {
            assert_eq!(kind.as_str().parse::<KindName>().unwrap().as_str(), kind.as_str());
        }
        let long = "a".repeat(33);
        for text in ["", "Pull", "1st", "pull ", "_", "a-b", &long] {
            assert!(text.parse::<KindName>().is_err(), "{text:?}");
        }
    }
}
