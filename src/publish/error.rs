//! Why an archive could not be published, or not be found where it was.

use std::time::Duration;

use crate::archive::ArchiveError;
use crate::clip::ClipError;
use crate::content::ContentError;
use crate::error::{Classify, Fault};
use crate::fetch::FetchError;
use crate::local::IoError;
use crate::oci::OciError;
use crate::retry::Retryable;
use crate::store::{Key, StoreError};

/// Why an archive could not be published, or not be found where it was.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It could not be made.
    #[error(transparent)]
    Archive(Box<ArchiveError>),
    /// What it holds or points to could not be read.
    #[error(transparent)]
    Content(Box<ContentError>),
    /// It is broken.
    #[error(transparent)]
    Clip(#[from] ClipError),
    /// A registry failed.
    #[error(transparent)]
    Oci(#[from] OciError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is something else than what was expected.
    #[error("{key}: {detail}")]
    Unexpected {
        /// Where.
        key: Key,
        /// What was expected and found.
        detail: String,
    },
    /// A local file could not be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
}

impl From<ArchiveError> for PublishError {
    fn from(error: ArchiveError) -> Self {
        Self::Archive(Box::new(error))
    }
}

impl From<ContentError> for PublishError {
    fn from(error: ContentError) -> Self {
        Self::Content(Box::new(error))
    }
}

impl From<FetchError> for PublishError {
    fn from(error: FetchError) -> Self {
        ContentError::from(error).into()
    }
}

impl PublishError {
    /// The lower floor's error that this is.
    fn lower(&self) -> Option<&dyn Classify> {
        match self {
            Self::Archive(error) => Some(&**error),
            Self::Content(error) => Some(&**error),
            Self::Clip(error) => Some(error),
            Self::Oci(error) => Some(error),
            Self::Store(error) => Some(error),
            Self::Unexpected { .. } => None,
            Self::Io(error) => Some(error),
        }
    }
}

impl Retryable for PublishError {
    fn cancelled() -> Self {
        ContentError::Cancelled.into()
    }
}

impl Classify for PublishError {
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Archive(error) => error.retry_after(),
            Self::Content(error) => error.retry_after(),
            Self::Oci(error) => error.retry_after(),
            _ => None,
        }
    }

    fn is_transient(&self) -> bool {
        self.lower().is_some_and(Classify::is_transient)
    }

    fn fault(&self) -> Fault {
        self.lower().map_or(Fault::User, Classify::fault)
    }

    fn code(&self) -> &'static str {
        self.lower().map_or("unexpected_archive", Classify::code)
    }
}
