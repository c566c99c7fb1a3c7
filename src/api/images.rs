//! `/v1/images`: the images whose archives are in the store, and their bytes.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::auth::{May, scope};
use super::bytes::Subject;
use super::extract::{PathParam, QueryParams, default_limit, page_limit};
use super::problem::{ApiError, CommonProblems, Problem};
use crate::digest::Digest;
use crate::jobs::job::{Image, ImageId, Job};
use crate::publish::PublishError;
use crate::publish::archives::{ArchiveName, ArchiveStore};
use crate::publish::files::OpenArchive;
use crate::store::{Key, ObjectVersion};
use crate::workspaces::{Access, ImageEnd};

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

/// An image, and how it was made.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ImageDetail {
    #[serde(flatten)]
    image: Image,
    /// How long that took; absent once the job is not kept any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    timing: Option<Timing>,
}

/// How long a job took.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Timing {
    /// When it was accepted.
    queued_at: DateTime<Utc>,
    /// When its last attempt started.
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<DateTime<Utc>>,
    /// Attempts that were started.
    attempts: i32,
    /// Seconds from when it was accepted to when its last attempt started.
    #[serde(skip_serializing_if = "Option::is_none")]
    waited_seconds: Option<f64>,
    /// Seconds from when it was accepted to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    total_seconds: Option<f64>,
}

impl Timing {
    fn of(job: &Job) -> Self {
        let since = |at: DateTime<Utc>| (at - job.created_at).as_seconds_f64().max(0.0);
        Self {
            queued_at: job.created_at,
            started_at: job.started_at,
            finished_at: job.finished_at,
            attempts: job.attempt,
            waited_seconds: job.started_at.map(since),
            total_seconds: job.finished_at.map(since),
        }
    }
}

/// Shows an image
///
/// What is known of the archive that an image id names: where it is, what it was made from, layer by layer,
/// by which job, and how long that took.
#[utoipa::path(
    get,
    path = "/v1/images/{image_id}",
    operation_id = "get_image",
    tag = "images",
    params(("image_id" = ImageId, Path, description = "16 lowercase hex digits")),
    responses(
        CommonProblems,
        (status = 200, description = "The image", body = ImageDetail),
        (status = 404, description = "No such image", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn get(
    State(state): State<AppState>,
    may: May<scope::ImagesRead>,
    PathParam(image_id): PathParam<ImageId>,
) -> Result<Json<ImageDetail>, ApiError> {
    let image = image(&state, &may.access, &image_id).await?;
    let job = state.queue.get(image.job_id).await.map_err(|error| ApiError::from_lower(&error))?;
    Ok(Json(ImageDetail { image, timing: job.as_ref().map(Timing::of) }))
}

/// Deletes an image
///
/// Its archive, what migrations kept of it, the data beside them, and what is known of it; the image id is
/// free for anybody again. The job that made it stays for its time. Containers that run from a v1 archive in
/// S3 read from there: delete no image that is in use.
#[utoipa::path(
    delete,
    path = "/v1/images/{image_id}",
    operation_id = "delete_image",
    tag = "images",
    params(("image_id" = ImageId, Path, description = "16 lowercase hex digits")),
    responses(
        CommonProblems,
        (status = 204, description = "It is gone"),
        (status = 404, description = "No such image", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "A job about it waits or runs", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn delete(
    State(state): State<AppState>,
    may: May<scope::ImagesWrite>,
    PathParam(image_id): PathParam<ImageId>,
) -> Result<StatusCode, ApiError> {
    let (archives, workspace) = (&*state.archives, &may.access.workspace);
    let end = state.workspaces.delete_image(archives, workspace, &image_id, &may.change()).await;
    match end.map_err(|error| ApiError::from_lower(&error))? {
        ImageEnd::Deleted => Ok(StatusCode::NO_CONTENT),
        ImageEnd::Missing => Err(no_image(&image_id)),
        ImageEnd::Busy => {
            let detail = format!("a job about the image {image_id} waits or runs: cancel it first");
            Err(ApiError::new(StatusCode::CONFLICT, "image_in_use", detail))
        }
        ImageEnd::Crowded => {
            let detail = "other images are being deleted, which takes its time; try again later";
            let busy = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_deletions", detail);
            Err(busy.with_header("retry-after", "5"))
        }
    }
}

pub(super) fn no_image(id: &ImageId) -> ApiError {
    ApiError::not_found("image_not_found", format!("there is no archive of an image {id}"))
}

/// The image, if the workspace has it.
pub(super) async fn image(
    state: &AppState,
    access: &Access,
    id: &ImageId,
) -> Result<Image, ApiError> {
    let image = state.queue.image(&access.workspace, id).await;
    let image = image.map_err(|error| ApiError::from_lower(&error))?;
    image.ok_or_else(|| no_image(id))
}

/// Opens the archive of an image that the workspace has.
///
/// There is one name for all workspaces, and its owner may publish something else under it, or leave it to
/// yet another: the others have what the jobs of their own images made, or nothing. Whose it is is asked
/// when it is known what is there.
pub(super) async fn opened(
    state: &AppState,
    access: &Access,
    id: &ImageId,
) -> Result<Arc<OpenArchive>, ApiError> {
    let image = image(state, access, id).await?;
    let key = state.archives.key(&ArchiveName::Image(id.clone()));
    let open = state.reader.open(&key).await.map_err(|error| ApiError::from_lower(&error))?;
    let open = open.ok_or_else(|| gone(&key))?;
    let may = owns(state, access, id).await? || made(&image) == Some(open.digest());
    if may { Ok(open) } else { Err(no_image(id)) }
}

/// Whether the archive under the id is the workspace's own.
async fn owns(state: &AppState, access: &Access, id: &ImageId) -> Result<bool, ApiError> {
    let own = state.workspaces.owns_archive(&access.workspace, id).await;
    own.map_err(|error| ApiError::from_lower(&error))
}

/// The digest of the archive that the image's job made.
fn made(image: &Image) -> Option<Digest> {
    image.result.json().pointer("/archive/digest")?.as_str()?.parse().ok()
}

/// 404: the row will be forgotten soon.
fn gone(key: &Key) -> ApiError {
    let detail = format!("the archive {key} is not in the store any more");
    ApiError::not_found("image_not_found", detail)
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
/// addresses that anybody can read for a while, and the archive is the workspace's own, the answer leads there.
#[utoipa::path(
    get,
    path = "/v1/images/{image_id}/archive",
    operation_id = "get_image_archive",
    tag = "images",
    params(
        ("image_id" = ImageId, Path, description = "16 lowercase hex digits"),
        ArchiveParams,
        ("Range" = Option<String>, Header, description = "One range of bytes"),
        ("If-Range" = Option<String>, Header, description = "The `ETag` of what the range continues"),
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
    let key = state.archives.key(&ArchiveName::Image(image_id.clone()));
    let found = state.archives.stat(&key).await.map_err(lower)?.ok_or_else(|| gone(&key))?;
    let own = owns(&state, &may.access, &image_id).await?;
    let found = if own { found } else { opened(&state, &may.access, &image_id).await?.stat() };
    let subject = Subject {
        what: "archive",
        size: found.size,
        etag: format!("\"{}\"", found.version.to_string().trim_matches('"')),
        name: key.to_string(),
    };
    if let Some(answer) = subject.unchanged(&headers) {
        return Ok(answer);
    }
    // At an address is what is there by then: that is for its owner alone.
    if params.redirect
        && own
        && let Some(address) = state.archives.presign(&key, SIGNED_FOR).await.map_err(lower)?
    {
        let headers = [(LOCATION, address), (CACHE_CONTROL, "no-store".to_owned())];
        return Ok((StatusCode::TEMPORARY_REDIRECT, headers).into_response());
    }
    let part = subject.part(&headers)?;
    let body = body(state.archives, key, found.version, part.first, part.end);
    Ok(subject.answer(&part, body))
}

/// The bytes of an object, a piece at a time, as long as it is that object.
fn body(
    archives: Arc<dyn ArchiveStore>,
    key: Key,
    version: ObjectVersion,
    first: u64,
    end: u64,
) -> Body {
    Body::from_stream(stream::try_unfold(first, move |at| {
        let (archives, key, version) = (archives.clone(), key.clone(), version.clone());
        async move {
            if at >= end {
                return Ok::<_, std::io::Error>(None);
            }
            let read = async {
                let bytes: Bytes = archives.read(&key, at, CHUNK.min(end - at)).await?;
                // Asked after it: what was read before another took its place is right.
                let now = archives.stat(&key).await?;
                Ok::<_, PublishError>((bytes, now.is_some_and(|now| now.version == version)))
            };
            let (bytes, is_same) = read.await.map_err(|error| {
                tracing::warn!(%key, %error, "an archive broke off");
                std::io::Error::other(error)
            })?;
            if !is_same || bytes.is_empty() {
                return Err(std::io::Error::other("the archive became another meanwhile"));
            }
            let next = at + bytes.len() as u64;
            Ok(Some((bytes, next)))
        }
    }))
}
