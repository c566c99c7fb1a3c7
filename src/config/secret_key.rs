//! The key that encrypts credentials at rest.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use rand::TryRngCore;
use rand::rngs::OsRng;
use secrecy::{ExposeSecret, SecretBox};

use super::ConfigError;

const LEN: usize = 32;

/// 32 bytes that are never shown.
#[derive(Debug, Clone)]
pub struct SecretKey(Arc<SecretBox<[u8; LEN]>>);

/// The text is not a [`SecretKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a secret key: expected 32 bytes in hex or base64")]
pub struct InvalidSecretKey;

impl SecretKey {
    /// The bytes, for a cipher and nothing else.
    pub fn expose(&self) -> &[u8; LEN] {
        self.0.expose_secret()
    }
}

impl FromStr for SecretKey {
    type Err = InvalidSecretKey;

    fn from_str(text: &str) -> Result<Self, InvalidSecretKey> {
        let bytes = hex::decode(text)
            .ok()
            .or_else(|| STANDARD.decode(text).ok())
            .or_else(|| URL_SAFE.decode(text).ok())
            .or_else(|| URL_SAFE_NO_PAD.decode(text).ok())
            .ok_or(InvalidSecretKey)?;
        let bytes: [u8; LEN] = bytes.try_into().map_err(|_| InvalidSecretKey)?;
        Ok(Self(Arc::new(SecretBox::new(Box::new(bytes)))))
    }
}

/// Where the key is to be had.
#[derive(Debug, Clone)]
pub enum SecretKeySource {
    /// The settings hold them: the first encrypts, all of them decrypt.
    Given(Vec<SecretKey>),
    /// A file holds it, which is made when it is missing.
    File(PathBuf),
    /// Nowhere: the database is shared with replicas that could not read a key of our making.
    Absent,
}

impl SecretKeySource {
    /// The keys; that in a file is made on first use. Without any, jobs with credentials have to be
    /// refused.
    pub fn load(&self) -> Result<Vec<SecretKey>, ConfigError> {
        match self {
            Self::Given(keys) => Ok(keys.clone()),
            Self::File(path) => load_or_create(path).map(|key| vec![key]),
            Self::Absent => Ok(Vec::new()),
        }
    }
}

fn load_or_create(path: &Path) -> Result<SecretKey, ConfigError> {
    let failed = |e: io::Error| ConfigError::secret_key_file(path, &e);
    if !path.try_exists().map_err(failed)? {
        create(path).map_err(failed)?;
    }
    let file = fs::File::open(path).map_err(failed)?;
    let refuse = |reason: String| Err(ConfigError::SecretKeyFile { path: path.to_owned(), reason });
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return refuse(format!("expected mode 600, found {mode:o}"));
    }
    let mut text = String::new();
    file.take(1024).read_to_string(&mut text).map_err(failed)?;
    text.trim().parse().or_else(|e: InvalidSecretKey| refuse(e.to_string()))
}

/// Another process may do the same at the same time: the first one's key stays.
fn create(path: &Path) -> io::Result<()> {
    let mut bytes = [0; LEN];
    OsRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let mut temporary = tempfile::NamedTempFile::new_in(parent)?;
    writeln!(temporary, "{}", hex::encode(bytes))?;
    temporary.as_file().sync_all()?;
    match temporary.persist_noclobber(path) {
        Err(e) if e.error.kind() != io::ErrorKind::AlreadyExists => Err(e.error),
        _ => fs::File::open(parent)?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_and_base64_are_the_same_key() {
        let bytes = [0xfb; LEN];
        for text in [
            hex::encode(bytes),
            hex::encode_upper(bytes),
            STANDARD.encode(bytes),
            URL_SAFE.encode(bytes),
            URL_SAFE_NO_PAD.encode(bytes),
        ] {
            assert_eq!(text.parse::<SecretKey>().unwrap().expose(), &bytes);
        }
        for text in ["", "00", &hex::encode([1; 31]), &STANDARD.encode([1; 33]), "not a key"] {
            assert!(text.parse::<SecretKey>().is_err(), "{text}");
        }
        let key: SecretKey = hex::encode(bytes).parse().unwrap();
        assert!(!format!("{key:?}").contains("251"));
    }

    #[test]
    fn a_file_is_made_once_and_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data/secret.key");
        let source = SecretKeySource::File(path.clone());
        let [first] = &source.load().unwrap()[..] else { panic!() };
        let first = first.clone();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(source.load().unwrap()[0].expose(), first.expose());

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = source.load().unwrap_err().to_string();
        assert!(error.contains("expected mode 600, found 644"), "{error}");

        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "short").unwrap();
        let error = source.load().unwrap_err().to_string();
        assert!(error.contains("secret.key") && !error.contains("short"), "{error}");
    }
}
