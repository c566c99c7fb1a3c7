//! Credentials at rest: ChaCha20-Poly1305, a random nonce each, the job's id as associated data.
//!
//! It knows no database. The key id tells a changed key from a tampered row.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::QueueError;
use crate::config::SecretKey;

const NONCE_LEN: usize = 12;

/// Encrypts and decrypts credentials with the service's key.
#[derive(Debug, Clone)]
pub struct Vault(Option<SecretKey>);

/// Encrypted credentials as they lie in `job_secret`.
pub(super) struct Sealed {
    pub(super) key_id: String,
    pub(super) nonce: Vec<u8>,
    pub(super) ciphertext: Vec<u8>,
}

impl Vault {
    /// Without a key, jobs that bring credentials are refused.
    pub fn new(key: Option<SecretKey>) -> Self {
        Self(key)
    }

    /// Encrypts the credentials of `job`.
    pub(super) fn seal(&self, job: Uuid, secret: &SecretString) -> Result<Sealed, QueueError> {
        let key = self.0.as_ref().ok_or(QueueError::NoSecretKey)?;
        let refused =
            |reason: String| QueueError::Refused { action: "encrypt credentials", reason };
        let mut nonce = [0; NONCE_LEN];
        OsRng.try_fill_bytes(&mut nonce).map_err(|error| refused(error.to_string()))?;
        let payload = Payload { msg: secret.expose_secret().as_bytes(), aad: job.as_bytes() };
        let ciphertext = cipher(key)
            .encrypt(&Nonce::from(nonce), payload)
            .map_err(|_| refused("they are too long".to_owned()))?;
        Ok(Sealed { key_id: key_id(key), nonce: nonce.to_vec(), ciphertext })
    }

    /// Decrypts the credentials of `job`.
    pub(super) fn open(&self, job: Uuid, sealed: &Sealed) -> Result<SecretString, QueueError> {
        let failed = |reason| QueueError::Undecipherable { job, reason };
        let key = self.0.as_ref().ok_or(failed("the service has no secret key"))?;
        if sealed.key_id != key_id(key) {
            return Err(failed("they were encrypted with another secret key"));
        }
        let nonce: [u8; NONCE_LEN] = sealed
            .nonce
            .as_slice()
            .try_into()
            .map_err(|_| failed("the nonce has a wrong length"))?;
        let payload = Payload { msg: &sealed.ciphertext, aad: job.as_bytes() };
        let plain = cipher(key)
            .decrypt(&Nonce::from(nonce), payload)
            .map_err(|_| failed("they were altered, or belong to another job"))?;
        // The error of `from_utf8` would hold the plain bytes; it is dropped here.
        String::from_utf8(plain).map(SecretString::from).map_err(|_| failed("they are not text"))
    }
}

fn cipher(key: &SecretKey) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(Key::from_slice(key.expose()))
}

/// Names a key without telling anything about it.
fn key_id(key: &SecretKey) -> String {
    let hash = Sha256::new().chain_update(b"clipwright key id\0").chain_update(key.expose());
    hex::encode(&hash.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(byte: &str) -> Vault {
        Vault::new(Some(byte.repeat(32).parse().unwrap()))
    }

    #[test]
    fn opens_what_it_sealed_and_only_for_that_job_and_key() {
        let (job, secret) = (Uuid::now_v7(), SecretString::from("user:hunter2"));
        let sealed = vault("ab").seal(job, &secret).unwrap();
        assert_eq!(vault("ab").open(job, &sealed).unwrap().expose_secret(), "user:hunter2");

        let reason = |error| match error {
            QueueError::Undecipherable { reason, .. } => reason,
            other => panic!("{other}"),
        };
        let other_job = vault("ab").open(Uuid::now_v7(), &sealed).unwrap_err();
        assert_eq!(reason(other_job), "they were altered, or belong to another job");
        let other_key = vault("cd").open(job, &sealed).unwrap_err();
        assert_eq!(reason(other_key), "they were encrypted with another secret key");
        let no_key = Vault::new(None).open(job, &sealed).unwrap_err();
        assert_eq!(reason(no_key), "the service has no secret key");
    }

    #[test]
    fn seals_differently_each_time_and_shows_nothing() {
        let (job, secret) = (Uuid::now_v7(), SecretString::from("user:hunter2"));
        let (one, two) = (vault("ab").seal(job, &secret), vault("ab").seal(job, &secret));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_ne!((&one.nonce, &one.ciphertext), (&two.nonce, &two.ciphertext));
        assert!(!one.ciphertext.windows(7).any(|bytes| bytes == b"hunter2"));
        assert!(!format!("{:?}", vault("ab")).contains("171"));
    }

    #[test]
    fn an_altered_row_is_refused() {
        let (job, secret) = (Uuid::now_v7(), SecretString::from("user:hunter2"));
        let mut sealed = vault("ab").seal(job, &secret).unwrap();
        sealed.ciphertext[0] ^= 1;
        assert!(vault("ab").open(job, &sealed).is_err());
        sealed.nonce.pop();
        assert!(vault("ab").open(job, &sealed).is_err());
    }

    #[test]
    fn without_a_key_nothing_is_accepted() {
        let refused = Vault::new(None).seal(Uuid::now_v7(), &SecretString::from("x"));
        assert!(matches!(refused, Err(QueueError::NoSecretKey)));
    }
}
