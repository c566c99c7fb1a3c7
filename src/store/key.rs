//! `Key`: the name of an object in a store, and which key an image's archive has (CONTRACT
//! section C).
//!
//! A key is a relative path that is safe both as a file name and as an S3 key, so that no backend
//! needs to escape or to check anything.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::image_id::ImageId;

/// An object's name: 1 to 255 characters of `[0-9a-zA-Z._/-]`; no part between slashes is empty
/// or starts with a dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

/// Why a text is not a [`Key`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a store key: expected 1 to 255 characters of 0-9 a-z A-Z . _ / - without \
     empty parts or parts that start with a dot"
)]
pub struct InvalidKey {
    /// The text, cut to 100 characters.
    pub text: String,
}

impl Key {
    const MAX_LEN: usize = 255;

    /// The archive of `image` in a store whose archives end in `extension`: `<image_id>.<ext>`.
    pub fn archive(image: &ImageId, extension: &'static str) -> Self {
        Self(format!("{image}.{extension}"))
    }

    /// What the keys of all archives that migrations keep begin with.
    pub const KEPT: &str = "kept/";

    /// What the keys of archives begin with that migrations of `image` kept.
    pub fn kept_prefix(image: &ImageId, version: u8) -> String {
        format!("{}{image}.v{version}-", Self::KEPT)
    }

    /// An archive of another version that `image` had before it was migrated, by its content.
    pub fn kept(image: &ImageId, version: u8, digest: Digest, extension: &'static str) -> Self {
        let (prefix, digest) = (Self::kept_prefix(image, version), digest.hex());
        Self(format!("{prefix}{}.{extension}", &digest[..16]))
    }

    /// What the keys of archives begin with that nobody may see yet.
    pub const STAGED: &str = "staged/";

    /// Where an archive of `image` is made that nobody may see yet.
    pub fn staged(image: &ImageId, extension: &'static str) -> Self {
        Self(format!("{}{image}.{extension}", Self::STAGED))
    }

    /// What the keys of all contexts of builds begin with.
    pub const CONTEXTS: &str = "context/";

    /// The context of a build, by the digest of the bytes that were sent. A dot is in no workspace's
    /// name.
    pub fn context(workspace: &crate::workspace::WorkspaceId, digest: Digest) -> Self {
        Self(Self::contexts_of(workspace) + &digest.hex())
    }

    /// What the keys of a workspace's contexts begin with.
    pub fn contexts_of(workspace: &crate::workspace::WorkspaceId) -> String {
        format!("{}{workspace}.", Self::CONTEXTS)
    }

    /// What the keys of all layer indexes begin with.
    pub const LAYER_INDEXES: &str = "layer-index/";

    /// The index of a layer; `request` says how the layer was read.
    pub fn layer_index(layer: Digest, request: Digest) -> Self {
        let request = &request.hex()[..16];
        Self(format!("{}{}-{request}", Self::LAYER_INDEXES, layer.hex()))
    }

    /// The image whose archive or archive's data this is, and the extension.
    pub fn of_image(&self) -> Option<(ImageId, &str)> {
        let (image, extension) = self.0.split_once('.')?;
        matches!(extension, "clip" | "rclip").then_some(())?;
        Some((image.parse().ok()?, extension))
    }

    /// The image of whose archives this is one that a migration kept, and its version.
    pub fn of_kept(&self) -> Option<(ImageId, u8)> {
        let (image, rest) = self.0.strip_prefix(Self::KEPT)?.split_once(".v")?;
        let (version, _) = rest.split_once('-')?;
        Some((image.parse().ok()?, version.parse().ok()?))
    }

    /// Whether this is the index of a layer.
    pub fn is_layer_index(&self) -> bool {
        self.0.starts_with(Self::LAYER_INDEXES)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Key {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'/' | b'-');
        if (1..=Self::MAX_LEN).contains(&text.len())
            && text.bytes().all(legal)
            && text.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
        {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidKey { text: text.chars().take(100).collect() })
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_archive_is_named_by_its_image_and_the_store_alone() {
        let image: ImageId = "961eaef6668e480f".parse().unwrap();
        assert_eq!(Key::archive(&image, "rclip").as_str(), "961eaef6668e480f.rclip");
        assert_eq!(Key::archive(&image, "clip").as_str(), "961eaef6668e480f.clip");
        assert_eq!(Key::archive(&image, "clip").of_image(), Some((image, "clip")));
        for other in
            ["961eaef6668e480f.tar", "961eaef6668e480f", "x.clip", "a/961eaef6668e480f.clip"]
        {
            assert_eq!(other.parse::<Key>().unwrap().of_image(), None, "{other}");
        }
        let image: ImageId = "961eaef6668e480f".parse().unwrap();
        let kept = Key::kept(&image, 2, Digest::of(b"archive"), "rclip");
        assert!(kept.as_str().starts_with(&Key::kept_prefix(&image, 2)));
        assert_eq!((kept.of_kept(), kept.of_image()), (Some((image.clone(), 2)), None));
        assert_eq!(Key::archive(&image, "clip").of_kept(), None);
        let (layer, request) = (Digest::of(b"layer"), Digest::of(b"request"));
        let key = Key::layer_index(layer, request);
        assert!(key.is_layer_index() && key.as_str().parse::<Key>().is_ok());
    }

    #[test]
    fn refuses_what_could_leave_the_store() {
        for text in ["a", "a.clip", "layer-index/sha256/ab_c.1", "a..b"] {
            assert!(text.parse::<Key>().is_ok(), "{text:?}");
        }
        let long = "a".repeat(256);
        for text in [
            "", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "a/./b", ".tmp-x", "a b",
            "a\0", "a\\b", "a%2e", "ä", &long,
        ] {
            assert!(text.parse::<Key>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_key_stays_inside(text in "[a./_-]{0,12}|\\PC{0,12}") {
            if let Ok(key) = text.parse::<Key>() {
                let normal = |c| matches!(c, Component::Normal(_));
                prop_assert!(Path::new(key.as_str()).components().all(normal));
                prop_assert_eq!(key.to_string(), text);
            }
        }
    }
}
