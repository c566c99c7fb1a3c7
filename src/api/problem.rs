//! Errors as the client sees them: RFC 9457 `application/problem+json`, for every answer that is
//! an error, wherever it came from.
//!
//! A handler returns an [`ApiError`]; [`render`] is the one place that writes the body, and also
//! gives a body to errors that the framework made. The client's text and the log's text are
//! separate: whatever is not the client's business is logged where the `ApiError` is made.

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response as ApiResponse, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use crate::error::{Classify, Fault};

use super::observe::RequestId;

/// Media type of [`Problem`].
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// An error (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "type": "/docs/troubleshooting.html#invalid_job",
    "title": "Unprocessable Entity",
    "status": 422,
    "detail": "the job can't be accepted: clip_version: 3 is not an archive version: expected 1 or 2",
    "instance": "/v1/jobs",
    "code": "invalid_job",
    "request_id": "0199d2a4-7c1e-7f0a-9a55-0d4b1a1c7e21",
    "errors": [{"field": "clip_version", "detail": "3 is not an archive version: expected 1 or 2"}]
}))]
pub(super) struct Problem {
    /// Where the service's documentation tells of it: a reference relative to the service (RFC 9457, 3.1.1).
    #[serde(rename = "type")]
    kind: String,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What is wrong with this request, in one sentence.
    detail: Cow<'static, str>,
    /// The path asked for.
    instance: String,
    /// Stable code in `snake_case`, such as `job_not_found`.
    code: &'static str,
    /// The `x-request-id` of the answer: quote it when asking for help.
    request_id: String,
    /// What is wrong, field by field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldError>,
}

/// What is wrong with one field, header or parameter, or which part of the service is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct FieldError {
    /// Its name.
    pub field: String,
    /// What was expected and what was found, in one sentence.
    pub detail: String,
}

impl FieldError {
    /// `field` and what is wrong with it.
    pub(super) fn new(field: impl Into<String>, detail: impl fmt::Display) -> Self {
        Self { field: field.into(), detail: detail.to_string() }
    }
}

/// A refusal on its way to [`render`]: only what the client may read.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    header: Option<(&'static str, Cow<'static, str>)>,
}

impl ApiError {
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, code, detail: detail.into(), errors: Vec::new(), header: None }
    }

    pub(super) fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }

    pub(super) fn with_header(
        mut self,
        name: &'static str,
        value: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.header = Some((name, value.into()));
        self
    }

    /// The stable code.
    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    /// 400 for a header or parameter.
    pub(super) fn bad_parameter(field: &str, detail: impl fmt::Display) -> Self {
        let detail = detail.to_string();
        let errors = vec![FieldError::new(field, &detail)];
        Self::new(StatusCode::BAD_REQUEST, "invalid_parameter", detail).with_errors(errors)
    }

    pub(super) fn not_found(code: &'static str, detail: String) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    /// 500: the cause goes to the log, the client learns only that it is our fault.
    pub(super) fn internal(cause: &dyn fmt::Display) -> Self {
        tracing::error!(%cause, "request failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the service failed; its log has the cause under this request id",
        )
    }

    /// 409: what is asked for is right, and doesn't go with what is there.
    pub(super) fn conflict(error: &impl Classify) -> Self {
        Self::new(StatusCode::CONFLICT, error.code(), error.to_string())
    }

    /// An error of a lower floor. Its own sentence reaches the client only where the client is
    /// the one who can do something about it.
    pub(super) fn from_lower(error: &impl Classify) -> Self {
        match error.fault() {
            Fault::User => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.code(), error.to_string())
            }
            Fault::Upstream => {
                tracing::warn!(cause = %error, code = error.code(), "dependency failed");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "dependency_unavailable",
                    "a part that the service depends on is not available; try again later",
                )
            }
            Fault::Ours => Self::internal(error),
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// The body that tells of it.
    pub(super) fn into_problem(self, instance: String, request_id: String) -> Problem {
        Problem {
            kind: format!("/docs/troubleshooting.html#{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: self.detail,
            instance,
            code: self.code,
            request_id,
            errors: self.errors,
        }
    }

    /// What to say of an error status that the framework chose.
    fn from_status(status: StatusCode) -> Self {
        let (code, detail) = match status {
            StatusCode::NOT_FOUND => ("not_found", "there is nothing at this path"),
            StatusCode::METHOD_NOT_ALLOWED => {
                ("method_not_allowed", "this path does not answer this method")
            }
            StatusCode::PAYLOAD_TOO_LARGE => ("too_large", "the body is too large"),
            _ if status.is_server_error() => ("internal", "the service failed"),
            _ => ("bad_request", "the request can't be understood"),
        };
        Self::new(status, code, detail)
    }
}

impl IntoResponse for ApiError {
    /// An empty answer which carries the error to [`render`].
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// What a panic in a handler becomes. The panic hook has logged message and place.
pub(super) fn from_panic(_: Box<dyn Any + Send>) -> Response {
    ApiError::internal(&"a handler panicked").into_response()
}

/// Middleware: gives every error answer its problem+json body.
pub(super) async fn render(request: Request, next: Next) -> Response {
    let instance = request.uri().path().to_owned();
    let request_id = request.extensions().get::<RequestId>().map(RequestId::as_str);
    let request_id = request_id.unwrap_or_default().to_owned();
    let mut response = next.run(request).await;
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let error = response
        .extensions_mut()
        .remove::<ApiError>()
        .unwrap_or_else(|| ApiError::from_status(status));
    let header = error.header.clone();
    let problem = ApiError { status, ..error }.into_problem(instance, request_id);
    // Strings and numbers only: this can't fail, and if it did an empty body is still an answer.
    *response.body_mut() = Body::from(serde_json::to_vec(&problem).unwrap_or_default());
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    if let Some((name, value)) = header
        && let Ok(value) = HeaderValue::from_str(&value)
    {
        headers.insert(name, value);
    }
    response
}

/// For the API document: the problems that every `/v1` operation may answer with.
pub(super) struct CommonProblems;

impl IntoResponses for CommonProblems {
    fn responses() -> BTreeMap<String, RefOr<ApiResponse>> {
        [
            ("400", "A parameter, header or the body's syntax is wrong"),
            ("401", "The token is missing, wrong, over or revoked"),
            ("403", "The token may not do that; or, without one, the client is not a local one"),
            ("429", "The token asks more often than it may"),
            ("500", "The service failed"),
            ("503", "A part that the service depends on is not available"),
        ]
        .into_iter()
        .map(|(status, description)| (status.to_owned(), problem_response(description).into()))
        .collect()
    }
}

/// For the API document: the problems that every operation with a body may answer with.
pub(super) struct BodyProblems;

impl IntoResponses for BodyProblems {
    fn responses() -> BTreeMap<String, RefOr<ApiResponse>> {
        [
            ("408", "The body did not arrive in time"),
            ("413", "The body is too large: 64 KiB are enough for one job, 1 MiB for many"),
            ("415", "The body is not application/json"),
            ("422", "What is asked for can't be done: `errors` names each field that is wrong"),
        ]
        .into_iter()
        .map(|(status, description)| (status.to_owned(), problem_response(description).into()))
        .collect()
    }
}

/// For the API document: a response whose body is a [`Problem`].
pub(super) fn problem_response(description: &str) -> ApiResponse {
    let schema = Ref::from_schema_name("Problem");
    ResponseBuilder::new()
        .description(description)
        .content(PROBLEM_JSON, ContentBuilder::new().schema(Some(schema)).build())
        .build()
}
