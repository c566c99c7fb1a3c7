//! `ImageSource`: the name of an image that is in a registry or in a directory.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::oci::reference::{InvalidReference, Reference};

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// In a registry.
    Registry(Reference),
    /// In an OCI layout directory.
    Layout {
        /// The directory.
        dir: PathBuf,
        /// The image's name in `index.json`; not needed when there is but one.
        tag: Option<String>,
        /// Where readers of the archive will find the image.
        published_as: Option<Reference>,
    },
}

/// `oci:DIRECTORY[:TAG]`, split at the first colon as skopeo does, or a [`Reference`].
impl FromStr for ImageSource {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let Some(rest) = text.strip_prefix("oci:") else {
            return text.parse().map(Self::Registry);
        };
        let (directory, tag) = match rest.split_once(':') {
            None => (rest, None),
            Some((directory, tag)) => (directory, Some(tag)),
        };
        let reason = if directory.is_empty() {
            "oci: needs a directory"
        } else if tag.is_some_and(str::is_empty) {
            "its tag is empty"
        } else {
            let (dir, tag) = (directory.into(), tag.map(str::to_owned));
            return Ok(Self::Layout { dir, tag, published_as: None });
        };
        Err(InvalidReference { text: text.chars().take(300).collect(), reason })
    }
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => reference.fmt(f),
            Self::Layout { dir, tag, .. } => {
                write!(f, "oci:{}", dir.display())?;
                tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_both_kinds() {
        for (text, normal) in [
            ("alpine", "index.docker.io/library/alpine:latest"),
            ("oci:dir", "oci:dir"),
            ("oci:/a/b:latest", "oci:/a/b:latest"),
            ("oci:/a/b:docker.io/x:1", "oci:/a/b:docker.io/x:1"),
        ] {
            let source: ImageSource = text.parse().unwrap();
            assert_eq!(source.to_string(), normal);
            assert_eq!(normal.parse(), Ok(source));
        }
        for text in ["oci:", "oci::tag", "oci:dir:", ""] {
            assert!(text.parse::<ImageSource>().is_err(), "{text:?}");
        }
    }
}
