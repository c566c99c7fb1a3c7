//! What the SDK's errors mean to us.
//!
//! The SDK has one error type an operation; all we need of each is the HTTP status, S3's code and
//! one sentence for people.

use std::error::Error;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::S3Store;
use crate::store::{ObjectStore, StoreError};

const REASON_LIMIT: usize = 300;

/// A request that failed after the SDK's own retries.
#[derive(Debug)]
pub(super) struct Failure {
    /// HTTP status, when there was an answer.
    pub(super) status: Option<u16>,
    /// S3's error code; answers to HEAD have none.
    pub(super) code: Option<String>,
    reason: String,
}

impl<E> From<SdkError<E, HttpResponse>> for Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        let status = error.raw_response().map(|response| response.status().as_u16());
        let code = error.code().map(str::to_owned);
        let said = match (&code, error.message()) {
            (Some(code), Some(message)) => Some(format!("{code}: {message}")),
            (Some(text), None) => Some(text.clone()),
            (None, Some(text)) => Some(text.to_owned()),
            (None, None) => None,
        };
        let reason = match (said, status) {
            (Some(said), _) => said,
            (None, Some(status)) => format!("HTTP status {status}"),
            (None, None) => chain(&error),
        };
        Self { status, code, reason: cut(&reason) }
    }
}

impl Failure {
    /// Whether the object, rather than the bucket or the upload, is not there.
    pub(super) fn is_missing_object(&self) -> bool {
        self.status == Some(404)
            && matches!(self.code.as_deref(), None | Some("NoSuchKey" | "NotFound"))
    }

    /// Whether a conditional request found the key taken. That somebody else is about to take it (409)
    /// says nothing yet: asked again, the store will know.
    pub(super) fn is_taken(&self) -> bool {
        self.status == Some(412)
    }

    /// Whether the answer says that the bucket is there and knows us, whatever it thinks of the request.
    pub(super) fn is_of_the_bucket(&self) -> bool {
        matches!(self.code.as_deref(), Some("NoSuchKey" | "AccessDenied"))
    }

    /// The store's error for a request that was to do `action`.
    pub(super) fn into_error(self, store: &S3Store, action: String) -> StoreError {
        let (store, reason) = (store.describe(), self.reason);
        match self.status {
            _ if self.code.as_deref() == Some("RequestTimeout") => {
                StoreError::Unavailable { store, action, reason }
            }
            Some(401 | 403) => StoreError::Denied { store, action, reason },
            // No answer, a broken answer, or one that asks for patience.
            None | Some(200..300 | 408 | 409 | 429 | 500 | 502..600) => {
                StoreError::Unavailable { store, action, reason }
            }
            Some(_) => StoreError::Rejected { store, action, reason },
        }
    }
}

/// The messages of an error and of its causes, without repetitions.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    cut(&text)
}

fn cut(text: &str) -> String {
    text.chars().take(REASON_LIMIT).collect()
}
