//! Why the settings can't be used. Each error names the key as the user wrote it and where.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::error::{Classify, Fault};

/// Why the settings can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value is not one that the setting can have. A secret's value is not shown.
    #[error("{} {source_name}: expected {expected}", assignment(key, value.as_deref()))]
    BadValue {
        /// The key as it was written, such as `imageService.clipVersion` or `--workers`.
        key: String,
        /// The value, cut to 100 characters; `None` when it is secret.
        value: Option<String>,
        /// Such as `in settings file x.yaml`.
        source_name: String,
        /// What may stand there.
        expected: String,
    },
    /// There is no such setting.
    #[error("{key} {source_name} is no setting: expected one of {known}")]
    Unknown {
        /// The key as it was written.
        key: String,
        /// Such as `in settings file x.yaml`.
        source_name: String,
        /// The settings that there are.
        known: String,
    },
    /// A setting that another one needs was not given.
    #[error("{key} is not set: expected {expected}, since {reason}")]
    Missing {
        /// The key in the settings file.
        key: &'static str,
        /// What may stand there.
        expected: &'static str,
        /// Which other setting needs it.
        reason: &'static str,
    },
    /// Two settings say the same thing in one place.
    #[error("{first} and {second} are both set: expected one of them")]
    Both {
        /// One key as it was written.
        first: String,
        /// The other.
        second: String,
    },
    /// A file that a setting names can't be used.
    #[error("{key} {source_name} names {}: {reason}", path.display())]
    BadFile {
        /// The key as it was written.
        key: String,
        /// Such as `on the command line`.
        source_name: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The settings are not YAML.
    #[error("{name} is neither YAML nor JSON: {reason}")]
    Syntax {
        /// Such as `settings file x.yaml`.
        name: String,
        /// What the parser says.
        reason: String,
    },
    /// The service would be open to everyone.
    #[error(
        "listening at {listen} needs a token, since others can reach it: set CLIPWRIGHT_TOKEN or \
         --token-file, or listen at 127.0.0.1"
    )]
    Unprotected {
        /// The address.
        listen: SocketAddr,
    },
    /// Credentials would be sent unencrypted through networks that are not ours.
    #[error(
        "the credentials of the build registry {host} would go over plain HTTP: use TLS, or set \
         imageService.buildRegistryInsecure to true if that is meant"
    )]
    CredentialsInClear {
        /// The registry.
        host: String,
    },
    /// A secret is set to nothing.
    #[error("{key} {source_name} is empty: expected {expected}, or that it is not set at all")]
    Empty {
        /// The key as it was written.
        key: String,
        /// Such as `in the environment`.
        source_name: String,
        /// What may stand there.
        expected: &'static str,
    },
    /// The key for credentials at rest can't be read or made.
    #[error("secret key file {}: {reason}", path.display())]
    SecretKeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl ConfigError {
    pub(super) fn secret_key_file(path: &std::path::Path, error: &io::Error) -> Self {
        Self::SecretKeyFile { path: path.to_owned(), reason: error.to_string() }
    }
}

fn assignment(key: &str, value: Option<&str>) -> String {
    value.map_or_else(|| key.to_owned(), |value| format!("{key} = {value}"))
}

impl Classify for ConfigError {
    fn is_transient(&self) -> bool {
        false
    }

    fn fault(&self) -> Fault {
        Fault::User
    }

    fn code(&self) -> &'static str {
        "bad_settings"
    }
}
