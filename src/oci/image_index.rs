//! Indexes: which images there are under one name (OCI image-spec 1.1, "Image Index"; Docker's
//! manifest list).
//!
//! An entry that can't be read costs nobody else anything: it is an error only for those who want
//! just that one.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::digest::{Digest, InvalidDigest};
use crate::oci::descriptor::{bare, is_generic, strings};
use crate::oci::platform::{Platform, choose};

/// An entry of an index.
#[derive(Debug)]
pub(super) struct IndexEntry {
    /// What it is called, or why that can't be told. Its size is nobody's business: the digest
    /// tells all.
    pub(super) digest: Result<Digest, String>,
    /// `None` when the entry doesn't say.
    pub(super) platform: Option<Platform>,
    pub(super) annotations: BTreeMap<String, String>,
    /// Whether it may be an image or an index, as its media type says.
    is_image: bool,
}

/// The choice from an index.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) digest: Digest,
    /// What the index says that it is made for.
    pub(super) platform: Option<Platform>,
}

/// Why there is no [`Choice`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoChoice {
    /// Nothing fits; these are the platforms that there are.
    NoneFits(Vec<String>),
    /// What fits can't be read.
    Unreadable(String),
}

impl IndexEntry {
    /// `None` is an attestation: buildx stores provenance and SBOMs beside the images that they are
    /// about.
    pub(super) fn read(entry: &Value) -> Option<Self> {
        let annotations = strings(entry.get("annotations").and_then(Value::as_object));
        let part = |name: &str| {
            let part = entry.get("platform")?.get(name)?.as_str()?.trim();
            (!part.is_empty()).then_some(part)
        };
        let platform = part("os")
            .map(|os| Platform::new(os, part("architecture").unwrap_or_default(), part("variant")));
        let attestation = annotations.contains_key("vnd.docker.reference.type")
            || platform.as_ref().is_some_and(|platform| platform.os == "unknown");
        if attestation {
            return None;
        }
        let digest = entry.get("digest").and_then(Value::as_str).unwrap_or_default();
        let media_type =
            entry.get("mediaType").and_then(Value::as_str).map(bare).unwrap_or_default();
        Some(Self {
            digest: digest.parse().map_err(|error: InvalidDigest| error.to_string()),
            platform,
            annotations,
            is_image: is_generic(&media_type)
                || media_type.contains(".manifest.")
                || media_type.contains(".index."),
        })
    }
}

/// The entry for `wanted`, or the one with the digest `pinned`.
///
/// The first entry that doesn't say what it is for is taken where no other fits: its config will
/// tell. Of several that fit, those are preferred that can be read and are images.
pub(super) fn choose_entry(
    entries: &[IndexEntry],
    wanted: &Platform,
    pinned: Option<Digest>,
) -> Result<Choice, NoChoice> {
    let chosen = |entry: &IndexEntry| match &entry.digest {
        Ok(digest) => Ok(Choice { digest: *digest, platform: entry.platform.clone() }),
        Err(reason) => Err(NoChoice::Unreadable(reason.clone())),
    };
    let is = |entry: &&IndexEntry| entry.digest.as_ref().ok().copied() == pinned;
    if pinned.is_some()
        && let Some(entry) = entries.iter().find(is)
    {
        return chosen(entry);
    }
    let mut groups: [Vec<&IndexEntry>; 3] = Default::default();
    for entry in entries {
        groups[match (&entry.digest, entry.is_image) {
            (Ok(_), true) => 0,
            (Ok(_), false) => 1,
            (Err(_), _) => 2,
        }]
        .push(entry);
    }
    for group in &groups {
        let known = group.iter().filter_map(|entry| Some((entry.platform.as_ref()?, *entry)));
        if let Some(entry) = choose(wanted, known) {
            return chosen(entry);
        }
    }
    let silent = groups.iter().flatten().find(|entry| entry.platform.is_none());
    if let Some(entry) = silent {
        return chosen(entry);
    }
    let platforms = entries.iter().filter_map(|entry| entry.platform.as_ref());
    Err(NoChoice::NoneFits(platforms.map(ToString::to_string).collect()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

    fn entry(name: &str, platform: &Value) -> Value {
        json!({"mediaType": MANIFEST, "digest": Digest::of(name.as_bytes()), "size": 1, "platform": platform})
    }

    fn amd64() -> Value {
        json!({"os": "linux", "architecture": "amd64"})
    }

    fn chosen(entries: &[Value]) -> Result<Digest, NoChoice> {
        let entries: Vec<_> = entries.iter().filter_map(IndexEntry::read).collect();
        let wanted = "linux/amd64".parse().unwrap();
        choose_entry(&entries, &wanted, None).map(|choice| choice.digest)
    }

    /// Entries that nobody wants, each broken in its own way.
    fn broken() -> Vec<Value> {
        let mut entries = vec![json!(null), json!(7), json!("x"), json!([]), json!({})];
        for (field, value) in [
            ("digest", json!(format!("sha512:{}", "a".repeat(128)))),
            ("digest", json!("blake3:aa")),
            ("digest", json!("")),
            ("digest", json!(null)),
            ("digest", json!(["x"])),
            ("size", json!(-1)),
            ("size", json!("1")),
            ("size", json!(1.5)),
            ("size", json!(null)),
            ("platform", json!("linux/s390x")),
            ("platform", json!({"os": 7, "architecture": []})),
            ("annotations", json!([])),
            ("annotations", json!({"a": 1})),
            ("mediaType", json!(7)),
            ("urls", json!("x")),
        ] {
            let mut entry = entry("unwanted", &json!({"os": "linux", "architecture": "s390x"}));
            entry[field] = value;
            entries.push(entry);
        }
        entries
    }

    #[test]
    fn what_nobody_wants_may_be_broken() {
        let right = Digest::of(b"right");
        for unwanted in broken() {
            assert_eq!(
                chosen(&[unwanted.clone(), entry("right", &amd64())]),
                Ok(right),
                "{unwanted}"
            );
        }
        let mut all = broken();
        all.push(entry("right", &amd64()));
        assert_eq!(chosen(&all), Ok(right));
    }

    #[test]
    fn what_is_wanted_may_not() {
        let mut wanted = entry("x", &amd64());
        wanted["digest"] = json!(format!("sha512:{}", "a".repeat(128)));
        let error = chosen(&[
            wanted.clone(),
            entry("other", &json!({"os": "linux", "architecture": "arm64"})),
        ]);
        assert!(
            matches!(&error, Err(NoChoice::Unreadable(why)) if why.contains("sha512")),
            "{error:?}"
        );
        // But another that fits will do.
        assert_eq!(chosen(&[wanted, entry("right", &amd64())]), Ok(Digest::of(b"right")));
        let error = chosen(&[entry("x", &json!({"os": "windows", "architecture": "amd64"}))]);
        assert_eq!(error, Err(NoChoice::NoneFits(vec!["windows/amd64".to_owned()])));
        assert_eq!(chosen(&[]), Err(NoChoice::NoneFits(vec![])));
    }

    #[test]
    fn images_go_before_what_is_none() {
        let mut artifact = entry("artifact", &amd64());
        artifact["mediaType"] = json!("application/vnd.example.sbom+json");
        assert_eq!(chosen(&[artifact.clone(), entry("right", &amd64())]), Ok(Digest::of(b"right")));
        assert_eq!(chosen(&[artifact]), Ok(Digest::of(b"artifact")));
        let mut sole = entry("sole", &json!(null));
        sole.as_object_mut().unwrap().remove("mediaType");
        assert_eq!(chosen(&[sole.clone(), json!(null)]), Ok(Digest::of(b"sole")));
        // One that fits goes before one that doesn't say, whatever the order.
        assert_eq!(chosen(&[sole.clone(), entry("right", &amd64())]), Ok(Digest::of(b"right")));
        let other = entry("other", &json!({"os": "linux", "architecture": "s390x"}));
        assert_eq!(chosen(&[other, sole]), Ok(Digest::of(b"sole")));
    }

    #[test]
    fn attestations_are_no_entries() {
        let mut attestation = entry("x", &amd64());
        attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
        assert!(IndexEntry::read(&attestation).is_none());
        let unknown = json!({"os": "unknown", "architecture": "unknown"});
        assert!(IndexEntry::read(&entry("x", &unknown)).is_none());
    }

    #[test]
    fn the_pinned_one_goes_first() {
        let entries = [entry("right", &amd64()), entry("pinned", &json!(null))];
        let entries: Vec<_> = entries.iter().filter_map(IndexEntry::read).collect();
        let wanted = "linux/amd64".parse().unwrap();
        for (pinned, right) in [(b"pinned".as_slice(), b"pinned".as_slice()), (b"absent", b"right")]
        {
            let choice = choose_entry(&entries, &wanted, Some(Digest::of(pinned))).unwrap();
            assert_eq!(choice.digest, Digest::of(right));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Whatever stands around it, the wanted image is found.
        #[test]
        fn broken_entries_never_hide_the_wanted_one(
            before in proptest::collection::vec(0..20usize, 0..5),
            after in proptest::collection::vec(0..20usize, 0..5),
        ) {
            let broken = broken();
            let some = |picks: Vec<usize>| picks.into_iter().map(|pick| broken[pick].clone()).collect::<Vec<_>>();
            let mut entries = some(before);
            entries.push(entry("right", &amd64()));
            entries.extend(some(after));
            prop_assert_eq!(chosen(&entries), Ok(Digest::of(b"right")));
        }
    }
}
