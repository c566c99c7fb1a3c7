//! `ImageId`: the gateway's name of an image (CONTRACT section 0).
//!
//! It names the image's archive in the store. We never choose one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The gateway's name of an image: 16 lowercase hex digits (CONTRACT section 0).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[0-9a-f]{16}$", examples("961eaef6668e480f"))]
pub struct ImageId(String);

/// Why a text is not an [`ImageId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an image id: expected 16 lowercase hex digits")]
pub struct InvalidImageId {
    /// The text, cut to 100 characters.
    pub text: String,
}

impl ImageId {
    /// The 16 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageId {
    type Err = InvalidImageId;

    fn from_str(text: &str) -> Result<Self, InvalidImageId> {
        let hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if hex && text.len() == 16 {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidImageId { text: text.chars().take(100).collect() })
        }
    }
}

impl From<u64> for ImageId {
    fn from(hash: u64) -> Self {
        Self(format!("{hash:016x}"))
    }
}

impl TryFrom<String> for ImageId {
    type Error = InvalidImageId;

    fn try_from(text: String) -> Result<Self, InvalidImageId> {
        text.parse()
    }
}

impl From<ImageId> for String {
    fn from(id: ImageId) -> Self {
        id.0
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_sixteen_lowercase_hex_digits_and_nothing_else() {
        let id: ImageId = "961eaef6668e480f".parse().unwrap();
        assert_eq!(id.to_string(), "961eaef6668e480f");
        for text in
            ["", "961eaef6668e480", "961eaef6668e480f0", "961EAEF6668E480F", "../../etc/passwd"]
        {
            assert!(text.parse::<ImageId>().is_err(), "{text:?}");
        }
    }
}
