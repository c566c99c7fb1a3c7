//! How an archive becomes public and stays right: into a store or a registry, from one version to
//! the other, and what is left over.

/// Where archives are published.
pub mod archives;
/// Why an archive could not be published.
mod error;
/// Archives that are read where they lie.
pub mod files;
/// What lies in a store and serves nobody.
pub mod garbage;
/// From one archive version to the other.
pub mod migrate;
/// An image becomes another one that beta9's workers can read.
pub mod republish;
/// An archive in a store.
pub mod stored;
/// A v1 archive on its way to where it is published.
pub mod v1;

pub use error::PublishError;
pub use republish::{Republication, RepublishedImage};
pub use v1::{Publication, PublishedV1};
