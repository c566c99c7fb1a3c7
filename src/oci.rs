//! Images where they are: in a registry or in an OCI layout directory; and into a registry.
//!
//! A reference or a directory is opened as a [source](crate::oci::Source); the source resolves to
//! one platform's image and gives its blobs as streams or ranges. Everything that comes from
//! outside is bounded and verified here. Layers are bytes to this module: what is in them, and
//! what becomes of them, it must not know.

mod artifact;
mod auth;
mod blob;
mod challenge;
mod config;
mod credential_file;
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
mod observe;
mod pinned;
mod platform;
mod push;
mod range;
mod reference;
mod registry;
mod repository;
mod session;
mod settings;
mod source;
#[cfg(test)]
mod tests;
mod unasked;

pub use artifact::{Artifact, CREATED, Referrer, Subject};
pub use blob::{BlobStream, RangeStream};
pub use config::ImageConfig;
pub use credentials::{Credentials, InvalidCredentials};
pub use error::OciError;
pub use gate::{Admission, Gate};
pub use image_source::ImageSource;
pub use manifest::{Compression, LayerDescriptor};
pub use observe::{RequestKind, RequestObserver, RequestOutcome, Unobserved};
pub use pinned::{InvalidReferenceForm, PinnedReference, ReferenceForm};
pub use platform::{InvalidPlatform, Platform};
pub use push::{Publisher, PushedBlob};
pub use range::{Access, Ranges};
pub use reference::{
    DOCKER_HUB, InvalidReference, MAX_SOURCE, Reference, normalise_registry,
    pattern as reference_pattern,
};
pub use repository::{Actions, Repository};
pub use settings::{AmbientCredentials, OciSettings, is_local};
pub use source::{ResolvedImage, Source};
