//! `/v1/tokens` and `/v1/audit`: who may act, and who did.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type,
};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{IntoParams, PartialSchema, ToSchema};
use uuid::Uuid;

use super::AppState;
use super::auth::{May, no_workspace, scope};
use super::extract::{JsonBody, PathParam, QueryParams, default_limit, invalid, page_limit};
use super::problem::{ApiError, BodyProblems, CommonProblems, FieldError, Problem};
use crate::workspace::WorkspaceId;
use crate::workspaces::{AuditEvent, NewToken, Role, Scope, Token, TokenSecret, WorkspaceError};

/// The longest that a token may last: ten years, in seconds.
const MAX_LASTS: u64 = 10 * 366 * 24 * 60 * 60;
/// Characters of a token's name at most.
const MAX_NAME: usize = 200;

/// A token to be made.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTokenBody {
    /// What it is for, in words.
    name: String,
    /// Whose things it may touch.
    role: Role,
    /// Of role `workspace`, and of no other: which.
    workspace: Option<WorkspaceId>,
    /// What it may do: no more than its role may; all of that when absent.
    scopes: Option<BTreeSet<Scope>>,
    /// For how many seconds it is good; for ever when absent.
    expires_in: Option<u64>,
    /// How often it may ask, by each process of the service; as the settings say when absent.
    requests_per_minute: Option<u32>,
}

impl PartialSchema for NewTokenBody {
    /// One variant for each role, since the role says what else there is.
    fn schema() -> RefOr<Schema> {
        let roles = [Role::Admin, Role::Gateway, Role::Workspace];
        let one_of = OneOfBuilder::new().description(Some("A token to be made."));
        let one_of = one_of.examples([json!({
            "name": "ci of team-a", "role": "workspace", "workspace": "team-a",
            "expires_in": 2_592_000,
        })]);
        roles.into_iter().fold(one_of, |one_of, role| one_of.item(token_of(role))).into()
    }
}

impl ToSchema for NewTokenBody {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((WorkspaceId::name().into_owned(), WorkspaceId::schema()));
    }
}

/// What a token of a role may be asked to be.
fn token_of(role: Role) -> ObjectBuilder {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let or_null = |kind| SchemaType::from_iter([kind, Type::Null]);
    let name = text()
        .pattern(Some("^[^\\x00-\\x1f\\x7f-\\x9f]{1,200}$"))
        .description(Some("What it is for, in words"));
    let scopes = role.scopes().into_iter().map(Scope::as_str);
    let scopes = ArrayBuilder::new()
        .schema_type(or_null(Type::Array))
        .items(text().enum_values(Some(scopes)))
        .description(Some("What it may do: all that its role may when absent"));
    let expires_in = ObjectBuilder::new()
        .schema_type(or_null(Type::Integer))
        .minimum(Some(1))
        .maximum(Some(MAX_LASTS))
        .description(Some("For how many seconds it is good; for ever when absent"));
    let requests_per_minute = ObjectBuilder::new()
        .schema_type(or_null(Type::Integer))
        .minimum(Some(1))
        .maximum(Some(i32::MAX))
        .description(Some(
            "How often it may ask, by each process of the service; as the settings say when absent",
        ));
    let object = ObjectBuilder::new()
        .schema_type(Type::Object)
        .title(Some(format!("A token of role {}", role.as_str())))
        .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)))
        .property("name", name)
        .required("name")
        .property("role", text().enum_values(Some([role.as_str()])))
        .required("role")
        .property("scopes", scopes)
        .property("expires_in", expires_in)
        .property("requests_per_minute", requests_per_minute);
    match role {
        Role::Workspace => object
            .property("workspace", Ref::from_schema_name(WorkspaceId::name()))
            .required("workspace"),
        _ => object.property("workspace", ObjectBuilder::new().schema_type(Type::Null)),
    }
}

/// A token and its text, which is shown this once.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenWithSecret {
    #[serde(flatten)]
    token: Token,
    /// What to send as bearer token.
    secret: String,
}

/// An answer that nobody keeps on the way.
fn shown_once(status: StatusCode, token: Token, secret: &TokenSecret) -> Response {
    let secret = secret.expose().to_owned();
    (status, [(CACHE_CONTROL, "no-store")], Json(TokenWithSecret { token, secret })).into_response()
}

impl NewTokenBody {
    fn checked(self) -> Result<NewToken, ApiError> {
        let Self { name, role, workspace, scopes, expires_in, requests_per_minute } = self;
        let mut wrong = Vec::new();
        if !(1..=MAX_NAME).contains(&name.chars().count()) || name.chars().any(char::is_control) {
            let detail = format!("expected 1 to {MAX_NAME} characters without control characters");
            wrong.push(FieldError::new("name", detail));
        }
        if (role == Role::Workspace) != workspace.is_some() {
            let detail = match role {
                Role::Workspace => "a token of role workspace needs one",
                _ => "goes with the role workspace alone",
            };
            wrong.push(FieldError::new("workspace", detail));
        }
        let may = role.scopes();
        let scopes = scopes.unwrap_or_else(|| may.clone());
        for scope in scopes.difference(&may) {
            let detail = format!("{scope} is more than a token of role {} may", role.as_str());
            wrong.push(FieldError::new("scopes", detail));
        }
        if expires_in.is_some_and(|seconds| !(1..=MAX_LASTS).contains(&seconds)) {
            let detail = format!("expected 1 to {MAX_LASTS} seconds");
            wrong.push(FieldError::new("expires_in", detail));
        }
        let is_rate = |most: u32| (1..=i32::MAX.unsigned_abs()).contains(&most);
        if requests_per_minute.is_some_and(|most| !is_rate(most)) {
            let detail = format!("expected 1 to {}", i32::MAX);
            wrong.push(FieldError::new("requests_per_minute", detail));
        }
        if !wrong.is_empty() {
            return Err(invalid("the token", wrong));
        }
        let lasts = expires_in.map(Duration::from_secs);
        let requests_per_minute = requests_per_minute.and_then(NonZeroU32::new);
        Ok(NewToken { name, role, workspace, scopes, lasts, requests_per_minute })
    }
}

/// Makes a token
///
/// Its text is in this answer and nowhere else.
#[utoipa::path(
    post,
    path = "/v1/tokens",
    operation_id = "create_token",
    tag = "tokens",
    request_body = NewTokenBody,
    responses(
        CommonProblems,
        BodyProblems,
        (status = 201, description = "The token and its text", body = TokenWithSecret),
    ),
    security((), ("token" = []))
)]
pub(super) async fn create(
    State(state): State<AppState>,
    may: May<scope::TokensWrite>,
    JsonBody(new): JsonBody<NewTokenBody>,
) -> Result<Response, ApiError> {
    let made = state.workspaces.create_token(&new.checked()?, &may.change()).await;
    let (token, secret) = made.map_err(|error| match error {
        WorkspaceError::NoWorkspace(id) => no_workspace(&id),
        error => ApiError::from_lower(&error),
    })?;
    Ok(shown_once(StatusCode::CREATED, token, &secret))
}

/// Which part of a list that is ordered by time.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Only what is older than this one: the `next` of the page before.
    before: Option<Uuid>,
    /// At most this many.
    #[serde(default = "default_limit")]
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: i64,
}

/// One page of tokens, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokenPage {
    tokens: Vec<Token>,
    /// Pass it as `before` to see the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Uuid>,
}

/// Lists tokens
///
/// Newest first, page by page; what was revoked and what has ended as well. Their texts are not kept.
#[utoipa::path(
    get,
    path = "/v1/tokens",
    operation_id = "list_tokens",
    tag = "tokens",
    params(ListParams),
    responses(CommonProblems, (status = 200, description = "One page of tokens", body = TokenPage)),
    security((), ("token" = []))
)]
pub(super) async fn list(
    State(state): State<AppState>,
    _: May<scope::TokensWrite>,
    QueryParams(params): QueryParams<ListParams>,
) -> Result<Json<TokenPage>, ApiError> {
    let limit = page_limit(params.limit)?;
    let tokens = state.workspaces.tokens(params.before, params.limit + 1).await;
    let mut tokens = tokens.map_err(|error| ApiError::from_lower(&error))?;
    let more = tokens.len() > limit;
    tokens.truncate(limit);
    let next = tokens.last().filter(|_| more).map(|token| token.id);
    Ok(Json(TokenPage { tokens, next }))
}

fn no_token(id: Uuid) -> ApiError {
    ApiError::not_found("token_not_found", format!("there is no token {id}, or it was revoked"))
}

/// Gives a token another text
///
/// The old text is worth nothing from the next request on.
#[utoipa::path(
    post,
    path = "/v1/tokens/{id}/rotate",
    operation_id = "rotate_token",
    tag = "tokens",
    params(("id" = Uuid, Path, description = "The token's id")),
    responses(
        CommonProblems,
        (status = 200, description = "The token and its new text", body = TokenWithSecret),
        (status = 404, description = "No such token, or it was revoked", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn rotate(
    State(state): State<AppState>,
    may: May<scope::TokensWrite>,
    PathParam(id): PathParam<Uuid>,
) -> Result<Response, ApiError> {
    let rotated = state.workspaces.rotate_token(id, &may.change()).await;
    let rotated = rotated.map_err(|error| ApiError::from_lower(&error))?;
    let (token, secret) = rotated.ok_or_else(|| no_token(id))?;
    Ok(shown_once(StatusCode::OK, token, &secret))
}

/// Revokes a token
///
/// From the next request on. Asking twice does no harm.
#[utoipa::path(
    delete,
    path = "/v1/tokens/{id}",
    operation_id = "revoke_token",
    tag = "tokens",
    params(("id" = Uuid, Path, description = "The token's id")),
    responses(
        CommonProblems,
        (status = 200, description = "The token as it was", body = Token),
        (status = 404, description = "No such token", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn revoke(
    State(state): State<AppState>,
    may: May<scope::TokensWrite>,
    PathParam(id): PathParam<Uuid>,
) -> Result<Json<Token>, ApiError> {
    let revoked = state.workspaces.revoke_token(id, &may.change()).await;
    revoked.map_err(|error| ApiError::from_lower(&error))?.map(Json).ok_or_else(|| no_token(id))
}

/// Which changes to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditParams {
    /// Only changes that are about this workspace.
    workspace: Option<WorkspaceId>,
    /// Only changes older than this one: the `next` of the page before.
    before: Option<Uuid>,
    /// At most this many.
    #[serde(default = "default_limit")]
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: i64,
}

/// One page of changes, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditPage {
    events: Vec<AuditEvent>,
    /// Pass it as `before` to see the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Uuid>,
}

/// Lists who changed what
///
/// Newest first, page by page: workspaces, tokens and rollouts.
#[utoipa::path(
    get,
    path = "/v1/audit",
    operation_id = "list_audit_events",
    tag = "tokens",
    params(AuditParams),
    responses(CommonProblems, (status = 200, description = "One page of changes", body = AuditPage)),
    security((), ("token" = []))
)]
pub(super) async fn audit(
    State(state): State<AppState>,
    _: May<scope::AuditRead>,
    QueryParams(params): QueryParams<AuditParams>,
) -> Result<Json<AuditPage>, ApiError> {
    let limit = page_limit(params.limit)?;
    let AuditParams { workspace, before, .. } = params;
    let events = state.workspaces.audit(workspace.as_ref(), before, params.limit + 1).await;
    let mut events = events.map_err(|error| ApiError::from_lower(&error))?;
    let more = events.len() > limit;
    events.truncate(limit);
    let next = events.last().filter(|_| more).map(|event| event.id);
    Ok(Json(AuditPage { events, next }))
}
