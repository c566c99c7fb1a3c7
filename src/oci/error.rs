//! What can go wrong between us and an image.

use std::path::PathBuf;
use std::time::Duration;

use crate::digest::Digest;
use crate::egress::AddressRefused;
use crate::error::{Classify, Fault};
use crate::oci::credentials::InvalidCredentials;
use crate::oci::reference::InvalidReference;
use crate::retry::Retryable;

/// Why an image could not be found or read. Texts never hold credentials or signed addresses.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// The reference is not one.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// The credentials can't be used.
    #[error(transparent)]
    Credentials(#[from] InvalidCredentials),
    /// The Docker configuration file can't be used.
    #[error("Docker configuration {}: {reason}", path.display())]
    DockerConfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no such manifest.
    #[error("image {image} was not found")]
    ImageNotFound {
        /// The reference.
        image: String,
    },
    /// The manifest names a blob that is not there.
    #[error("blob {digest} of {repository} was not found")]
    BlobNotFound {
        /// Registry and repository, or the layout's directory.
        repository: String,
        /// The blob.
        digest: Digest,
    },
    /// The registry refused the credentials, or anonymous access.
    #[error("access to {repository} was refused to {identity}: {reason}")]
    Unauthorized {
        /// Registry and repository.
        repository: String,
        /// Who asked: an anonymous client, or with what kind of credentials.
        identity: String,
        /// The registry's own words, cut short.
        reason: String,
    },
    /// The image is not made for the platform.
    #[error("image {image} has nothing for platform {wanted}; it has: {}", list(available))]
    NoSuchPlatform {
        /// The reference.
        image: String,
        /// The platform asked for.
        wanted: String,
        /// The platforms it has.
        available: Vec<String>,
    },
    /// The bytes are not those that were asked for.
    #[error("{what}: expected digest {expected}, found {found}")]
    DigestMismatch {
        /// What was read, and from where.
        what: String,
        /// The digest asked for.
        expected: Digest,
        /// The digest of the bytes that came.
        found: Digest,
    },
    /// The blob ended early, and went on doing so when it was asked for again.
    #[error("blob {digest} from {repository} broke off: expected {expected} bytes, found {found}")]
    TruncatedBlob {
        /// Registry and repository, or the layout's directory.
        repository: String,
        /// The blob.
        digest: Digest,
        /// Bytes that the manifest promises.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// The blob's size is not the one its descriptor gives.
    #[error("blob {digest} from {repository}: expected {expected} bytes, found {found}")]
    WrongSize {
        /// Registry and repository, or the layout's directory.
        repository: String,
        /// The blob.
        digest: Digest,
        /// Bytes that the manifest promises.
        expected: u64,
        /// Bytes that came or were announced.
        found: u64,
    },
    /// A range was asked for that the blob does not have or that we refuse to hold in memory.
    #[error("blob {digest}: bytes {offset} to {offset}+{len} can't be read: {reason}")]
    InvalidRange {
        /// The blob.
        digest: Digest,
        /// First byte asked for.
        offset: u64,
        /// Number of bytes asked for.
        len: u64,
        /// Why not.
        reason: String,
    },
    /// The registry answered a Range request with other bytes.
    #[error("blob {digest} from {repository}: asked for {expected}, was sent {found}")]
    WrongRange {
        /// Registry and repository.
        repository: String,
        /// The blob.
        digest: Digest,
        /// The range, and the blob's size.
        expected: String,
        /// What the answer's head says of its body.
        found: String,
    },
    /// A document is larger than we are willing to read.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// The document and where it is.
        what: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The manifest is of a kind that holds no image we can read.
    #[error("image {image} can't be read: {reason}")]
    UnsupportedManifest {
        /// The reference.
        image: String,
        /// What it is instead.
        reason: String,
    },
    /// The manifest or config contradicts itself or its specification.
    #[error("image {image} is broken: {reason}")]
    BrokenImage {
        /// The reference.
        image: String,
        /// What is wrong.
        reason: String,
    },
    /// The registry asked us to slow down, for longer than we were willing to wait.
    #[error("{repository}: too many requests ({what}){}", after(*retry_after))]
    RateLimited {
        /// Registry and repository.
        repository: String,
        /// What was being read or written.
        what: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The registry could not be reached, broke the connection or answered 5xx.
    #[error("{repository} is unavailable ({what}): {reason}{}", after(*retry_after))]
    Unavailable {
        /// Registry and repository.
        repository: String,
        /// What was being read or written.
        what: String,
        /// What happened.
        reason: String,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// The registry, or what it points to, is where requests may not go.
    #[error("{repository}: {refused}")]
    OutOfReach {
        /// Registry and repository.
        repository: String,
        /// Which host it was.
        refused: AddressRefused,
    },
    /// The registry gave an answer that the distribution specification doesn't foresee.
    #[error("{repository} gave an unexpected answer ({what}): {reason}")]
    Unexpected {
        /// Registry and repository.
        repository: String,
        /// What was being read or written.
        what: String,
        /// What it answered.
        reason: String,
    },
    /// An upload broke off and can't go on; only starting it again can help.
    #[error("an upload to {repository} broke off: {reason}")]
    UploadLost {
        /// Registry and repository.
        repository: String,
        /// What the registry did.
        reason: &'static str,
    },
    /// The layout directory is not one, or lacks what was asked for.
    #[error("OCI layout {}: {reason}", directory.display())]
    Layout {
        /// The directory.
        directory: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The HTTP client could not be set up.
    #[error("the HTTP client could not be set up: {reason}")]
    Client {
        /// Why.
        reason: String,
    },
    /// The caller's token was cancelled.
    #[error("cancelled")]
    Cancelled,
}

fn list(available: &[String]) -> String {
    if available.is_empty() { "no platform at all".to_owned() } else { available.join(", ") }
}

fn after(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |after| format!(" (retry after {} s)", after.as_secs()))
}

impl Classify for OciError {
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Unavailable { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }

    fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::RateLimited { .. }
                | Self::Unavailable { .. }
                | Self::TruncatedBlob { .. }
                | Self::WrongRange { .. }
                | Self::UploadLost { .. }
        )
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Reference(_)
            | Self::Credentials(_)
            | Self::ImageNotFound { .. }
            | Self::BlobNotFound { .. }
            | Self::Unauthorized { .. }
            | Self::NoSuchPlatform { .. }
            | Self::TooLarge { .. }
            | Self::UnsupportedManifest { .. }
            | Self::BrokenImage { .. }
            | Self::OutOfReach { .. }
            | Self::Layout { .. }
            | Self::Cancelled => Fault::User,
            Self::DigestMismatch { .. }
            | Self::TruncatedBlob { .. }
            | Self::WrongSize { .. }
            | Self::WrongRange { .. }
            | Self::RateLimited { .. }
            | Self::Unavailable { .. }
            | Self::Unexpected { .. }
            | Self::UploadLost { .. } => Fault::Upstream,
            Self::DockerConfig { .. } | Self::InvalidRange { .. } | Self::Client { .. } => {
                Fault::Ours
            }
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Reference(_) => "invalid_reference",
            Self::Credentials(_) => "invalid_credentials",
            Self::DockerConfig { .. } => "invalid_docker_config",
            Self::ImageNotFound { .. } => "image_not_found",
            Self::BlobNotFound { .. } => "blob_not_found",
            Self::Unauthorized { .. } => "registry_unauthorized",
            Self::NoSuchPlatform { .. } => "no_such_platform",
            Self::DigestMismatch { .. } => "digest_mismatch",
            Self::TruncatedBlob { .. } => "truncated_blob",
            Self::WrongSize { .. } => "wrong_size",
            Self::InvalidRange { .. } => "invalid_range",
            Self::WrongRange { .. } => "wrong_range",
            Self::TooLarge { .. } => "too_large",
            Self::UnsupportedManifest { .. } => "unsupported_manifest",
            Self::BrokenImage { .. } => "broken_image",
            Self::RateLimited { .. } => "registry_rate_limited",
            Self::Unavailable { .. } => "registry_unavailable",
            Self::OutOfReach { .. } => "address_refused",
            Self::Unexpected { .. } => "registry_unexpected_answer",
            Self::UploadLost { .. } => "upload_broken",
            Self::Layout { .. } => "invalid_layout",
            Self::Client { .. } => "http_client",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Retryable for OciError {
    fn cancelled() -> Self {
        Self::Cancelled
    }
}
