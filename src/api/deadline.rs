//! The time that an answer may take to begin. Bodies have their own: an event stream goes on for as long
//! as its job does.

use std::time::Duration;

use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::problem::ApiError;

/// Longer than any database or store should take.
const LIMIT: Duration = Duration::from_secs(30);

/// A context of gigabytes takes its time to come.
const UPLOAD: Duration = Duration::from_hours(2);

/// Middleware: 504 for what takes too long; the work on it is dropped.
pub(super) async fn answer_in_time(request: Request, next: Next) -> Response {
    let is_upload =
        request.method() == Method::POST && request.uri().path() == super::contexts::PATH;
    let limit = if is_upload { UPLOAD } else { LIMIT };
    let answer = tokio::time::timeout(limit, next.run(request)).await;
    answer.unwrap_or_else(|_| {
        let detail = format!("there was no answer within {limit:?}; ask for less, or try again");
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, "timeout", detail).into_response()
    })
}
