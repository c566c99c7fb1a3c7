//! `/v1/rollouts`: rules that send a share of pulls to v2.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AppState;
use super::auth::{May, scope};
use super::extract::{JsonBody, PathParam, invalid};
use super::problem::{ApiError, BodyProblems, CommonProblems, FieldError, Problem};
use crate::rollouts::{
    KindName, NewRollout, Rollout, RolloutChanges, RolloutError, RolloutState, SourcePattern,
    Sticky,
};
use crate::workspace::WorkspaceId;

/// Entries of a list at most.
const MAX_LIST: usize = 1000;
/// Kinds of jobs in a list at most.
const MAX_KINDS: usize = 20;
/// Characters of a salt or a reason at most.
const MAX_TEXT: usize = 200;

/// A rollout to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "v2-pilot", "percent": 10, "workspaces": ["team-a"]}))]
pub(super) struct NewRolloutBody {
    /// Names it: lowercase letters, digits, `-` and `_`.
    #[schema(pattern = "^[a-z0-9][a-z0-9_-]{0,63}$")]
    name: String,
    /// The share that gets v2; the rest of what it matches gets v1.
    #[schema(minimum = 0, maximum = 100)]
    percent: f64,
    /// Another salt chooses others; the name when absent.
    #[schema(pattern = r"^[^\x00-\x1f\x7f-\x9f]{0,200}$")]
    salt: Option<String>,
    /// What always gets the same version.
    #[serde(default)]
    #[schema(default = "image")]
    sticky: Sticky,
    /// Only these workspaces; all when absent.
    #[schema(min_items = 1, max_items = 1000)]
    workspaces: Option<Vec<WorkspaceId>>,
    /// Only pulls from these registries or repositories; all when absent.
    #[schema(min_items = 1, max_items = 1000)]
    sources: Option<Vec<SourcePattern>>,
    /// Only jobs of these kinds, such as `pull`, which is the one that a version is chosen for today; all
    /// when absent.
    #[schema(min_items = 1, max_items = 20)]
    kinds: Option<Vec<KindName>>,
    /// The chance of a false alarm that its guard may take, which rolls it back by itself when v2 fails
    /// significantly more often than v1; with 0 nobody guards it.
    #[serde(default = "default_guard")]
    #[schema(default = 0.01, minimum = 0, maximum = 0.5)]
    guard: f64,
}

fn default_guard() -> f64 {
    0.01
}

/// What becomes of a rollout; what is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"percent": 50}))]
pub(super) struct RolloutChangesBody {
    /// The share that gets v2.
    #[schema(minimum = 0, maximum = 100)]
    percent: Option<f64>,
    /// Whether it decides.
    state: Option<RolloutState>,
    /// Why its state is changed.
    #[schema(pattern = r"^[^\x00-\x1f\x7f-\x9f]{0,200}$")]
    reason: Option<String>,
    /// The chance of a false alarm that its guard may take; with 0 nobody guards it.
    #[schema(minimum = 0, maximum = 0.5)]
    guard: Option<f64>,
}

/// All rollouts, the oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RolloutList {
    rollouts: Vec<Rollout>,
}

/// Collects what is wrong with the fields that both bodies have.
fn check(
    wrong: &mut Vec<FieldError>,
    percent: Option<f64>,
    guard: Option<f64>,
    texts: [(&str, Option<&String>); 2],
) {
    if let Some(guard) = guard.filter(|guard| !(0.0..=0.5).contains(guard)) {
        wrong.push(FieldError::new("guard", format!("is {guard}: expected 0 to 0.5")));
    }
    if let Some(percent) = percent.filter(|percent| !(0.0..=100.0).contains(percent)) {
        wrong.push(FieldError::new("percent", format!("is {percent}: expected 0 to 100")));
    }
    for (field, text) in texts {
        if text.is_some_and(|text| {
            text.chars().count() > MAX_TEXT || text.chars().any(char::is_control)
        }) {
            let detail =
                format!("expected at most {MAX_TEXT} characters without control characters");
            wrong.push(FieldError::new(field, detail));
        }
    }
}

pub(super) fn no_rollout(name: &str) -> ApiError {
    let name: String = name.chars().take(64).collect();
    ApiError::not_found("rollout_not_found", format!("there is no rollout {name:?}"))
}

/// Makes a rollout
///
/// It decides from the next claim on, where neither the job nor its workspace asks for a version. Of
/// several rollouts that match a pull the oldest decides.
#[utoipa::path(
    post,
    path = "/v1/rollouts",
    operation_id = "create_rollout",
    tag = "rollouts",
    request_body = NewRolloutBody,
    responses(
        CommonProblems,
        BodyProblems,
        (status = 201, description = "The rollout", body = Rollout),
        (status = 409, description = "There is one of that name", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn create(
    State(state): State<AppState>,
    may: May<scope::RolloutsWrite>,
    JsonBody(new): JsonBody<NewRolloutBody>,
) -> Result<(StatusCode, Json<Rollout>), ApiError> {
    let NewRolloutBody { name, percent, salt, sticky, workspaces, sources, kinds, guard } = new;
    let mut wrong = Vec::new();
    // The grammar of names is that of workspaces.
    if let Err(error) = name.parse::<WorkspaceId>() {
        let detail = error.to_string().replace("is not a workspace", "names no rollout");
        wrong.push(FieldError::new("name", detail));
    }
    check(&mut wrong, Some(percent), Some(guard), [("salt", salt.as_ref()), ("reason", None)]);
    for (field, count, most) in [
        ("workspaces", workspaces.as_ref().map(Vec::len), MAX_LIST),
        ("sources", sources.as_ref().map(Vec::len), MAX_LIST),
        ("kinds", kinds.as_ref().map(Vec::len), MAX_KINDS),
    ] {
        if let Some(count) = count.filter(|count| !(1..=most).contains(count)) {
            let detail = format!("has {count} entries: expected 1 to {most}");
            wrong.push(FieldError::new(field, detail));
        }
    }
    if !wrong.is_empty() {
        return Err(invalid("the rollout", wrong));
    }
    let salt = salt.unwrap_or_else(|| name.clone());
    let new = NewRollout { name, percent, salt, sticky, workspaces, kinds, sources, guard };
    let made = state.rollouts.create(&new, &may.change()).await;
    let made = made.map_err(|error| match error {
        RolloutError::Exists(_) => ApiError::conflict(&error),
        error @ RolloutError::Database(_) => ApiError::from_lower(&error),
    })?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Lists rollouts
///
/// The oldest first, which is the order in which they are asked.
#[utoipa::path(
    get,
    path = "/v1/rollouts",
    operation_id = "list_rollouts",
    tag = "rollouts",
    responses(CommonProblems, (status = 200, description = "All rollouts", body = RolloutList)),
    security((), ("token" = []))
)]
pub(super) async fn list(
    State(state): State<AppState>,
    _: May<scope::RolloutsRead>,
) -> Result<Json<RolloutList>, ApiError> {
    let rollouts = state.rollouts.list().await.map_err(|error| ApiError::from_lower(&error))?;
    Ok(Json(RolloutList { rollouts }))
}

/// Shows a rollout
#[utoipa::path(
    get,
    path = "/v1/rollouts/{name}",
    operation_id = "get_rollout",
    tag = "rollouts",
    params(("name" = String, Path, description = "Its name")),
    responses(
        CommonProblems,
        (status = 200, description = "The rollout", body = Rollout),
        (status = 404, description = "No such rollout", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn get(
    State(state): State<AppState>,
    _: May<scope::RolloutsRead>,
    PathParam(name): PathParam<String>,
) -> Result<Json<Rollout>, ApiError> {
    let found = state.rollouts.get(&name).await.map_err(|error| ApiError::from_lower(&error))?;
    found.map(Json).ok_or_else(|| no_rollout(&name))
}

/// Changes a rollout
///
/// From the next claim on: `percent` ramps it, `"state": "paused"` has it decide nothing, and
/// `"state": "rolled_back"` sends everything that it matches to v1.
#[utoipa::path(
    patch,
    path = "/v1/rollouts/{name}",
    operation_id = "change_rollout",
    tag = "rollouts",
    params(("name" = String, Path, description = "Its name")),
    request_body = RolloutChangesBody,
    responses(
        CommonProblems,
        BodyProblems,
        (status = 200, description = "The rollout as it is now", body = Rollout),
        (status = 409, description = "It is rolled back, and was to be paused", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such rollout", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn change(
    State(state): State<AppState>,
    may: May<scope::RolloutsWrite>,
    PathParam(name): PathParam<String>,
    JsonBody(changes): JsonBody<RolloutChangesBody>,
) -> Result<Json<Rollout>, ApiError> {
    let RolloutChangesBody { percent, state: becomes, reason, guard } = changes;
    let mut wrong = Vec::new();
    check(&mut wrong, percent, guard, [("reason", reason.as_ref()), ("salt", None)]);
    if !wrong.is_empty() {
        return Err(invalid("the rollout", wrong));
    }
    let changes = RolloutChanges { percent, state: becomes, reason, guard };
    let changed = state.rollouts.change(&name, &changes, &may.change()).await;
    let changed = changed.map_err(|error| ApiError::from_lower(&error))?;
    if let Some(changed) = changed {
        return Ok(Json(changed));
    }
    let there = state.rollouts.get(&name).await.map_err(|error| ApiError::from_lower(&error))?;
    Err(match there {
        Some(_) => {
            let detail = format!(
                "{name} is rolled back: paused, it would let the settings send images to v2; \
                 make it active first"
            );
            ApiError::new(StatusCode::CONFLICT, "rollout_rolled_back", detail)
        }
        None => no_rollout(&name),
    })
}

/// Removes a rollout
///
/// What it decided is decided by others from the next claim on.
#[utoipa::path(
    delete,
    path = "/v1/rollouts/{name}",
    operation_id = "delete_rollout",
    tag = "rollouts",
    params(("name" = String, Path, description = "Its name")),
    responses(
        CommonProblems,
        (status = 204, description = "It is gone"),
        (status = 404, description = "No such rollout", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn delete(
    State(state): State<AppState>,
    may: May<scope::RolloutsWrite>,
    PathParam(name): PathParam<String>,
) -> Result<StatusCode, ApiError> {
    let removed = state.rollouts.delete(&name, &may.change()).await;
    if removed.map_err(|error| ApiError::from_lower(&error))? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(no_rollout(&name))
    }
}
