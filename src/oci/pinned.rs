//! `PinnedReference`: an image as an archive points to it.

use std::fmt;

use std::str::FromStr;

use crate::digest::Digest;
use crate::oci::reference::{DEFAULT_TAG, Reference};

/// How a pinned image is written into an archive (CONTRACT K).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReferenceForm {
    /// `sha256:...`; readers from May 2026 on.
    #[default]
    Digest,
    /// `tag@sha256:...`; older readers too.
    TagAndDigest,
}

/// Why a text is not a [`ReferenceForm`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected digest or tag-and-digest")]
pub struct InvalidReferenceForm;

impl FromStr for ReferenceForm {
    type Err = InvalidReferenceForm;

    fn from_str(text: &str) -> Result<Self, InvalidReferenceForm> {
        match text {
            "digest" => Ok(Self::Digest),
            "tag-and-digest" => Ok(Self::TagAndDigest),
            _ => Err(InvalidReferenceForm),
        }
    }
}

impl fmt::Display for ReferenceForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Digest => "digest",
            Self::TagAndDigest => "tag-and-digest",
        })
    }
}

/// An image named by the digest of its platform manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedReference {
    /// `host[:port]`; Docker Hub is `index.docker.io`.
    pub registry: String,
    /// The path in the registry.
    pub repository: String,
    /// The tag it was asked for by.
    pub tag: Option<String>,
    /// Digest of the platform manifest.
    pub digest: Digest,
}

impl PinnedReference {
    /// Pins `reference` to a platform manifest.
    pub fn new(reference: &Reference, digest: Digest) -> Self {
        Self {
            registry: reference.registry().to_owned(),
            repository: reference.repository().to_owned(),
            tag: reference.tag().map(str::to_owned),
            digest,
        }
    }

    /// The value of the storage info's `Reference` field.
    ///
    /// An image that was asked for by digest alone has no tag; [`ReferenceForm::TagAndDigest`]
    /// then says `latest`, which readers ignore in favour of the digest.
    pub fn stored(&self, form: ReferenceForm) -> String {
        match form {
            ReferenceForm::Digest => self.digest.to_string(),
            ReferenceForm::TagAndDigest => {
                format!("{}@{}", self.tag.as_deref().unwrap_or(DEFAULT_TAG), self.digest)
            }
        }
    }
}

/// `registry/repository@digest`, without the tag: that may point elsewhere tomorrow.
impl fmt::Display for PinnedReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.registry, self.repository, self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::reference::DOCKER_HUB;

    #[test]
    fn stored_forms() {
        let digest = Digest::of(b"manifest");
        let pinned = PinnedReference::new(&"host/r:t".parse().unwrap(), digest);
        assert_eq!(pinned.stored(ReferenceForm::Digest), digest.to_string());
        assert_eq!(pinned.stored(ReferenceForm::TagAndDigest), format!("t@{digest}"));
        for form in [ReferenceForm::Digest, ReferenceForm::TagAndDigest] {
            let stored = pinned.stored(form);
            let again = Reference::from_stored("docker.io", "library/r", &stored).unwrap();
            assert_eq!(again.digest(), Some(digest));
            assert_eq!(again.registry(), DOCKER_HUB);
        }
        let tagged = Reference::from_stored("h:5000", "r", "v1").unwrap();
        assert_eq!(tagged.to_string(), "h:5000/r:v1");
    }
}
