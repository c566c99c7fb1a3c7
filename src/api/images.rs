//! `/v1/images`: the images whose archives are in the store, and their bytes.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    ETAG, IF_NONE_MATCH, LOCATION, RANGE,
};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::auth::{May, scope};
use super::byte_range::{Wanted, wanted};
use super::extract::{PathParam, QueryParams, default_limit, page_limit};
use super::problem::{ApiError, CommonProblems, Problem};
use crate::jobs::job::{Image, ImageId};
use crate::publish::archives::{ArchiveName, ArchiveStore};
use crate::store::Key;
use crate::workspaces::Access;

/// How long an address of the store is good.
const SIGNED_FOR: Duration = Duration::from_mins(15);
/// Bytes of an archive in memory at a time, for each who reads one.
const CHUNK: u64 = 1 << 20;

/// Which images to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Only images whose ids sort behind this one: the `next` of the page before.
    after: Option<ImageId>,
    /// At most this many.
    #[serde(default = "default_limit")]
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: i64,
}

/// One page of images, by their ids.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ImagePage {
    images: Vec<Image>,
    /// Pass it as `after` to see the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<ImageId>,
}

/// Lists images
///
/// Those of the workspace, page by page, in the order of their ids.
#[utoipa::path(
    get,
    path = "/v1/images",
    operation_id = "list_images",
    tag = "images",
    params(ListParams),
    responses(CommonProblems, (status = 200, description = "One page of images", body = ImagePage)),
    security((), ("token" = []))
)]
pub(super) async fn list(
    State(state): State<AppState>,
    may: May<scope::ImagesRead>,
    QueryParams(params): QueryParams<ListParams>,
) -> Result<Json<ImagePage>, ApiError> {
    page_limit(params.limit)?;
    let after = params.after.as_ref();
    let listed = state.queue.images(&may.access.workspace, after, params.limit).await;
    let (images, next) = listed.map_err(|error| ApiError::from_lower(&error))?;
    Ok(Json(ImagePage { images, next }))
}

/// Shows an image
///
/// What is known of the archive that an image id names: where it is, what it was made from, and
/// by which job.
#[utoipa::path(
    get,
    path = "/v1/images/{image_id}",
    operation_id = "get_image",
    tag = "images",
    params(("image_id" = ImageId, Path, description = "16 lowercase hex digits")),
    responses(
        CommonProblems,
        (status = 200, description = "The image", body = Image),
        (status = 404, description = "No such image", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn get(
    State(state): State<AppState>,
    may: May<scope::ImagesRead>,
    PathParam(image_id): PathParam<ImageId>,
) -> Result<Json<Image>, ApiError> {
    image(&state, &may.access, &image_id).await.map(Json)
}

/// The image, if the workspace has it.
async fn image(state: &AppState, access: &Access, id: &ImageId) -> Result<Image, ApiError> {
    let image = state.queue.image(&access.workspace, id).await;
    let image = image.map_err(|error| ApiError::from_lower(&error))?;
    image.ok_or_else(|| {
        let detail = format!("there is no archive of an image {id}");
        ApiError::not_found("image_not_found", detail)
    })
}

/// How to give an archive.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ArchiveParams {
    /// Whether to answer with an address of the store's own, where it has such; `false` sends the bytes in
    /// any case.
    #[serde(default = "default_redirect")]
    #[param(default = true)]
    redirect: bool,
}

fn default_redirect() -> bool {
    true
}

/// Gives the bytes of an archive
///
/// Of a v1 archive in S3 that is its index: the data beside it are where that says. Where the store has
/// addresses that anybody can read for a while, the answer leads there.
#[utoipa::path(
    get,
    path = "/v1/images/{image_id}/archive",
    operation_id = "get_image_archive",
    tag = "images",
    params(
        ("image_id" = ImageId, Path, description = "16 lowercase hex digits"),
        ArchiveParams,
        ("Range" = Option<String>, Header, description = "One range of bytes"),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of what is there already"),
    ),
    responses(
        CommonProblems,
        (status = 200, description = "All of it", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, description = "The range", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 304, description = "It is what is there already"),
        (status = 307, description = "It is at `Location`, for 15 minutes"),
        (status = 404, description = "No such image", body = Problem, content_type = "application/problem+json"),
        (status = 416, description = "The archive has no such bytes", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn archive(
    State(state): State<AppState>,
    may: May<scope::ImagesRead>,
    PathParam(image_id): PathParam<ImageId>,
    QueryParams(params): QueryParams<ArchiveParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    image(&state, &may.access, &image_id).await?;
    let lower = |error| ApiError::from_lower(&error);
    let key = state.archives.key(&ArchiveName::Image(image_id));
    let found = state.archives.stat(&key).await.map_err(lower)?;
    let Some(found) = found else {
        // The row will be forgotten soon.
        let detail = format!("the archive {key} is not in the store any more");
        return Err(ApiError::not_found("image_not_found", detail));
    };
    let etag = format!("\"{}\"", found.version.to_string().trim_matches('"'));
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if text(IF_NONE_MATCH).is_some_and(|seen| seen.split(',').any(|seen| seen.trim() == etag)) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response());
    }
    if params.redirect
        && let Some(address) = state.archives.presign(&key, SIGNED_FOR).await.map_err(lower)?
    {
        let headers = [(LOCATION, address), (CACHE_CONTROL, "no-store".to_owned())];
        return Ok((StatusCode::TEMPORARY_REDIRECT, headers).into_response());
    }
    let (status, first, end) = match wanted(text(RANGE), found.size) {
        Wanted::All => (StatusCode::OK, 0, found.size),
        Wanted::Part(first, end) => (StatusCode::PARTIAL_CONTENT, first, end),
        Wanted::Nothing => {
            let detail = format!("the archive has {} bytes, and none of those", found.size);
            return Err(ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "no_such_range", detail));
        }
    };
    let common = [
        // Whatever is in it, no browser is to take it for a page.
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (HeaderName::from_static("x-content-type-options"), "nosniff".to_owned()),
        (CONTENT_DISPOSITION, format!("attachment; filename=\"{key}\"")),
        (CONTENT_LENGTH, (end - first).to_string()),
        (ACCEPT_RANGES, "bytes".to_owned()),
        (ETAG, etag),
    ];
    let mut answer = (status, common, body(state.archives, key, first, end)).into_response();
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {first}-{}/{}", end - 1, found.size);
        if let Ok(range) = range.parse() {
            answer.headers_mut().insert(CONTENT_RANGE, range);
        }
    }
    Ok(answer)
}

/// The bytes of an object, a piece at a time.
fn body(archives: Arc<dyn ArchiveStore>, key: Key, first: u64, end: u64) -> Body {
    Body::from_stream(stream::try_unfold(first, move |at| {
        let (archives, key) = (archives.clone(), key.clone());
        async move {
            if at >= end {
                return Ok::<_, std::io::Error>(None);
            }
            let read: Result<Bytes, _> = archives.read(&key, at, CHUNK.min(end - at)).await;
            let bytes = read.map_err(|error| {
                tracing::warn!(%key, %error, "an archive broke off");
                std::io::Error::other(error)
            })?;
            if bytes.is_empty() {
                return Err(std::io::Error::other("the archive became shorter meanwhile"));
            }
            let next = at + bytes.len() as u64;
            Ok(Some((bytes, next)))
        }
    }))
}
