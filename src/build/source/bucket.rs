//! A context that is an object of a bucket, as beta9 keeps them (CONTRACT D.1). Its address is signed for a while
//! (S3's presigned requests), and asked by a client that the egress policy guards and that follows nobody
//! elsewhere.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::error::SourceError;
use super::{FetchedContext, SourceLimits};
use crate::build::BuildError;
use crate::digest::Digest;
use crate::egress::{AddressRefused, Egress};
use crate::local::io_error;
use crate::store::{S3Settings, S3Store};

/// For how long an address is good: it is asked at once.
const SIGNED_FOR: Duration = Duration::from_mins(5);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Bytes that are read of an answer that is no object.
const MAX_PROBLEM: usize = 4 << 10;

/// A bucket, and what opens it.
#[derive(Debug, Clone)]
pub struct BucketAccess {
    /// Its name.
    pub bucket: String,
    /// Its region.
    pub region: String,
    /// Base address of a server that is not AWS.
    pub endpoint: Option<String>,
    /// Names the key.
    pub access_key: String,
    /// The secret key.
    pub secret_key: SecretString,
}

/// The name of an object in a bucket that is not ours: 1 to 1024 characters, none of control, and no part
/// between slashes that is empty, `.` or `..`, which some clients and servers take for others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectKey(String);

/// A text is no [`ObjectKey`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} names no object: expected 1 to 1024 characters, none of control, and no part that is empty, \
     \".\" or \"..\""
)]
pub struct InvalidObjectKey {
    /// The text, cut to 100 characters.
    pub text: String,
}

impl ObjectKey {
    /// [`ObjectKey`] as a regular expression (ECMA 262), for documents.
    pub const PATTERN: &str = r"^(?!\.{0,2}(/|$))(?!.*/\.{0,2}(/|$))[^\x00-\x1f\x7f-\x9f]{1,1024}$";
    const MAX: usize = 1024;

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ObjectKey {
    type Err = InvalidObjectKey;

    fn from_str(text: &str) -> Result<Self, InvalidObjectKey> {
        let is_part = |part: &str| !matches!(part, "" | "." | "..");
        let fits = text.chars().count() <= Self::MAX && !text.chars().any(char::is_control);
        if fits && text.split('/').all(is_part) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidObjectKey { text: text.chars().take(100).collect() })
        }
    }
}

impl TryFrom<String> for ObjectKey {
    type Error = InvalidObjectKey;

    fn try_from(text: String) -> Result<Self, InvalidObjectKey> {
        text.parse()
    }
}

impl From<ObjectKey> for String {
    fn from(key: ObjectKey) -> Self {
        key.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl BucketAccess {
    /// Brings an object to `file`.
    pub async fn fetch(
        &self,
        key: &ObjectKey,
        file: &Path,
        egress: Egress,
        limits: SourceLimits,
    ) -> Result<FetchedContext, BuildError> {
        let what = format!("object {key} of bucket {}", self.bucket);
        let fetching = self.try_fetch(key, &what, file, egress, limits);
        let fetched = tokio::time::timeout(limits.time, fetching).await;
        let late = |_| SourceError::TimedOut { what: what.clone(), limit: limits.time };
        fetched.map_err(late)?
    }

    async fn try_fetch(
        &self,
        key: &ObjectKey,
        what: &str,
        file: &Path,
        egress: Egress,
        limits: SourceLimits,
    ) -> Result<FetchedContext, BuildError> {
        let unavailable =
            |reason: String| SourceError::Unavailable { what: what.to_owned(), reason };
        let url = self.signed(key).await.map_err(unavailable)?;
        egress.check(&url).map_err(SourceError::from)?;
        let failed = |error: reqwest::Error| match AddressRefused::within(&error) {
            Some(refused) => SourceError::Address(refused.clone()),
            // Its address is signed.
            None => unavailable(reason(&error.without_url())),
        };
        // Fails when a provider is installed already, which is just as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder();
        // No proxy leads to this machine.
        let client = match url.host_str() {
            Some(host) if is_loopback(host) => client.no_proxy(),
            _ => client,
        };
        let http = egress
            .guard(client)
            .user_agent(concat!("clipwright/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_LIMIT)
            .read_timeout(limits.silence)
            .referer(false)
            .redirect(Policy::none())
            .build()
            .map_err(failed)?;
        let mut answer = http.get(url).send().await.map_err(failed)?;
        let status = answer.status();
        if status != StatusCode::OK {
            let said = said(&mut answer).await;
            return Err(refusal(what, status, &said).into());
        }
        let too_large = || SourceError::TooLarge { what: what.to_owned(), most: limits.bytes };
        let promised = answer.content_length();
        if promised.is_some_and(|size| size > limits.bytes) {
            return Err(too_large().into());
        }
        let wrote = || io_error("can't write the context");
        let mut output = tokio::fs::File::create(file).await.map_err(wrote())?;
        let (mut hasher, mut size) = (Sha256::new(), 0);
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            size += chunk.len() as u64;
            if size > limits.bytes {
                return Err(too_large().into());
            }
            hasher.update(&chunk);
            output.write_all(&chunk).await.map_err(wrote())?;
        }
        output.flush().await.map_err(wrote())?;
        if promised.is_some_and(|promised| promised != size) {
            return Err(unavailable(format!("it broke off after {size} bytes")).into());
        }
        Ok(FetchedContext { digest: Digest::from_hasher(hasher), commit: None })
    }

    /// Where the object can be read for a while.
    async fn signed(&self, key: &ObjectKey) -> Result<Url, String> {
        let settings = S3Settings {
            bucket: self.bucket.clone(),
            region: self.region.clone(),
            endpoint: self.endpoint.clone(),
            force_path_style: true,
            keys: Some((self.access_key.clone().into(), self.secret_key.clone())),
            part_size: S3Settings::DEFAULT_PART_SIZE,
        };
        let store = S3Store::open(&settings).await;
        let signed = store.address(key.as_str(), SIGNED_FOR).await;
        let signed = signed.map_err(|error| error.to_string())?;
        signed.parse().map_err(|error| format!("its address can't be understood: {error}"))
    }
}

/// What an answer means that is not the object.
fn refusal(what: &str, status: StatusCode, said: &str) -> SourceError {
    let what = what.to_owned();
    let reason = match said {
        "" => format!("the storage answered {}", status.as_u16()),
        said => format!("the storage answered {}, {said}", status.as_u16()),
    };
    match status {
        StatusCode::NOT_FOUND => SourceError::NotFound { what, reason },
        status if status.is_redirection() => {
            let reason = format!("{reason}: redirects are not followed");
            SourceError::Denied { what, reason }
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
            SourceError::Unavailable { what, reason }
        }
        status if status.is_client_error() => SourceError::Denied { what, reason },
        _ => SourceError::Unavailable { what, reason },
    }
}

/// The code of an error in S3's XML, if there is one: a word, and nothing else of what was answered.
async fn said(answer: &mut reqwest::Response) -> String {
    let mut text = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        text.extend_from_slice(&chunk[..chunk.len().min(MAX_PROBLEM - text.len())]);
        if text.len() == MAX_PROBLEM {
            break;
        }
    }
    let text = String::from_utf8_lossy(&text);
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    let is_word = |code: &&str| {
        (1..=64).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    code.map(|(code, _)| code).filter(is_word).unwrap_or_default().to_owned()
}

fn is_loopback(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    literal.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What happened, with its causes.
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(this) = cause {
        text.push_str(": ");
        text.push_str(&this.to_string());
        cause = this.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_can_be_taken_one_way_alone() {
        for bad in ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\nb", "a\0", "a\u{7f}"]
        {
            assert!(bad.parse::<ObjectKey>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(1025).parse::<ObjectKey>().is_err());
        for good in ["objects/1", "a..b", "...", "\u{e9} x/%2e%2e", &"x".repeat(1024)] {
            assert!(good.parse::<ObjectKey>().is_ok(), "{good:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_key_or_none(text in ".{0,40}") {
            if let Ok(key) = text.parse::<ObjectKey>() {
                prop_assert_eq!(key.as_str(), text);
            }
        }
    }
}
