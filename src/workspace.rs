//! `WorkspaceId`: a tenant's name. Everything that a tenant makes belongs to its workspace.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The longest name there may be, in bytes.
const MAX: usize = 64;

/// A tenant: lowercase letters, digits, `-` and `_`, at most 64 of them, a letter or digit first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[a-z0-9][a-z0-9_-]{0,63}$", examples("default"))]
pub struct WorkspaceId(String);

/// The text is not a [`WorkspaceId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a workspace: expected 1 to 64 lowercase letters, digits, '-' and '_', a letter \
     or digit first"
)]
pub struct InvalidWorkspaceId {
    /// The text, cut to 100 characters.
    pub text: String,
}

impl WorkspaceId {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The workspace of those who name none.
impl Default for WorkspaceId {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl FromStr for WorkspaceId {
    type Err = InvalidWorkspaceId;

    fn from_str(text: &str) -> Result<Self, InvalidWorkspaceId> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let named = text.bytes().next().is_some_and(plain)
            && text.bytes().all(|byte| plain(byte) || matches!(byte, b'-' | b'_'))
            && text.len() <= MAX;
        if named {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidWorkspaceId { text: text.chars().take(100).collect() })
        }
    }
}

impl TryFrom<String> for WorkspaceId {
    type Error = InvalidWorkspaceId;

    fn try_from(text: String) -> Result<Self, InvalidWorkspaceId> {
        text.parse()
    }
}

impl From<WorkspaceId> for String {
    fn from(id: WorkspaceId) -> Self {
        id.0
    }
}

impl fmt::Display for WorkspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_workspaces() {
        for good in ["default", "a", "0", "team-1_x", &"a".repeat(MAX)] {
            assert_eq!(good.parse::<WorkspaceId>().unwrap().as_str(), good);
        }
        assert_eq!(WorkspaceId::default().to_string().parse(), Ok(WorkspaceId::default()));
        for bad in ["", "-a", "_a", "A", "a b", "a/b", "ä", "a\0", &"a".repeat(MAX + 1)] {
            assert!(bad.parse::<WorkspaceId>().is_err(), "{bad}");
        }
    }
}
