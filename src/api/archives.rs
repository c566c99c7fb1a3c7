//! `/v1/archives`: what is in the store, whoever put it there.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::jobs::job::ImageId;
use crate::publish::stored::ListedArchive;
use crate::workspaces::Role;

use super::AppState;
use super::auth::{May, scope};
use super::extract::{QueryParams, page_limit};
use super::problem::{ApiError, CommonProblems};

/// Which archives to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Only archives of images whose ids begin so: up to 16 lowercase hex digits.
    #[serde(default)]
    #[param(pattern = "^[0-9a-f]{0,16}$")]
    prefix: String,
    /// Only archives of images whose ids sort behind this one: the `next` of the page before.
    after: Option<ImageId>,
    /// At most this many.
    #[serde(default = "super::extract::default_limit")]
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: i64,
}

/// One page of archives, in the order of their image ids.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ArchivePage {
    archives: Vec<ListedArchive>,
    /// Pass it as `after` to see the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<ImageId>,
}

/// Lists archives
///
/// What the store holds, page by page: also archives that no job of this service made.
#[utoipa::path(
    get,
    path = "/v1/archives",
    operation_id = "list_archives",
    tag = "images",
    params(ListParams),
    responses(CommonProblems, (status = 200, description = "One page of archives", body = ArchivePage)),
    security((), ("token" = []))
)]
pub(super) async fn list(
    State(state): State<AppState>,
    may: May<scope::ImagesRead>,
    QueryParams(params): QueryParams<ListParams>,
) -> Result<Json<ArchivePage>, ApiError> {
    if may.access.role == Role::Workspace {
        let detail = "what is in the store belongs to all workspaces: a token of one can't list it";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "role_missing", detail));
    }
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if params.prefix.len() > 16 || !params.prefix.bytes().all(hex) {
        let detail = "prefix must be up to 16 lowercase hex digits";
        return Err(ApiError::bad_parameter("prefix", detail));
    }
    let limit = page_limit(params.limit)?;
    let ListParams { prefix, after, .. } = params;
    let listed = state.archives.list(&prefix, after.as_ref(), limit + 1).await;
    let mut archives = listed.map_err(|error| ApiError::from_lower(&error))?;
    // One more than asked for tells whether there is another page.
    let more = archives.len() > limit;
    archives.truncate(limit);
    let next = archives.last().filter(|_| more).map(|archive| archive.image_id.clone());
    Ok(Json(ArchivePage { archives, next }))
}
