//! The name of a git context, as docker writes it: `https://host/repository#reference:directory`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use reqwest::Url;
use serde::{Deserialize, Serialize};

/// Bytes of a name at most.
const MAX: usize = 2048;

/// A directory of a commit of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GitContext {
    url: Url,
    reference: Option<String>,
    directory: Option<String>,
}

/// A text is no [`GitContext`]. It is not quoted: there may be credentials in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is no git context: {reason}")]
pub struct InvalidGitContext {
    /// What is wrong.
    pub reason: &'static str,
}

impl GitContext {
    /// [`GitContext`] as a regular expression (ECMA 262), for documents.
    pub const PATTERN: &str = r"^https://([a-z0-9]([a-z0-9-]*[a-z0-9])?[.])*[a-z]([a-z0-9-]*[a-z0-9])?(:[1-9][0-9]{0,3})?(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+(#[A-Za-z0-9][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*(:[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)?)?$";

    /// The repository's address, which has no credentials in it.
    pub fn repository(&self) -> &str {
        self.url.as_str()
    }

    /// `https`, or on this machine `http`.
    pub fn scheme(&self) -> &str {
        self.url.scheme()
    }

    /// The repository's host; an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// Whether that is this machine.
    pub fn is_here(&self) -> bool {
        is_here(self.host())
    }

    /// The port there.
    pub fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or(443)
    }

    /// The branch, tag or commit; the repository's own choice when absent.
    pub fn reference(&self) -> Option<&str> {
        self.reference.as_deref()
    }

    /// The directory in it that is the context.
    pub fn directory(&self) -> Option<&str> {
        self.directory.as_deref()
    }
}

impl FromStr for GitContext {
    type Err = InvalidGitContext;

    fn from_str(text: &str) -> Result<Self, InvalidGitContext> {
        let wrong = |reason| InvalidGitContext { reason };
        if text.len() > MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong(
                "it has more than 2048 bytes, or others than visible ASCII characters",
            ));
        }
        let (address, fragment) = text.split_once('#').unwrap_or((text, ""));
        let url: Url = address.parse().map_err(|_| wrong("its address can't be understood"))?;
        let is_here = is_here(url.host_str().unwrap_or_default());
        if url.scheme() != "https" && !(url.scheme() == "http" && is_here) {
            return Err(wrong("expected https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("credentials belong into git_credentials"));
        }
        if url.query().is_some() || matches!(url.path(), "" | "/") {
            return Err(wrong("expected a repository's path, and no query"));
        }
        let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
        if !reference.is_empty() && !is_reference(reference) {
            return Err(wrong("behind the # there is no branch, tag or commit"));
        }
        if !directory.is_empty() && !is_directory(directory) {
            return Err(wrong("behind the : there is no directory of the repository"));
        }
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Ok(Self { url, reference: some(reference), directory: some(directory) })
    }
}

fn is_here(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || literal.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A name that means nothing else to git (git-check-ref-format, and what begins refspecs and options).
fn is_reference(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._/@+-".contains(&byte);
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && !part.ends_with('.')
            && part.strip_suffix(".lock").is_none()
    };
    name.bytes().all(plain)
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && !name.contains("..")
        && name.split('/').all(is_part)
}

/// A path that stays in the repository.
fn is_directory(path: &str) -> bool {
    path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

impl fmt::Display for GitContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.as_str())?;
        if self.reference.is_some() || self.directory.is_some() {
            write!(f, "#{}", self.reference.as_deref().unwrap_or_default())?;
        }
        match &self.directory {
            Some(directory) => write!(f, ":{directory}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for GitContext {
    type Error = InvalidGitContext;

    fn try_from(text: String) -> Result<Self, InvalidGitContext> {
        text.parse()
    }
}

impl From<GitContext> for String {
    fn from(context: GitContext) -> Self {
        context.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_has_three_parts() {
        let name: GitContext = "https://Git.Example:8443/a/b.git#v1.2:sub/dir".parse().unwrap();
        assert_eq!(name.repository(), "https://git.example:8443/a/b.git");
        assert_eq!((name.reference(), name.directory()), (Some("v1.2"), Some("sub/dir")));
        assert_eq!((name.host(), name.port()), ("git.example", 8443));
        let name: GitContext = "https://git.example/a#:sub".parse().unwrap();
        assert_eq!((name.reference(), name.directory()), (None, Some("sub")));
        assert_eq!(name.to_string(), "https://git.example/a#:sub");
        assert_eq!("http://127.0.0.1:1/a".parse::<GitContext>().unwrap().scheme(), "http");
    }

    #[test]
    fn what_means_something_else_to_git_is_refused() {
        for bad in [
            "",
            "git.example/a",
            "http://git.example/a",
            "ssh://git@git.example/a",
            "ext::sh -c id",
            "file:///etc",
            "https://git.example",
            "https://git.example/a?b=c",
            "https://git.example/a#-x",
            "https://git.example/a#--upload-pack=id",
            "https://git.example/a#+main",
            "https://git.example/a#a..b",
            "https://git.example/a#*",
            "https://git.example/a#^main",
            "https://git.example/a#main:../x",
            "https://git.example/a#main:/etc",
            "https://git.example/a#main:a//b",
            "https://git.example/a b",
            "https://git.example/a#m\nx",
        ] {
            assert!(bad.parse::<GitContext>().is_err(), "{bad}");
        }
        let error = "https://user:hunter2@git.example/a".parse::<GitContext>().unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    proptest! {
        #[test]
        fn a_name_leads_back(text in "https://[a-z]{1,5}(/[a-z.]{1,4}){1,2}(#[a-z0-9./-]{0,6}(:[a-z./-]{0,6})?)?") {
            if let Ok(name) = text.parse::<GitContext>() {
                prop_assert_eq!(name.to_string().parse::<GitContext>(), Ok(name));
            }
        }
    }
}
