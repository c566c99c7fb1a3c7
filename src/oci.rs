//! Images where they are: in a registry or in an OCI layout directory; and into a registry.
//!
//! A reference or a directory is opened as a [source](crate::oci::Source); the source resolves to
//! one platform's image and gives its blobs as streams or ranges. Everything that comes from
//! outside is bounded and verified here. Layers are bytes to this module: what is in them, and
//! what becomes of them, it must not know.

mod auth;
mod blob;
mod challenge;
mod config;
mod credentials;
mod descriptor;
mod docker_config;
mod error;
mod gate;
mod http;
mod image_index;
mod image_source;
mod layout;
mod manifest;
mod pinned;
mod platform;
mod push;
mod range;
mod reference;
mod registry;
mod session;
mod source;
#[cfg(test)]
mod tests;
mod unasked;

use std::path::PathBuf;
use std::time::Duration;

pub use blob::{BlobStream, RangeStream};
pub use config::ImageConfig;
pub use credentials::{Credentials, InvalidCredentials};
pub use error::OciError;
pub use gate::{Admission, Gate};
pub use image_source::ImageSource;
pub use manifest::{Compression, LayerDescriptor};
pub use pinned::{InvalidReferenceForm, PinnedReference, ReferenceForm};
pub use platform::{InvalidPlatform, Platform};
pub use push::{Publisher, PushedBlob};
pub use range::{Access, Ranges};
pub use reference::{DOCKER_HUB, InvalidReference, Reference, normalise_registry};
pub use source::{ResolvedImage, Source};

use crate::retry::RetrySettings;

/// How images are reached.
#[derive(Debug, Clone)]
pub struct OciSettings {
    /// `host` or `host:port` of registries that are spoken to over plain HTTP, beside those whose
    /// names say so (CONTRACT B.2).
    pub insecure_hosts: Vec<String>,
    /// Docker's configuration file with ambient credentials; `None` is where Docker keeps it.
    pub docker_config: Option<PathBuf>,
    /// For images on Docker Hub that come without credentials; they go before ambient ones
    /// (CONTRACT F.5).
    pub default_hub_credentials: Option<Credentials>,
    /// How often and how fast to try again.
    pub retry: RetrySettings,
    /// The longest silence within an answer that is borne.
    pub idle_timeout: Duration,
}

impl Default for OciSettings {
    fn default() -> Self {
        Self {
            insecure_hosts: Vec::new(),
            docker_config: None,
            default_hub_credentials: None,
            retry: RetrySettings::default(),
            idle_timeout: Duration::from_mins(1),
        }
    }
}
