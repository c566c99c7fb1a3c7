//! Requests into types: the JSON body, path and query parameters, headers. Whatever does not fit
//! is an [`ApiError`] which names the place.

use std::time::Duration;

use axum::body::{Bytes, HttpBody as _};
use axum::extract::path::ErrorKind;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use secrecy::SecretString;
use serde::de::{self, DeserializeOwned};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::error::Category;

use super::problem::{ApiError, FieldError};

/// Bytes in a request body; the router sets the same limit for every route.
pub(super) const MAX_BODY: usize = 64 * 1024;
/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A JSON body of at most `MAX` bytes; if it is not [`MAX_BODY`], the route has to say so to the router too.
pub(super) struct JsonBody<T, const MAX: usize = MAX_BODY>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync, const MAX: usize> FromRequest<S> for JsonBody<T, MAX> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        expect_plain_json(request.headers())?;
        let body = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state))
            .await
            .map_err(|_| {
                let detail = format!("the body did not arrive within {BODY_TIMEOUT:?}");
                ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail)
            })?
            .map_err(|rejection| match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => {
                    let detail = format!("the body is larger than {MAX} bytes");
                    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
                }
                status => ApiError::new(status, "broken_body", "the body broke off"),
            })?;
        parse(&body).map(Self)
    }
}

/// A JSON body that may be left out: then it is what nobody said anything in.
pub(super) struct OptionalJsonBody<T>(pub(super) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let headers = request.headers();
        let is_empty = request.body().is_end_stream();
        if is_empty && !headers.contains_key(CONTENT_ENCODING) {
            return Ok(Self(T::default()));
        }
        // `null` is nothing as well.
        let JsonBody(body) = JsonBody::<Option<T>>::from_request(request, state).await?;
        Ok(Self(body.unwrap_or_default()))
    }
}

fn expect_plain_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name| headers.get(name).map_or("", |value| value.to_str().unwrap_or("unreadable"));
    let essence = text(CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
    let detail = if !essence.eq_ignore_ascii_case("application/json") {
        format!("expected a body of type application/json, found {essence:?}")
    } else if headers.contains_key(CONTENT_ENCODING) {
        format!("expected a body without content encoding, found {:?}", text(CONTENT_ENCODING))
    } else {
        return Ok(());
    };
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail))
}

/// 400 for what is not JSON, 422 for JSON of another shape; both with line and column.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // serde takes an array for a struct's fields in their order, which is nobody's intention.
    if body.trim_ascii_start().first() == Some(&b'[') {
        let error = FieldError::new("body", "expected an object, found an array");
        return Err(invalid("the body", vec![error]));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = serde_path_to_error::deserialize(&mut json);
    if read.is_err()
        && let Some(value) = read_whole(body)
    {
        return Ok(value);
    }
    let value = read.map_err(|error| {
        let field = error.path().to_string();
        let error = error.into_inner();
        if error.classify() != Category::Data {
            return malformed(&error);
        }
        let field = if field == "." { "body".to_owned() } else { field };
        invalid("the body", vec![FieldError::new(field, without_place(&error.to_string()))])
    })?;
    json.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

/// What serde says, without line and column: the field says where it is.
fn without_place(error: &str) -> &str {
    error.rsplit_once(" at line ").map_or(error, |(what, _)| what)
}

/// Reads a body in which whole numbers are written with a fraction, such as `2.0`: to JSON Schema they
/// are integers, to serde they are not.
fn read_whole<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    let mut value: Value = serde_json::from_slice(body).ok()?;
    whole_numbers(&mut value).then(|| T::deserialize(value).ok())?
}

/// Writes whole numbers without a fraction; says whether there was one that had any.
pub(super) fn whole_numbers(value: &mut Value) -> bool {
    /// Beyond it, numbers with a fraction can't be told from their neighbours.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) => {
            let float = number.as_f64().filter(|_| number.is_f64());
            let whole = float.filter(|float| float.fract() == 0.0 && float.abs() <= EXACT);
            #[expect(
                clippy::cast_possible_truncation,
                reason = "it is whole, and no larger than that"
            )]
            let whole = whole.map(|float| float as i64);
            whole.inspect(|whole| *number = (*whole).into()).is_some()
        }
        // Each of them: there may be several.
        Value::Array(items) => items.iter_mut().map(whole_numbers).fold(false, |a, b| a | b),
        Value::Object(map) => map.values_mut().map(whole_numbers).fold(false, |a, b| a | b),
        _ => false,
    }
}

fn malformed(error: &serde_json::Error) -> ApiError {
    let detail = format!("the body is not valid JSON: {error}");
    ApiError::new(StatusCode::BAD_REQUEST, "malformed_json", detail)
}

/// 422: the body was understood, and these fields of it are wrong.
pub(super) fn invalid_job(errors: Vec<FieldError>) -> ApiError {
    refused("invalid_job", "the job", errors)
}

/// The same, of something else than a job.
pub(super) fn invalid(what: &str, errors: Vec<FieldError>) -> ApiError {
    refused("invalid_body", what, errors)
}

fn refused(code: &'static str, what: &str, errors: Vec<FieldError>) -> ApiError {
    let detail = match errors.as_slice() {
        [one] => format!("{what} can't be accepted: {}: {}", one.field, one.detail),
        many => format!("{what} can't be accepted: {} fields are wrong", many.len()),
    };
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail).with_errors(errors)
}

/// A secret that no error quotes.
pub(super) struct SecretText(SecretString);

impl SecretText {
    /// The secret.
    pub(super) fn secret(&self) -> &SecretString {
        &self.0
    }

    /// The secret.
    pub(super) fn into_secret(self) -> SecretString {
        self.0
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Through `Value`, because serde's own messages would quote what they found.
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self(text.into())),
            _ => Err(de::Error::custom("expected a string")),
        }
    }
}

/// How many entries a page has when nobody says.
pub(super) fn default_limit() -> i64 {
    50
}

/// The length of a page, if it is one that may be asked for.
pub(super) fn page_limit(limit: i64) -> Result<usize, ApiError> {
    let most = usize::try_from(limit).ok().filter(|limit| (1..=200).contains(limit));
    most.ok_or_else(|| {
        ApiError::bad_parameter("limit", format!("limit is {limit}: expected 1 to 200"))
    })
}

/// One parameter in the path.
pub(super) struct PathParam<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathParam<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(path_error(&rejection)),
        }
    }
}

fn path_error(rejection: &PathRejection) -> ApiError {
    let PathRejection::FailedToDeserializePathParams(error) = rejection else {
        return ApiError::bad_parameter("path", rejection.body_text());
    };
    match error.kind() {
        ErrorKind::ParseErrorAtKey { key, value, expected_type } => {
            let expected = expected_type.rsplit("::").next().unwrap_or(expected_type);
            ApiError::bad_parameter(key, format!("{value:?} is no {key}: expected a {expected}"))
        }
        ErrorKind::DeserializeError { key, value, message } => {
            ApiError::bad_parameter(key, format!("{value:?} is no {key}: {message}"))
        }
        _ => ApiError::bad_parameter("path", error.body_text()),
    }
}

/// All parameters of the query string.
pub(super) struct QueryParams<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            // It names the parameter, behind a sentence that is for programmers.
            Err(rejection) => Err(match query_error(&rejection.body_text()) {
                Some((name, why)) => ApiError::bad_parameter(name, format!("{name}: {why}")),
                None => ApiError::bad_parameter("query", rejection.body_text()),
            }),
        }
    }
}

/// The parameter that is wrong, and why.
fn query_error(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix("Failed to deserialize query string: ")?;
    let (name, why) = rest.split_once(": ")?;
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_').then_some((name, why))
}

/// A header's text if it was sent; `check` says which values are good, `expected` says it in words.
pub(super) fn header<'a>(
    headers: &'a HeaderMap,
    name: &'static str,
    check: impl Fn(&str) -> bool,
    expected: &str,
) -> Result<Option<&'a str>, ApiError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    match value.to_str() {
        Ok(text) if check(text) => Ok(Some(text)),
        _ => Err(ApiError::bad_parameter(name, format!("{name} must be {expected}"))),
    }
}
