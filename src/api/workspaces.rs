//! `/v1/workspaces`: tenants and what they set.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::AppState;
use super::auth::{May, no_workspace, scope};
use super::extract::{JsonBody, PathParam, QueryParams, invalid, page_limit};
use super::problem::{ApiError, BodyProblems, CommonProblems, FieldError, Problem};
use crate::workspace::WorkspaceId;
use crate::workspaces::{Workspace, WorkspaceError, WorkspaceSettings};

/// Names in a list at most, and bytes of each.
const MAX_REGISTRIES: usize = 100;
const MAX_REGISTRY: usize = 255;
/// [`is_registry_host`] as a regular expression (ECMA 262), for documents.
pub(super) const REGISTRY_HOST_PATTERN: &str = r"^[A-Za-z0-9.:\[\]_-]{1,255}$";

/// A registry, by host and port: how it stands in documents.
struct RegistryHost;

impl PartialSchema for RegistryHost {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("A registry, by host and port: how it stands in documents."))
            .pattern(Some(REGISTRY_HOST_PATTERN))
            .examples(["registry.example:5000"])
            .into()
    }
}

impl ToSchema for RegistryHost {}

/// A workspace to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"id": "team-a", "clip_version": 2, "max_queued": 1000}))]
pub(super) struct NewWorkspace {
    /// Its name.
    id: WorkspaceId,
    /// The archive version of pulls that ask for none: comes before rollouts.
    #[schema(minimum = 1, maximum = 2)]
    clip_version: Option<u8>,
    /// What becomes of images that can't be served as v2, of pulls that don't say.
    fallback: Option<crate::archive::Fallback>,
    /// Registries that jobs may pull from, by host and port; any when absent.
    #[schema(value_type = Option<Vec<RegistryHost>>, max_items = 100)]
    allowed_registries: Option<Vec<String>>,
    /// How many jobs may wait at a time.
    #[schema(minimum = 0, maximum = 2_147_483_647)]
    max_queued: Option<u32>,
    /// How many jobs may run at a time; with 0 none is begun.
    #[schema(minimum = 0, maximum = 2_147_483_647)]
    max_running: Option<u32>,
}

/// Changes of what a workspace sets: what is absent stays, what is null is as the service's settings say.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"clip_version": 2}))]
pub(super) struct WorkspaceChanges {
    /// The archive version of pulls that ask for none.
    #[serde(default)]
    #[schema(value_type = Option<u8>, minimum = 1, maximum = 2)]
    clip_version: Patch<u8>,
    /// What becomes of images that can't be served as v2, of pulls that don't say.
    #[serde(default)]
    #[schema(value_type = Option<crate::archive::Fallback>)]
    fallback: Patch<crate::archive::Fallback>,
    /// Registries that jobs may pull from, by host and port.
    #[serde(default)]
    #[schema(value_type = Option<Vec<RegistryHost>>, max_items = 100)]
    allowed_registries: Patch<Vec<String>>,
    /// How many jobs may wait at a time.
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 2_147_483_647)]
    max_queued: Patch<u32>,
    /// How many jobs may run at a time; with 0 none is begun.
    #[serde(default)]
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 2_147_483_647)]
    max_running: Patch<u32>,
}

/// What becomes of a setting (RFC 7396, for one field).
#[derive(Debug, Default)]
enum Patch<T> {
    /// It was not named.
    #[default]
    Stays,
    /// It was null: as the service's settings say.
    TakenBack,
    /// This.
    Becomes(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patch<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Self::TakenBack, Self::Becomes))
    }
}

impl<T> Patch<T> {
    fn apply(self, now: Option<T>) -> Option<T> {
        match self {
            Self::Stays => now,
            Self::TakenBack => None,
            Self::Becomes(value) => Some(value),
        }
    }
}

/// Whether a text can be a registry's host, with a port or without.
pub(super) fn is_registry_host(host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte);
    (1..=MAX_REGISTRY).contains(&host.len()) && host.bytes().all(plain)
}

/// 422 with everything that is wrong.
fn checked(settings: WorkspaceSettings) -> Result<WorkspaceSettings, ApiError> {
    let mut wrong = Vec::new();
    if let Some(version) = settings.clip_version.filter(|version| !(1..=2).contains(version)) {
        let detail = format!("{version} is not an archive version: expected 1 or 2");
        wrong.push(FieldError::new("clip_version", detail));
    }
    let limits = [("max_queued", settings.max_queued), ("max_running", settings.max_running)];
    for (field, most) in limits {
        if let Some(most) = most.filter(|most| i32::try_from(*most).is_err()) {
            let detail = format!("is {most}: expected at most {}", i32::MAX);
            wrong.push(FieldError::new(field, detail));
        }
    }
    for (n, host) in settings.allowed_registries.iter().flatten().enumerate() {
        if !is_registry_host(host) {
            let detail = "expected a host such as registry.example:5000";
            wrong.push(FieldError::new(format!("allowed_registries[{n}]"), detail));
        }
    }
    let count = settings.allowed_registries.as_ref().map_or(0, Vec::len);
    if count > MAX_REGISTRIES {
        let detail = format!("has {count}: expected at most {MAX_REGISTRIES}");
        wrong.push(FieldError::new("allowed_registries", detail));
    }
    if wrong.is_empty() { Ok(settings) } else { Err(invalid("the workspace", wrong)) }
}

/// Makes a workspace
#[utoipa::path(
    post,
    path = "/v1/workspaces",
    operation_id = "create_workspace",
    tag = "workspaces",
    request_body = NewWorkspace,
    responses(
        CommonProblems,
        BodyProblems,
        (status = 201, description = "The workspace", body = Workspace),
        (status = 409, description = "There is one of that name", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn create(
    State(state): State<AppState>,
    may: May<scope::WorkspacesWrite>,
    JsonBody(new): JsonBody<NewWorkspace>,
) -> Result<(StatusCode, Json<Workspace>), ApiError> {
    let NewWorkspace { id, clip_version, fallback, allowed_registries, max_queued, max_running } =
        new;
    let settings = checked(WorkspaceSettings {
        clip_version,
        fallback,
        allowed_registries,
        max_queued,
        max_running,
    })?;
    let made = state.workspaces.create(&id, &settings, &may.change()).await;
    let made = made.map_err(|error| match error {
        WorkspaceError::Exists(_) => ApiError::conflict(&error),
        error => ApiError::from_lower(&error),
    })?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Which workspaces to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Only workspaces whose names sort behind this one: the `next` of the page before.
    after: Option<WorkspaceId>,
    /// At most this many.
    #[serde(default = "super::extract::default_limit")]
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: i64,
}

/// One page of workspaces, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WorkspacePage {
    workspaces: Vec<Workspace>,
    /// Pass it as `after` to see the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<WorkspaceId>,
}

/// Lists workspaces
///
/// A token of a workspace sees its own alone.
#[utoipa::path(
    get,
    path = "/v1/workspaces",
    operation_id = "list_workspaces",
    tag = "workspaces",
    params(ListParams),
    responses(CommonProblems, (status = 200, description = "One page of workspaces", body = WorkspacePage)),
    security((), ("token" = []))
)]
pub(super) async fn list(
    State(state): State<AppState>,
    may: May<scope::WorkspacesRead>,
    QueryParams(params): QueryParams<ListParams>,
) -> Result<Json<WorkspacePage>, ApiError> {
    let limit = page_limit(params.limit)?;
    let lower = |error| ApiError::from_lower(&error);
    let own = &may.access.workspace;
    let mut workspaces = if may.access.role == crate::workspaces::Role::Workspace {
        let own = state.workspaces.get(own).await.map_err(lower)?;
        let behind = |own: &Workspace| params.after.as_ref().is_none_or(|after| own.id > *after);
        own.into_iter().filter(behind).collect()
    } else {
        state.workspaces.list(params.after.as_ref(), params.limit + 1).await.map_err(lower)?
    };
    let more = workspaces.len() > limit;
    workspaces.truncate(limit);
    let next = workspaces.last().filter(|_| more).map(|workspace| workspace.id.clone());
    Ok(Json(WorkspacePage { workspaces, next }))
}

/// Shows a workspace
#[utoipa::path(
    get,
    path = "/v1/workspaces/{id}",
    operation_id = "get_workspace",
    tag = "workspaces",
    params(("id" = WorkspaceId, Path, description = "Its name")),
    responses(
        CommonProblems,
        (status = 200, description = "The workspace", body = Workspace),
        (status = 404, description = "No such workspace", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn get(
    State(state): State<AppState>,
    may: May<scope::WorkspacesRead>,
    PathParam(id): PathParam<WorkspaceId>,
) -> Result<Json<Workspace>, ApiError> {
    if !may.access.sees(&id) {
        return Err(no_workspace(&id));
    }
    let found = state.workspaces.get(&id).await.map_err(|error| ApiError::from_lower(&error))?;
    found.map(Json).ok_or_else(|| no_workspace(&id))
}

/// Changes what a workspace sets
///
/// What the body doesn't name stays as it is; `null` takes a setting back. The next claim of a job
/// obeys it.
#[utoipa::path(
    patch,
    path = "/v1/workspaces/{id}",
    operation_id = "change_workspace",
    tag = "workspaces",
    params(("id" = WorkspaceId, Path, description = "Its name")),
    request_body = WorkspaceChanges,
    responses(
        CommonProblems,
        BodyProblems,
        (status = 200, description = "The workspace as it is now", body = Workspace),
        (status = 404, description = "No such workspace", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn change(
    State(state): State<AppState>,
    may: May<scope::WorkspacesWrite>,
    PathParam(id): PathParam<WorkspaceId>,
    JsonBody(changes): JsonBody<WorkspaceChanges>,
) -> Result<Json<Workspace>, ApiError> {
    let found = state.workspaces.get(&id).await.map_err(|error| ApiError::from_lower(&error))?;
    let now = found.ok_or_else(|| no_workspace(&id))?.settings;
    let settings = checked(WorkspaceSettings {
        clip_version: changes.clip_version.apply(now.clip_version),
        fallback: changes.fallback.apply(now.fallback),
        allowed_registries: changes.allowed_registries.apply(now.allowed_registries),
        max_queued: changes.max_queued.apply(now.max_queued),
        max_running: changes.max_running.apply(now.max_running),
    })?;
    let written = state.workspaces.set(&id, &settings, &may.change()).await;
    Ok(Json(written.map_err(|error| ApiError::from_lower(&error))?))
}
