//! Keys as tags. A tag has fewer characters than a key, and may be shorter (distribution-spec 1.1,
//! "Pulling manifests": `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`): an underscore stands before what stands for
//! something else, and of a key that doesn't fit its digest is left.

use crate::digest::Digest;
use crate::store::Key;

const MAX: usize = 128;

/// The tag of a key.
pub(super) fn of(key: &Key) -> String {
    let mut tag = String::with_capacity(key.as_str().len() + 4);
    for character in key.as_str().chars() {
        match character {
            '/' => tag.push_str("_-"),
            '_' => tag.push_str("__"),
            '-' if tag.is_empty() => tag.push_str("_."),
            other => tag.push(other),
        }
    }
    if tag.len() <= MAX { tag } else { format!("_h{}", Digest::of(key.as_str().as_bytes()).hex()) }
}

/// The key of a tag, if the tag is one of a key and not of a digest of one.
pub(super) fn key(tag: &str) -> Option<Key> {
    let mut text = String::with_capacity(tag.len());
    let mut characters = tag.chars();
    while let Some(character) = characters.next() {
        text.push(match character {
            '_' => match characters.next()? {
                '-' => '/',
                '_' => '_',
                '.' => '-',
                _ => return None,
            },
            other => other,
        });
    }
    text.parse().ok().filter(|key| of(key) == tag)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_archive_is_tagged_by_its_name() {
        for (name, expected) in [
            ("961eaef6668e480f.clip", "961eaef6668e480f.clip"),
            ("kept/a.v1-00.clip", "kept_-a.v1-00.clip"),
            ("-a_b", "_.a__b"),
        ] {
            assert_eq!(of(&name.parse().unwrap()), expected);
        }
        let long: Key = "a/".repeat(127).trim_end_matches('/').parse().unwrap();
        assert_eq!(of(&long).len(), 66);
        assert_eq!(key(&of(&long)), None);
        // Others' tags are none of ours where they mean nothing.
        assert_eq!(key("a_b"), None);
        assert_eq!(key("_"), None);
    }

    proptest! {
        #[test]
        fn every_key_has_its_own_tag(text in "[a0._/-]{1,40}") {
            if let Ok(named) = text.parse::<Key>() {
                let tag = of(&named);
                prop_assert!(tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'));
                prop_assert!(tag.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)));
                prop_assert_eq!(key(&tag), Some(named));
            }
        }
    }
}
