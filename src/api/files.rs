//! `/v1/images/{image_id}/files`: what is in an image, read through its archive.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::auth::{May, scope};
use super::bytes::Subject;
use super::extract::{PathParam, QueryParams, default_limit, page_limit};
use super::images::opened;
use super::problem::{ApiError, CommonProblems, Problem};
use crate::clip::node::{Node, NodeKind, NodePath};
use crate::content::FileParts;
use crate::digest::Digest;
use crate::jobs::job::ImageId;
use crate::publish::files::OpenArchive;

/// What a node is, as JSON.
mod entry;
/// What makes an image big.
pub(super) mod usage;

use entry::FileEntry;

/// Bytes of a file in memory at a time, for each who reads one.
const CHUNK: u64 = 4 << 20;

/// Which file.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PathParams {
    /// Its path in the image, from the root.
    #[serde(default = "root")]
    #[param(default = "/", max_length = 4096)]
    path: String,
    /// The same as the hex digits of its bytes, for paths that are no UTF-8; goes before `path`.
    #[param(pattern = "^([0-9a-f]{2})*$", max_length = 8192)]
    path_hex: Option<String>,
}

/// Which file, and which part of what is in it.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Its path in the image, from the root.
    #[serde(default = "root")]
    #[param(default = "/", max_length = 4096)]
    path: String,
    /// The same as the hex digits of its bytes, for paths that are no UTF-8; goes before `path`.
    #[param(pattern = "^([0-9a-f]{2})*$", max_length = 8192)]
    path_hex: Option<String>,
    /// Only entries behind this one: the `next` of the page before.
    #[param(pattern = "^([0-9a-f]{2})*$", max_length = 8192)]
    after: Option<String>,
    /// At most this many entries.
    #[serde(default = "default_limit")]
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: i64,
}

fn root() -> String {
    "/".to_owned()
}

/// The path as it stands in the archive.
fn bytes_of(path: String, path_hex: Option<String>) -> Result<Vec<u8>, ApiError> {
    match path_hex {
        Some(digits) => unhex("path_hex", &digits),
        None => Ok(path.into_bytes()),
    }
}

fn unhex(field: &str, digits: &str) -> Result<Vec<u8>, ApiError> {
    let plain = !digits.bytes().any(|b| b.is_ascii_uppercase());
    let bytes = hex::decode(digits).ok().filter(|_| plain);
    let detail = "expected an even number of the digits 0 to 9 and a to f";
    bytes.ok_or_else(|| ApiError::bad_parameter(field, detail))
}

/// A file, and a page of what is in it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FilePage {
    /// The file itself.
    entry: FileEntry,
    /// What is in it, by name; of a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<Vec<FileEntry>>,
    /// Pass it as `after` to see the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Lists files of an image
///
/// Shows one entry of the image's tree, and of a directory what is in it, page by page. Symbolic links on
/// the way are followed inside the image; one that is asked for itself is shown.
#[utoipa::path(
    get,
    path = "/v1/images/{image_id}/files",
    operation_id = "list_files",
    tag = "images",
    params(("image_id" = ImageId, Path, description = "16 lowercase hex digits"), ListParams),
    responses(
        CommonProblems,
        (status = 200, description = "The entry, and a page of what is in it", body = FilePage),
        (status = 404, description = "No such image or file", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn list(
    State(state): State<AppState>,
    may: May<scope::ImagesRead>,
    PathParam(image_id): PathParam<ImageId>,
    QueryParams(params): QueryParams<ListParams>,
) -> Result<Json<FilePage>, ApiError> {
    let limit = page_limit(params.limit)?;
    let path = bytes_of(params.path, params.path_hex)?;
    let after = params.after.map(|after| unhex("after", &after)).transpose()?;
    let open = opened(&state, &may.access, &image_id).await?;
    let node = entry_at(&open, &path)?;
    if node.kind != NodeKind::Directory {
        return Ok(Json(FilePage { entry: FileEntry::of(node), entries: None, next: None }));
    }
    let is_behind = |node: &&Node| after.as_ref().is_none_or(|after| node.path.name() > &after[..]);
    // One more than asked for tells whether there is another page.
    let children = open.archive().tree.children(&node.path).filter(is_behind).take(limit + 1);
    let mut children: Vec<_> = children.collect();
    let more = children.len() > limit;
    children.truncate(limit);
    let next = children.last().filter(|_| more).map(|node| hex::encode(node.path.name()));
    let entries = children.into_iter().map(FileEntry::of).collect();
    Ok(Json(FilePage { entry: FileEntry::of(node), entries: Some(entries), next }))
}

/// Gives the content of a file
///
/// The bytes come out of the image's layers, through the archive's seek table, or out of the data of a v1
/// archive, and each was verified. Layers are fetched with the service's own credentials, if it has any for
/// their registry: what a job brought is gone. Symbolic links are followed inside the image.
#[utoipa::path(
    get,
    path = "/v1/images/{image_id}/files/content",
    operation_id = "get_file_content",
    tag = "images",
    params(
        ("image_id" = ImageId, Path, description = "16 lowercase hex digits"),
        PathParams,
        ("Range" = Option<String>, Header, description = "One range of bytes"),
        ("If-Range" = Option<String>, Header, description = "The `ETag` of what the range continues"),
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of what is there already"),
    ),
    responses(
        CommonProblems,
        (status = 200, description = "All of it", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, description = "The range", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 304, description = "It is what is there already"),
        (status = 404, description = "No such image or file", body = Problem, content_type = "application/problem+json"),
        (status = 416, description = "The file has no such bytes", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "It is no regular file, or its bytes can't be had", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn content(
    State(state): State<AppState>,
    may: May<scope::ImagesRead>,
    PathParam(image_id): PathParam<ImageId>,
    QueryParams(params): QueryParams<PathParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let path = bytes_of(params.path, params.path_hex)?;
    let open = opened(&state, &may.access, &image_id).await?;
    let node = open.archive().tree.resolve(&path).map_err(|error| no_file(&error))?;
    if !matches!(node.kind, NodeKind::File(_)) {
        let detail = format!("{} is no regular file", shown(&node.path));
        return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "not_a_file", detail));
    }
    let subject = Subject {
        what: "file",
        size: node.content_length(),
        etag: etag(&open, &node.path),
        name: file_name(&node.path),
    };
    if let Some(answer) = subject.unchanged(&headers) {
        return Ok(answer);
    }
    let part = subject.part(&headers)?;
    let place = state.streams.open(&may.access)?;
    let cancel = CancellationToken::new();
    let file = state.reader.file(&open, node, &cancel).await;
    let mut file = file.map_err(|error| ApiError::from_lower(&error))?;
    // The first bytes before anything is answered: what is wrong mostly shows there.
    let (first, end) = (part.first, part.end);
    let begin = file.read(first, CHUNK.min(end - first), &cancel).await;
    let begin = begin.map_err(|error| ApiError::from_lower(&error))?;
    let reading = Reading { file, begin: Some(begin), at: first, end, cancel, _place: place };
    Ok(subject.answer(&part, reading.into_body()))
}

/// Who reads a file.
struct Reading {
    file: FileParts,
    begin: Option<Bytes>,
    at: u64,
    end: u64,
    cancel: CancellationToken,
    _place: super::streams::StreamPlace,
}

impl Reading {
    fn into_body(self) -> Body {
        Body::from_stream(stream::try_unfold(self, async |mut reading| {
            let bytes = reading.next().await.map_err(|error| {
                tracing::warn!(%error, "a file broke off");
                std::io::Error::other(error)
            })?;
            Ok::<_, std::io::Error>(bytes.map(|bytes| (bytes, reading)))
        }))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, crate::content::ContentError> {
        if self.at >= self.end {
            return Ok(None);
        }
        let bytes = match self.begin.take() {
            Some(bytes) => bytes,
            None => self.file.read(self.at, CHUNK.min(self.end - self.at), &self.cancel).await?,
        };
        self.at += bytes.len() as u64;
        Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

/// The node at a path, links followed but for the last.
fn entry_at<'a>(open: &'a OpenArchive, path: &[u8]) -> Result<&'a Node, ApiError> {
    let tree = &open.archive().tree;
    let end = path.iter().rposition(|b| *b != b'/').map_or(0, |at| at + 1);
    let (parent, name) = match path[..end].iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..end]),
        None => (&[][..], &path[..end]),
    };
    let found = tree.resolve(parent).and_then(|parent| {
        let child = parent.path.join(name).ok().and_then(|path| tree.get(&path));
        // Dots, and what is missing, are for the tree to say.
        child.map_or_else(|| tree.resolve(path), Ok)
    });
    found.map_err(|error| no_file(&error))
}

fn no_file(error: &crate::clip::ClipError) -> ApiError {
    ApiError::not_found("file_not_found", error.to_string())
}

/// Names the bytes: those of one archive don't change.
fn etag(open: &OpenArchive, path: &NodePath) -> String {
    let named = [open.version().to_string().as_bytes(), b" ", path.as_bytes()].concat();
    format!("\"{}\"", &Digest::of(&named).hex()[..32])
}

/// The last part of a path, in characters that need no quoting.
fn file_name(path: &NodePath) -> String {
    let plain = |b: &u8| {
        let is_plain = b.is_ascii_alphanumeric() || b"._-+".contains(b);
        if is_plain { char::from(*b) } else { '_' }
    };
    path.name().iter().take(200).map(plain).collect()
}

fn shown(path: &NodePath) -> String {
    path.as_bytes().escape_ascii().to_string()
}
