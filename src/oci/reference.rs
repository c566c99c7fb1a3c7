//! `Reference`: the name of an image in a registry, by the rules of the distribution project
//! (reference grammar and Docker Hub normalisation; CONTRACT B.1).
//!
//! Taken apart by hand: oci-client does so with one regular expression, and compiling that takes
//! longer than all else that an archive of known layers does. It is the measure in the tests; on
//! top of its grammar are limits, IPv6 hosts and all of Docker Hub's names. Parsed once, trusted
//! afterwards: every part is safe to put into a URL path.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The grammar, for documents.
mod pattern;

pub use pattern::{MAX_SOURCE, pattern};

/// The canonical name of Docker Hub (CONTRACT B.1).
pub const DOCKER_HUB: &str = "index.docker.io";
/// Every name Docker Hub goes by.
const DOCKER_HUB_NAMES: [&str; 3] = [DOCKER_HUB, "docker.io", "registry-1.docker.io"];
pub(super) const DEFAULT_TAG: &str = "latest";
const MAX_TEXT: usize = 1024;
const MAX_TAG: usize = 128;
const BAD_DIGEST: &str = "its digest is not sha256: and 64 hex digits";

/// `registry/repository[:tag][@digest]`; at least one of tag and digest is there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not a [`Reference`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an image reference: {reason}")]
pub struct InvalidReference {
    /// The text, cut to 300 characters.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Reference {
    /// `host[:port]`, lower case; Docker Hub is always [`DOCKER_HUB`].
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path in the registry, such as `library/alpine`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` when the text had neither tag nor digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same name, of the image with this digest whatever the tag means.
    #[must_use]
    pub fn at(self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self }
    }

    /// The image that an archive's storage info points to (CONTRACT A.9, B.1, K): `reference` is
    /// a digest, a tag, or `tag@digest`.
    pub fn from_stored(
        registry: &str,
        repository: &str,
        reference: &str,
    ) -> Result<Self, InvalidReference> {
        let separator = if reference.starts_with("sha256:") { '@' } else { ':' };
        format!("{registry}/{repository}{separator}{reference}").parse()
    }
}

/// One name for each registry: lower case, and one for Docker Hub's several.
pub fn normalise_registry(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    if DOCKER_HUB_NAMES.contains(&host.as_str()) { DOCKER_HUB.to_owned() } else { host }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        parse(text)
            .map_err(|reason| InvalidReference { text: text.chars().take(300).collect(), reason })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.len() > MAX_TEXT || !text.is_ascii() {
        return Err("it is longer than 1024 bytes or not in ASCII");
    }
    if text.is_empty() {
        return Err("it is empty");
    }
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (named, Some(digest.parse().map_err(|_| BAD_DIGEST)?)),
        None => (text, None),
    };
    // A colon before a slash has a port behind it.
    let (name, tag) = match named.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
        Some((name, tag)) => (name, Some(tag)),
        None => (named, digest.is_none().then_some(DEFAULT_TAG)),
    };
    let (registry, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => {
            (normalise_registry(host), path)
        }
        _ => (DOCKER_HUB.to_owned(), name),
    };
    if !is_host(&registry) {
        return Err("its registry is not a host name or [IPv6 address] with an optional port");
    }
    if !path.split('/').all(is_component) || !tag.is_none_or(is_tag) {
        return Err(
            "expected [host[:port]/]repository[:tag][@digest] with the repository in lower case",
        );
    }
    let repository = if registry == DOCKER_HUB && !path.contains('/') {
        format!("library/{path}")
    } else {
        path.to_owned()
    };
    Ok(Reference { registry, repository, tag: tag.map(str::to_owned), digest })
}

/// `domain` of the grammar; an IPv6 address in brackets may stand for the name.
fn is_host(registry: &str) -> bool {
    let bracketed = registry.strip_prefix('[').and_then(|host| host.split_once(']'));
    let (is_named, port) = if let Some((address, port)) = bracketed {
        (address.parse::<Ipv6Addr>().is_ok(), port)
    } else {
        let (name, port) = registry.split_at(registry.find(':').unwrap_or(registry.len()));
        (name.split('.').all(is_label), port)
    };
    is_named && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

/// `domain-component` of the grammar.
fn is_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Ports have 16 bits; the number's own parser would take a sign.
fn is_port(port: &str) -> bool {
    port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// `path-component` of the grammar: words of small letters and digits, and between them one dot,
/// one or two underscores, or any number of hyphens.
fn is_component(component: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = [component.bytes().next(), component.bytes().next_back()];
    ends.iter().all(|end| end.is_some_and(is_word))
        && component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).all(
            |separator| {
                matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
            },
        )
}

/// `tag` of the grammar.
fn is_tag(tag: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Reference {
    type Error = InvalidReference;

    fn try_from(text: String) -> Result<Self, InvalidReference> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    #[test]
    fn normalises() {
        for (text, normal) in [
            ("alpine", "index.docker.io/library/alpine:latest"),
            ("alpine:3.20", "index.docker.io/library/alpine:3.20"),
            ("bitnami/redis", "index.docker.io/bitnami/redis:latest"),
            ("docker.io/alpine", "index.docker.io/library/alpine:latest"),
            ("docker.io/library/alpine", "index.docker.io/library/alpine:latest"),
            ("registry-1.docker.io/a/b/c", "index.docker.io/a/b/c:latest"),
            ("INDEX.docker.io/alpine", "index.docker.io/library/alpine:latest"),
            ("test.com:5000", "index.docker.io/library/test.com:5000"),
            ("test:5000/repo", "test:5000/repo:latest"),
            ("localhost/repo", "localhost/repo:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            ("Registry:80/repo", "registry:80/repo:latest"),
            ("[::1]:5000/repo", "[::1]:5000/repo:latest"),
            ("[2001:db8::7]/repo:t", "[2001:db8::7]/repo:t"),
            ("[2001:DB8::7]:80/a/b", "[2001:db8::7]:80/a/b:latest"),
            ("ghcr.io/o/r__x/y-z.a:T_1.2-3", "ghcr.io/o/r__x/y-z.a:T_1.2-3"),
            ("a--b/c---d", "index.docker.io/a--b/c---d:latest"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), normal, "{text}");
        }
        let pinned: Reference = format!("host:1/r:t@sha256:{HEX}").parse().unwrap();
        assert_eq!((pinned.tag(), pinned.digest().unwrap().hex()), (Some("t"), HEX.to_owned()));
        let bare: Reference = format!("r@sha256:{HEX}").parse().unwrap();
        assert_eq!(bare.tag(), None);
    }

    #[test]
    fn refuses() {
        let long = "a".repeat(1025);
        for text in [
            "",
            ":",
            "@",
            "/",
            "a//b",
            "/a",
            "a/",
            "A",
            "user/Name",
            "Registry/repo",
            "a:",
            "a:-x",
            "a: ",
            "a b",
            "a/b:c/d",
            "host:0/a",
            "host:65536/a",
            "host:+1/a",
            "host:/a",
            "ho_st.com/a",
            "-host.com/a",
            "[::1/a",
            "[::g]/a",
            "[::1]x/a",
            "http://host/a",
            "a@sha256:1234",
            "a@sha512:00",
            "a___b",
            "a._b",
            "-a",
            "a/../b",
            "host.com/a?b",
            "é",
            "a:é",
            "a:b\n",
            "a.b_c/d",
            "[::1]",
            "[::1]:5000",
            "[::1]x.y/a",
            "[::1]:0/a",
            long.as_str(),
            &format!("a:{}", "t".repeat(129)),
            &format!("a@sha256:{HEX}@sha256:{HEX}"),
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }

    /// What oci-client makes of a text, but for what its grammar takes too much of and for Docker
    /// Hub's other names.
    fn by_oci_client(text: &str) -> Option<String> {
        let parsed: oci_client::Reference = text.parse().ok()?;
        let registry = normalise_registry(parsed.registry());
        let port = registry.split_once(':').map(|(_, port)| port.parse::<u16>());
        let mut repository = parsed.repository().to_owned();
        if registry == DOCKER_HUB && !repository.contains('/') {
            repository.insert_str(0, "library/");
        }
        let taken = !registry.contains('_')
            && port.is_none_or(|port| port.is_ok_and(|port| port > 0))
            && !repository.contains(|c: char| c.is_ascii_uppercase())
            && parsed.digest().is_none_or(|digest| digest.parse::<Digest>().is_ok());
        let tag = parsed.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = parsed.digest().map(|digest| format!("@{digest}")).unwrap_or_default();
        taken.then(|| format!("{registry}/{repository}{tag}{digest}"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn agrees_with_oci_client(
            text in prop_oneof![
                // Short texts of few letters hit every rule of the grammar, and miss it by one.
                "[aB0._:/-]{0,9}",
                "(localhost|docker.io|a.b|A-b.c|a_b.c|-a.b|a)(:[0-9]{0,5})?/[ab./_-]{1,6}(:[aB._-]{0,3})?",
                "[a-z]{1,3}(:[a-z]{1,2})?@(sha256|sha512|sha)(:|)([0-9a-f]{64}|[0-9A-F]{64}|[0-9a-f]{63})",
            ]
        ) {
            let ours = text.parse::<Reference>().ok().map(|reference| reference.to_string());
            prop_assert_eq!(ours, by_oci_client(&text));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn valid_references_round_trip(
            text in "([a-z0-9]{1,5}(\\.[a-zA-Z0-9]{1,4}){1,2}(:[1-9][0-9]{0,3})?/)?[a-z0-9]{1,6}([._-][a-z0-9]{1,3})?(/[a-z0-9]{1,4}){0,2}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,9})?(@sha256:[0-9a-f]{64})?"
        ) {
            let reference: Reference = text.parse().unwrap();
            prop_assert_eq!(reference.to_string().parse(), Ok(reference));
        }

        #[test]
        fn whatever_parses_round_trips(text in "[a-zA-Z0-9./:@_\\[\\]-]{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse(), Ok(reference));
            }
        }

        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = text.parse::<Reference>();
        }
    }
}
