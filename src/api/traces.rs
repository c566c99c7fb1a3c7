//! `/v1/images/{image_id}/traces`: what starts of an image touched, for the next ones.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::auth::{May, scope};
use super::extract::{JsonBody, PathParam, invalid};
use super::images::no_image;
use super::problem::{ApiError, BodyProblems, CommonProblems, FieldError, Problem};
use crate::image_id::ImageId;
use crate::trace::{MAX_BYTES, Trace, TraceDocument};

/// What became of a trace.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MergedTrace {
    /// Of how many starts the image's trace tells now.
    #[schema(minimum = 0, maximum = 64)]
    starts: i32,
}

/// Reports what a start touched
///
/// It is merged into the image's trace. What was touched long ago counts ever less, and of an image that many
/// starts told of, one report a second is enough: the others are passed over.
#[utoipa::path(
    post,
    path = "/v1/images/{image_id}/traces",
    operation_id = "report_trace",
    tag = "images",
    params(("image_id" = ImageId, Path, description = "16 lowercase hex digits")),
    request_body = TraceDocument,
    responses(
        CommonProblems,
        BodyProblems,
        (status = 200, description = "It is merged, or passed over", body = MergedTrace),
        (status = 404, description = "No such image", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn report(
    State(state): State<AppState>,
    may: May<scope::StartsWrite>,
    PathParam(image_id): PathParam<ImageId>,
    JsonBody(document): JsonBody<TraceDocument, MAX_BYTES>,
) -> Result<Json<MergedTrace>, ApiError> {
    let trace = Trace::try_from(document).map_err(|error| {
        invalid("the trace", vec![FieldError::new("sources", error.to_string())])
    })?;
    let merged = state.rollouts.add_trace(&may.access.workspace, &image_id, &trace).await;
    let merged = merged.map_err(|error| ApiError::from_lower(&error))?;
    merged.map(|starts| Json(MergedTrace { starts })).ok_or_else(|| no_image(&image_id))
}

/// Shows what starts touched
///
/// For `clipwright mount --trace` and whoever fetches ahead. The trace of an image that nobody told of is empty.
#[utoipa::path(
    get,
    path = "/v1/images/{image_id}/traces",
    operation_id = "get_trace",
    tag = "images",
    params(("image_id" = ImageId, Path, description = "16 lowercase hex digits")),
    responses(
        CommonProblems,
        (status = 200, description = "The merged trace", body = TraceDocument),
        (status = 404, description = "No such image", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn show(
    State(state): State<AppState>,
    may: May<scope::StartsWrite>,
    PathParam(image_id): PathParam<ImageId>,
) -> Result<Json<TraceDocument>, ApiError> {
    let trace = state.rollouts.trace(&may.access.workspace, &image_id).await;
    let trace = trace.map_err(|error| ApiError::from_lower(&error))?;
    trace.map(|trace| Json(TraceDocument::from(&trace))).ok_or_else(|| no_image(&image_id))
}
