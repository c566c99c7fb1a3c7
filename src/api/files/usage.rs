//! `/v1/images/{image_id}/files/usage`: what makes an image big, and which layer it is in.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::entry::{FileType, text_and_hex};
use super::{bytes_of, no_file, root};
use crate::api::AppState;
use crate::api::auth::{May, scope};
use crate::api::extract::{PathParam, QueryParams};
use crate::api::images::opened;
use crate::api::problem::{ApiError, CommonProblems, Problem};
use crate::clip::node::Node;
use crate::clip::usage::{Usage, usage};
use crate::digest::Digest;
use crate::jobs::job::ImageId;
use crate::local::blocking;

/// Levels of names that are told apart, at most.
const MAX_DEPTH: usize = 8;
/// Entries of an answer, at most.
const MAX_ENTRIES: usize = 1000;

/// Which directory, and how much of it.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct UsageParams {
    /// Its path in the image, from the root.
    #[serde(default = "root")]
    #[param(default = "/", max_length = 4096)]
    path: String,
    /// The same as the hex digits of its bytes, for paths that are no UTF-8; goes before `path`.
    #[param(pattern = "^([0-9a-f]{2})*$", max_length = 8192)]
    path_hex: Option<String>,
    /// How many levels of names are told apart.
    #[serde(default = "default_depth")]
    #[param(default = 3, minimum = 1, maximum = 8)]
    depth: i64,
    /// At most this many entries, the largest.
    #[serde(default = "default_entries")]
    #[param(default = 300, minimum = 1, maximum = 1000)]
    limit: i64,
}

fn default_depth() -> i64 {
    3
}

fn default_entries() -> i64 {
    300
}

fn bounded(field: &str, value: i64, most: usize) -> Result<usize, ApiError> {
    let good = usize::try_from(value).ok().filter(|value| (1..=most).contains(value));
    let detail = || format!("{field} is {value}: expected 1 to {most}");
    good.ok_or_else(|| ApiError::bad_parameter(field, detail()))
}

/// What is below a directory, in bytes. A content of several names is counted once.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct DirectoryUsage {
    /// The directory, links followed.
    path: String,
    /// The path's bytes, where `path` can't show them.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    /// Bytes of all files below it.
    bytes: u64,
    /// How many files there are.
    files: u64,
    /// How many of the bytes are in which layer, most first; of v2.
    layers: Vec<LayerUsage>,
    /// The largest of what is below it, largest first: a directory comes before what is in it.
    entries: Vec<EntryUsage>,
}

/// What a layer holds of it.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::api) struct LayerUsage {
    /// The layer.
    #[schema(value_type = String)]
    layer: Digest,
    /// How many bytes.
    bytes: u64,
}

/// A directory or file, in bytes.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "path": "/usr/lib", "type": "dir", "bytes": 48_213_004, "files": 1290,
    "layer": "sha256:3f26e1b0c5b2a3b1e9d6e6e2c1f5a5f0c5b2a3b1e9d6e6e2c1f5a5f0c5b2a3b1", "layer_bytes": 48_113_004
}))]
pub(in crate::api) struct EntryUsage {
    /// From the root.
    path: String,
    /// The path's bytes, where `path` can't show them.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    /// What it is.
    #[serde(rename = "type")]
    kind: FileType,
    /// Bytes of the files below it, or of the file.
    bytes: u64,
    /// How many files there are.
    files: u64,
    /// The layer that holds most of it; of v2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    layer: Option<Digest>,
    /// How many of its bytes that layer holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    layer_bytes: Option<u64>,
}

impl EntryUsage {
    fn of(node: &Node, usage: &Usage) -> Self {
        let (path, path_hex) = text_and_hex(node.path.as_bytes());
        let main = by_layer(usage).into_iter().next();
        Self {
            path,
            path_hex,
            kind: FileType::of(&node.kind),
            bytes: usage.bytes,
            files: usage.files,
            layer: main.as_ref().map(|main| main.layer),
            layer_bytes: main.map(|main| main.bytes),
        }
    }
}

/// Most first.
fn by_layer(usage: &Usage) -> Vec<LayerUsage> {
    let mut layers: Vec<_> =
        usage.layers.iter().map(|(&layer, &bytes)| LayerUsage { layer, bytes }).collect();
    layers.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.layer.hex().cmp(&b.layer.hex())));
    layers
}

/// Says what makes an image big
///
/// Sums up the files below a directory: its largest directories and files, and which layer holds them.
/// Symbolic links are followed inside the image.
#[utoipa::path(
    get,
    path = "/v1/images/{image_id}/files/usage",
    operation_id = "get_file_usage",
    tag = "images",
    params(("image_id" = ImageId, Path, description = "16 lowercase hex digits"), UsageParams),
    responses(
        CommonProblems,
        (status = 200, description = "Sums, largest first", body = DirectoryUsage),
        (status = 404, description = "No such image or file", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(in crate::api) async fn show(
    State(state): State<AppState>,
    may: May<scope::ImagesRead>,
    PathParam(image_id): PathParam<ImageId>,
    QueryParams(params): QueryParams<UsageParams>,
) -> Result<Json<DirectoryUsage>, ApiError> {
    let depth = bounded("depth", params.depth, MAX_DEPTH)?;
    let limit = bounded("limit", params.limit, MAX_ENTRIES)?;
    let path = bytes_of(params.path, params.path_hex)?;
    let open = opened(&state, &may.access, &image_id).await?;
    // Millions of nodes take a while.
    let summed = blocking(move || {
        let tree = &open.archive().tree;
        let node = tree.resolve(&path).map_err(|error| no_file(&error))?;
        let found = usage(tree, &node.path, depth, limit);
        let (path, path_hex) = text_and_hex(node.path.as_bytes());
        Ok(DirectoryUsage {
            path,
            path_hex,
            bytes: found.total.bytes,
            files: found.total.files,
            layers: by_layer(&found.total),
            entries: found
                .largest
                .iter()
                .map(|(node, usage)| EntryUsage::of(node, usage))
                .collect(),
        })
    });
    summed.await.map_err(|error| ApiError::internal(&error))?.map(Json)
}
