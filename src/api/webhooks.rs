//! `/v1/webhooks`: what became of those who were to be told.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::AppState;
use super::auth::{May, scope};
use super::extract::{PathParam, QueryParams, default_limit, page_limit};
use super::problem::{ApiError, CommonProblems, Problem};
use crate::jobs::webhook::{Delivery, DeliveryState};

/// Which webhooks to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Only those that stand so.
    #[param(inline)]
    state: Option<DeliveryState>,
    /// Only webhooks older than this one: the `next` of the page before.
    before: Option<Uuid>,
    /// At most this many.
    #[serde(default = "default_limit")]
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: i64,
}

/// One page of webhooks, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeliveryPage {
    webhooks: Vec<Delivery>,
    /// Pass it as `before` to see the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Uuid>,
}

/// Lists webhooks
///
/// Those of the jobs of the workspace, newest first, page by page, and what became of them.
#[utoipa::path(
    get,
    path = "/v1/webhooks",
    operation_id = "list_webhooks",
    tag = "jobs",
    params(ListParams),
    responses(CommonProblems, (status = 200, description = "One page of webhooks", body = DeliveryPage)),
    security((), ("token" = []))
)]
pub(super) async fn list(
    State(state): State<AppState>,
    may: May<scope::JobsRead>,
    QueryParams(params): QueryParams<ListParams>,
) -> Result<Json<DeliveryPage>, ApiError> {
    let limit = page_limit(params.limit)?;
    let ListParams { state: wanted, before, .. } = params;
    let workspace = &may.access.workspace;
    let found = state.queue.deliveries(workspace, wanted, before, params.limit + 1).await;
    let mut webhooks = found.map_err(|error| ApiError::from_lower(&error))?;
    let more = webhooks.len() > limit;
    webhooks.truncate(limit);
    let next = webhooks.last().filter(|_| more).map(|webhook| webhook.id);
    Ok(Json(DeliveryPage { webhooks, next }))
}

/// Sends a webhook again
///
/// Now, and as if it had never been sent: for a day if the receiver does not take it. While its job has not
/// ended it stays as it is.
#[utoipa::path(
    post,
    path = "/v1/webhooks/{id}/redeliver",
    operation_id = "redeliver_webhook",
    tag = "jobs",
    params(("id" = Uuid, Path, description = "The webhook's id")),
    responses(
        CommonProblems,
        (status = 200, description = "The webhook as it is now", body = Delivery),
        (status = 404, description = "No such webhook", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn redeliver(
    State(state): State<AppState>,
    may: May<scope::JobsWrite>,
    PathParam(id): PathParam<Uuid>,
) -> Result<Json<Delivery>, ApiError> {
    let found = state.queue.deliver_again(&may.access.workspace, id).await;
    let found = found.map_err(|error| ApiError::from_lower(&error))?;
    found.map(Json).ok_or_else(|| {
        ApiError::not_found("webhook_not_found", format!("there is no webhook {id}"))
    })
}
