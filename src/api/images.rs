//! `/v1/images`: the images whose archives are in the store.

use axum::Json;
use axum::extract::State;

use crate::jobs::job::{Image, ImageId};

use super::AppState;
use super::auth::{May, scope};
use super::extract::PathParam;
use super::problem::{ApiError, CommonProblems, Problem};

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
    let image = state.queue.image(&may.access.workspace, &image_id).await;
    let image = image.map_err(|e| ApiError::from_lower(&e))?;
    image.map(Json).ok_or_else(|| {
        let detail = format!("there is no archive of an image {image_id}");
        ApiError::not_found("image_not_found", detail)
    })
}
