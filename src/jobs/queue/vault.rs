//! Secrets at rest: ChaCha20-Poly1305, a random nonce each, the id of the job (or of whatever else they belong
//! to) and the secret's name as associated data.
//!
//! It knows no database. The key id tells a changed key from a tampered row. There may be several
//! keys, so that one can take another's place while jobs wait: the first seals, all of them open.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::QueueError;
use crate::config::SecretKey;

const NONCE_LEN: usize = 12;

/// Encrypts and decrypts secrets with the service's keys.
#[derive(Debug, Clone)]
pub struct Vault(Vec<SecretKey>);

/// An encrypted secret as it lies in the database.
pub(crate) struct Sealed {
    pub(crate) key_id: String,
    pub(crate) nonce: Vec<u8>,
    pub(crate) ciphertext: Vec<u8>,
}

impl Vault {
    /// Without a key, jobs that bring secrets are refused.
    pub fn new(keys: impl IntoIterator<Item = SecretKey>) -> Self {
        Self(keys.into_iter().collect())
    }

    /// The ids of all keys: what is sealed with another can't be opened here.
    pub(crate) fn key_ids(&self) -> Vec<String> {
        self.0.iter().map(key_id).collect()
    }

    /// Equal secrets have equal fingerprints, as long as the key is the same, and nobody without it can
    /// tell anything from one (HMAC-SHA-256, RFC 2104).
    pub(super) fn fingerprint(&self, secret: &SecretString) -> [u8; 32] {
        let key = self.0.first().map_or(&[][..], |key| key.expose());
        let mut mac = fingerprint_key(key);
        mac.update(secret.expose_secret().as_bytes());
        mac.finalize().into_bytes().into()
    }

    /// Encrypts a secret of `job`.
    pub(crate) fn seal(
        &self,
        job: Uuid,
        name: &str,
        secret: &SecretString,
    ) -> Result<Sealed, QueueError> {
        let key = self.0.first().ok_or(QueueError::NoSecretKey)?;
        let refused = |reason: String| QueueError::Refused { action: "encrypt a secret", reason };
        let mut nonce = [0; NONCE_LEN];
        OsRng.try_fill_bytes(&mut nonce).map_err(|error| refused(error.to_string()))?;
        let aad = place(job, name);
        let payload = Payload { msg: secret.expose_secret().as_bytes(), aad: &aad };
        let ciphertext = cipher(key)
            .encrypt(&Nonce::from(nonce), payload)
            .map_err(|_| refused("it is too long".to_owned()))?;
        Ok(Sealed { key_id: key_id(key), nonce: nonce.to_vec(), ciphertext })
    }

    /// Decrypts a secret of `job`.
    pub(crate) fn open(
        &self,
        job: Uuid,
        name: &str,
        sealed: &Sealed,
    ) -> Result<SecretString, QueueError> {
        let failed = |reason| QueueError::Undecipherable { job, name: name.to_owned(), reason };
        let key = self.0.iter().find(|key| key_id(key) == sealed.key_id);
        let key = key.ok_or_else(|| failed("it was encrypted with a key that is not here"))?;
        let nonce: [u8; NONCE_LEN] = sealed
            .nonce
            .as_slice()
            .try_into()
            .map_err(|_| failed("the nonce has a wrong length"))?;
        let aad = place(job, name);
        let payload = Payload { msg: &sealed.ciphertext, aad: &aad };
        let plain = cipher(key)
            .decrypt(&Nonce::from(nonce), payload)
            .map_err(|_| failed("it was altered, or belongs elsewhere"))?;
        // The error of `from_utf8` would hold the plain bytes; it is dropped here.
        String::from_utf8(plain).map(SecretString::from).map_err(|_| failed("it is not text"))
    }
}

/// The key of fingerprints is derived, so that no key has two uses.
fn fingerprint_key(key: &[u8]) -> Hmac<Sha256> {
    let derived = Sha256::new().chain_update(b"clipwright fingerprint\0").chain_update(key);
    let mut block = [0; 64];
    block[..32].copy_from_slice(&derived.finalize());
    Hmac::new(&block.into())
}

fn cipher(key: &SecretKey) -> ChaCha20Poly1305 {
    ChaCha20Poly1305::new(Key::from_slice(key.expose()))
}

/// Where a secret belongs: nowhere else can it be opened.
fn place(job: Uuid, name: &str) -> Vec<u8> {
    [job.as_bytes().as_slice(), name.as_bytes()].concat()
}

/// Names a key without telling anything about it.
fn key_id(key: &SecretKey) -> String {
    let hash = Sha256::new().chain_update(b"clipwright key id\0").chain_update(key.expose());
    hex::encode(&hash.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: &str) -> SecretKey {
        byte.repeat(32).parse().unwrap()
    }

    fn vault(byte: &str) -> Vault {
        Vault::new([key(byte)])
    }

    fn seal(vault: &Vault, job: Uuid) -> Sealed {
        vault.seal(job, "registry", &SecretString::from("user:hunter2")).unwrap()
    }

    #[test]
    fn opens_what_it_sealed_and_only_in_its_place() {
        let job = Uuid::now_v7();
        let sealed = seal(&vault("ab"), job);
        let opened = vault("ab").open(job, "registry", &sealed).unwrap();
        assert_eq!(opened.expose_secret(), "user:hunter2");

        let reason = |error| match error {
            QueueError::Undecipherable { reason, .. } => reason,
            other => panic!("{other}"),
        };
        let elsewhere = "it was altered, or belongs elsewhere";
        let other_job = vault("ab").open(Uuid::now_v7(), "registry", &sealed).unwrap_err();
        assert_eq!(reason(other_job), elsewhere);
        let other_name = vault("ab").open(job, "push", &sealed).unwrap_err();
        assert_eq!(reason(other_name), elsewhere);
        let missing = "it was encrypted with a key that is not here";
        for other in [vault("cd"), Vault::new([])] {
            assert_eq!(reason(other.open(job, "registry", &sealed).unwrap_err()), missing);
        }
    }

    #[test]
    fn a_key_takes_another_ones_place() {
        let job = Uuid::now_v7();
        let (old, both, new) = (vault("ab"), Vault::new([key("cd"), key("ab")]), vault("cd"));
        let (before, after) = (seal(&old, job), seal(&both, job));
        for sealed in [&before, &after] {
            assert!(both.open(job, "registry", sealed).is_ok());
        }
        assert!(new.open(job, "registry", &after).is_ok());
        assert!(new.open(job, "registry", &before).is_err());
        assert_eq!(both.key_ids(), [new.key_ids(), old.key_ids()].concat());
    }

    #[test]
    fn seals_differently_each_time_and_shows_nothing() {
        let job = Uuid::now_v7();
        let (one, two) = (seal(&vault("ab"), job), seal(&vault("ab"), job));
        assert_ne!((&one.nonce, &one.ciphertext), (&two.nonce, &two.ciphertext));
        assert!(!one.ciphertext.windows(7).any(|bytes| bytes == b"hunter2"));
        assert!(!format!("{:?}", vault("ab")).contains("171"));
    }

    #[test]
    fn an_altered_row_is_refused() {
        let job = Uuid::now_v7();
        let mut sealed = seal(&vault("ab"), job);
        sealed.ciphertext[0] ^= 1;
        assert!(vault("ab").open(job, "registry", &sealed).is_err());
        sealed.nonce.pop();
        assert!(vault("ab").open(job, "registry", &sealed).is_err());
    }

    #[test]
    fn without_a_key_nothing_is_accepted() {
        let refused = Vault::new([]).seal(Uuid::now_v7(), "registry", &SecretString::from("x"));
        assert!(matches!(refused, Err(QueueError::NoSecretKey)));
    }
}
