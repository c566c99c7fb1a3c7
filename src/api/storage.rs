//! `/v1/workspaces/{id}/storage`: the bucket of a workspace, from which builds take contexts.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use reqwest::Url;
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use utoipa::ToSchema;

use super::AppState;
use super::auth::{May, no_workspace, scope};
use super::extract::{JsonBody, PathParam, SecretText, invalid};
use super::problem::{ApiError, BodyProblems, CommonProblems, FieldError, Problem};
use crate::egress::Egress;
use crate::workspace::WorkspaceId;
use crate::workspaces::{NewStorage, Storage, WorkspaceError};

/// The region of who names none, which servers that are not AWS mostly ignore.
const REGION: &str = "us-east-1";
/// Bytes of an address at most.
const MAX_ENDPOINT: usize = 255;

/// A bucket, and what opens it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "bucket": "team-a", "region": "eu-central-1", "endpoint": "https://s3.example",
    "access_key": "AKIAIOSFODNN7EXAMPLE", "secret_key": "a long random text"
}))]
pub(super) struct NewStorageBody {
    /// The bucket's name.
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]$")]
    bucket: String,
    /// Its region; `us-east-1` when absent.
    #[schema(pattern = "^[A-Za-z0-9-]{1,64}$")]
    region: Option<String>,
    /// Base address of a server that is not AWS: the bucket is in the path there.
    #[schema(
        max_length = 255,
        pattern = r"^https?://(([a-z0-9]|[a-z0-9]-[a-z0-9])+[.])*[a-z]([a-z0-9]|[a-z0-9]-[a-z0-9])*(:[1-9][0-9]{0,3})?/?$"
    )]
    endpoint: Option<String>,
    /// Names the key.
    #[schema(pattern = "^[!-~]{1,128}$")]
    access_key: String,
    /// The secret key. Kept encrypted, never shown.
    #[schema(value_type = String, pattern = "^[!-~]{1,256}$", write_only)]
    secret_key: SecretText,
}

impl NewStorageBody {
    fn checked(self, egress: Egress) -> Result<NewStorage, ApiError> {
        let Self { bucket, region, endpoint, access_key, secret_key } = self;
        let secret_key = secret_key.into_secret();
        let region = region.unwrap_or_else(|| REGION.to_owned());
        let visible = |text: &str, most: usize| {
            (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let mut wrong = Vec::new();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let ends = |text: &str| {
            let ends = [text.bytes().next(), text.bytes().last()];
            ends.into_iter().all(|byte| byte.is_some_and(|byte| byte.is_ascii_alphanumeric()))
        };
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(plain) || !ends(&bucket) {
            let detail = "expected 3 to 63 letters, digits, '.', '_' and '-', the first and the last one of the former";
            wrong.push(FieldError::new("bucket", detail));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if !(1..=64).contains(&region.len()) || !region.bytes().all(plain) {
            wrong.push(FieldError::new("region", "expected 1 to 64 letters, digits and '-'"));
        }
        if let Some(reason) = endpoint.as_deref().and_then(|text| endpoint_fault(text, egress)) {
            wrong.push(FieldError::new("endpoint", reason));
        }
        if !visible(&access_key, 128) {
            let detail = "expected 1 to 128 visible ASCII characters";
            wrong.push(FieldError::new("access_key", detail));
        }
        if !visible(secret_key.expose_secret(), 256) {
            let detail = "expected 1 to 256 visible ASCII characters";
            wrong.push(FieldError::new("secret_key", detail));
        }
        if !wrong.is_empty() {
            return Err(invalid("the storage", wrong));
        }
        Ok(NewStorage { bucket, region, endpoint, access_key, secret_key })
    }
}

/// Why nothing can be asked at this address; `None` if it can. What a name resolves to is judged when it is.
fn endpoint_fault(text: &str, egress: Egress) -> Option<String> {
    let expected =
        || Some("expected http:// or https://, a host, and nothing behind it".to_owned());
    let Some(url) = text.parse::<Url>().ok().filter(|_| text.len() <= MAX_ENDPOINT) else {
        return expected();
    };
    let has_user = !url.username().is_empty() || url.password().is_some();
    let has_more = url.path() != "/" || url.query().is_some() || url.fragment().is_some();
    let has_host = url.host_str().is_some_and(|host| !host.is_empty());
    if !matches!(url.scheme(), "http" | "https") || has_user || has_more || !has_host {
        return expected();
    }
    egress.check(&url).err().map(|error| error.to_string())
}

/// Gives a workspace a bucket
///
/// In place of the one that it had. Builds take contexts from there; the secret key is kept encrypted.
#[utoipa::path(
    put,
    path = "/v1/workspaces/{id}/storage",
    operation_id = "set_storage",
    tag = "workspaces",
    params(("id" = WorkspaceId, Path, description = "The workspace's name")),
    request_body = NewStorageBody,
    responses(
        CommonProblems,
        BodyProblems,
        (status = 200, description = "The bucket, without its secret key", body = Storage),
        (status = 404, description = "No such workspace", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn set(
    State(state): State<AppState>,
    may: May<scope::WorkspacesWrite>,
    PathParam(id): PathParam<WorkspaceId>,
    JsonBody(new): JsonBody<NewStorageBody>,
) -> Result<Json<Storage>, ApiError> {
    let new = new.checked(state.egress)?;
    let written = state.workspaces.set_storage(&id, &new, &may.change()).await;
    written.map(Json).map_err(|error| match error {
        WorkspaceError::NoWorkspace(id) => no_workspace(&id),
        error => ApiError::from_lower(&error),
    })
}

/// Shows the bucket of a workspace
///
/// Its secret key is never shown.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{id}/storage",
    operation_id = "get_storage",
    tag = "workspaces",
    params(("id" = WorkspaceId, Path, description = "The workspace's name")),
    responses(
        CommonProblems,
        (status = 200, description = "The bucket", body = Storage),
        (status = 404, description = "No such workspace, or it has no bucket", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn get(
    State(state): State<AppState>,
    may: May<scope::WorkspacesRead>,
    PathParam(id): PathParam<WorkspaceId>,
) -> Result<Json<Storage>, ApiError> {
    if !may.access.sees(&id) {
        return Err(no_workspace(&id));
    }
    let found =
        state.workspaces.storage(&id).await.map_err(|error| ApiError::from_lower(&error))?;
    found.map(Json).ok_or_else(|| no_storage(&id))
}

/// Forgets the bucket of a workspace
///
/// What is in it stays there.
#[utoipa::path(
    delete,
    path = "/v1/workspaces/{id}/storage",
    operation_id = "remove_storage",
    tag = "workspaces",
    params(("id" = WorkspaceId, Path, description = "The workspace's name")),
    responses(
        CommonProblems,
        (status = 204, description = "It is forgotten"),
        (status = 404, description = "No such workspace, or it has no bucket", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn remove(
    State(state): State<AppState>,
    may: May<scope::WorkspacesWrite>,
    PathParam(id): PathParam<WorkspaceId>,
) -> Result<StatusCode, ApiError> {
    let removed = state.workspaces.remove_storage(&id, &may.change()).await;
    let removed = removed.map_err(|error| ApiError::from_lower(&error))?;
    if removed { Ok(StatusCode::NO_CONTENT) } else { Err(no_storage(&id)) }
}

fn no_storage(id: &WorkspaceId) -> ApiError {
    ApiError::not_found("storage_not_found", format!("the workspace {id} has no storage"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_that_may_be_reached() {
        for good in ["https://s3.example", "http://s3.example:9000/", "http://127.0.0.1:9000"] {
            assert_eq!(endpoint_fault(good, Egress::Private), None, "{good}");
        }
        for bad in [
            "",
            "s3.example",
            "ftp://s3.example",
            "https://s3.example/path",
            "https://s3.example?a",
            "https://u:hunter2@s3.example",
            "https://s3.example#a",
            "http://169.254.169.254",
        ] {
            let reason = endpoint_fault(bad, Egress::Private).unwrap();
            assert!(!reason.contains("hunter2"), "{reason}");
        }
        assert!(endpoint_fault("http://127.0.0.1:9000", Egress::Public).is_some());
    }
}
