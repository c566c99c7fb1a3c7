//! Webhooks: who is told when a job ends, and how the receiver knows that it was us.

use std::fmt;

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

/// Bytes of an address at most.
pub const MAX_URL: usize = 2048;
/// Characters of a secret at most.
pub const MAX_SECRET: usize = 256;

/// Where to tell of a job's end. Neither the address, whose path or query may be a secret, nor the secret
/// prints.
#[derive(Clone)]
pub struct Webhook {
    url: Url,
    secret: Option<SecretString>,
}

/// Why an address or a secret can't be used; quotes neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWebhook {
    /// Not an address that can be asked.
    #[error("is no address: expected http:// or https://, a host, and at most {MAX_URL} bytes")]
    Url,
    /// User and password stand in it.
    #[error("has a user or password in it: what identifies the sender is the signature")]
    UserInfo,
    /// An address that must not be reached.
    #[error("is at an address that this service does not reach")]
    OutOfReach,
    /// Too short or too long.
    #[error("has a secret of another length than 1 to {MAX_SECRET} characters")]
    Secret,
}

/// What is encrypted.
#[derive(Serialize, Deserialize)]
struct Sealable {
    url: String,
    secret: Option<String>,
}

impl Webhook {
    /// Checks what was given.
    pub fn new(url: &str, secret: Option<SecretString>) -> Result<Self, InvalidWebhook> {
        let parsed = url.parse::<Url>().ok().filter(|_| url.len() <= MAX_URL);
        let url = parsed.ok_or(InvalidWebhook::Url)?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return Err(InvalidWebhook::Url);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidWebhook::UserInfo);
        }
        let length = secret.as_ref().map(|secret| secret.expose_secret().chars().count());
        if length.is_some_and(|length| !(1..=MAX_SECRET).contains(&length)) {
            return Err(InvalidWebhook::Secret);
        }
        Ok(Self { url, secret })
    }

    /// Where to send it.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The address without what may be secret: scheme, host and port.
    pub fn shown_url(&self) -> String {
        format!("{}/...", self.url.origin().ascii_serialization())
    }

    /// As it is encrypted.
    pub(super) fn to_secret(&self) -> SecretString {
        let secret = self.secret.as_ref().map(|secret| secret.expose_secret().to_owned());
        let sealable = Sealable { url: self.url.to_string(), secret };
        serde_json::to_string(&sealable).unwrap_or_default().into()
    }

    /// Of what was decrypted; `None` if it is something else.
    pub(super) fn from_secret(text: &SecretString) -> Option<Self> {
        let Sealable { url, secret } = serde_json::from_str(text.expose_secret()).ok()?;
        Self::new(&url, secret.map(SecretString::from)).ok()
    }

    /// The signature of a body that is sent at `seconds` since 1970: `t=SECONDS,v1=HEX`, the HMAC-SHA-256
    /// (RFC 2104) of `SECONDS.BODY` under the secret. `None` without a secret.
    pub fn signature(&self, seconds: i64, body: &[u8]) -> Option<String> {
        let mut mac = keyed(self.secret.as_ref()?.expose_secret().as_bytes());
        mac.update(format!("{seconds}.").as_bytes());
        mac.update(body);
        Some(format!("t={seconds},v1={}", hex::encode(mac.finalize().into_bytes())))
    }
}

/// Keys that are longer than a block are hashed, shorter ones are padded, as the RFC says.
fn keyed(key: &[u8]) -> Hmac<Sha256> {
    let mut block = [0; 64];
    let hashed = Sha256::digest(key);
    let key = if key.len() > block.len() { hashed.as_slice() } else { key };
    block[..key.len()].copy_from_slice(key);
    Hmac::new(&block.into())
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Webhook(..)")
    }
}

/// What is known of one webhook of one job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Delivery {
    /// Names it; the same in each attempt, so that a receiver knows what it has had.
    pub id: Uuid,
    /// The job.
    pub job_id: Uuid,
    /// Where it goes: scheme, host and port, such as `https://hooks.example.com/...`. What follows may be a
    /// secret.
    pub url: String,
    /// Where it stands.
    #[schema(value_type = DeliveryState)]
    pub state: String,
    /// How often it was tried.
    pub attempts: i32,
    /// When it is tried next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_at: Option<DateTime<Utc>>,
    /// When it came into being.
    pub created_at: DateTime<Utc>,
    /// When the receiver took it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<DateTime<Utc>>,
    /// The status of the last answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_status: Option<i32>,
    /// Why the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Where a webhook stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// The job has not ended.
    Waiting,
    /// It is tried until the receiver takes it.
    Due,
    /// The receiver took it.
    Delivered,
    /// The receiver did not take it for a day.
    GivenUp,
}

impl DeliveryState {
    /// As it stands in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Due => "due",
            Self::Delivered => "delivered",
            Self::GivenUp => "given_up",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(url: &str, secret: Option<&str>) -> Result<Webhook, InvalidWebhook> {
        Webhook::new(url, secret.map(SecretString::from))
    }

    #[test]
    fn addresses_and_secrets_are_checked() {
        for good in ["https://example.com/hook?token=x", "http://[::1]:80/"] {
            assert!(hook(good, Some("s")).is_ok(), "{good}");
        }
        let long = format!("https://example.com/{}", "x".repeat(MAX_URL));
        for bad in ["", "example.com", "ftp://example.com", "https://", "file:///etc", &long] {
            assert_eq!(hook(bad, None).unwrap_err(), InvalidWebhook::Url, "{bad}");
        }
        assert_eq!(hook("https://u@example.com", None).unwrap_err(), InvalidWebhook::UserInfo);
        assert_eq!(hook("https://:p@example.com", None).unwrap_err(), InvalidWebhook::UserInfo);
        for secret in [String::new(), "x".repeat(MAX_SECRET + 1)] {
            let refused = hook("https://example.com", Some(&secret)).unwrap_err();
            assert_eq!(refused, InvalidWebhook::Secret);
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let hook = hook("https://example.com/a?token=hunter2#hunter2", Some("hunter2")).unwrap();
        assert_eq!(hook.shown_url(), "https://example.com/...");
        assert!(!format!("{hook:?}").contains("hunter2"));
        let again = Webhook::from_secret(&hook.to_secret()).unwrap();
        assert_eq!(again.url(), hook.url());
        assert_eq!(again.signature(1, b"x"), hook.signature(1, b"x"));
        assert!(Webhook::from_secret(&"{}".into()).is_none());
    }

    #[test]
    fn of_an_address_the_host_is_shown() {
        for (url, shown) in [
            ("https://hooks.example.com/services/T0/B0/hunter2", "https://hooks.example.com/..."),
            ("HTTP://Example.com:8080", "http://example.com:8080/..."),
            ("https://[::1]:443/hunter2", "https://[::1]/..."),
        ] {
            assert_eq!(hook(url, None).unwrap().shown_url(), shown);
        }
    }

    /// Test case 2 of RFC 4231, and its test case 6, whose key is longer than a block.
    #[test]
    fn the_signature_is_that_of_the_rfc() {
        let mac = |key: &[u8], text: &[u8]| {
            let mut mac = keyed(key);
            mac.update(text);
            hex::encode(mac.finalize().into_bytes())
        };
        let two = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(mac(b"Jefe", b"what do ya want for nothing?"), two);
        let six = "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54";
        let text = b"Test Using Larger Than Block-Size Key - Hash Key First";
        assert_eq!(mac(&[0xaa; 131], text), six);
        assert_eq!(hook("https://example.com", None).unwrap().signature(1, b""), None);
    }
}
