//! Who may call: bearer tokens (RFC 6750) become an [`Access`], which handlers take as [`May`].
//!
//! The token of the service's settings may everything; other tokens are looked up at each request, so
//! that one that was revoked is worth nothing from the next request on. A service without a token in
//! its settings serves clients of its own machine alone, who may everything as well.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::AppState;
use super::extract::header;
use super::observe::RequestId;
use super::problem::ApiError;
use crate::workspace::WorkspaceId;
use crate::workspaces::{Access, Actor, Change, Role, Scope, TokenSecret};

/// The header that names the workspace which a request is about.
pub(super) const WORKSPACE: &str = "clipwright-workspace";

/// The token of the settings, as its SHA-256: comparing hashes takes the same time whatever is
/// presented, its length included.
#[derive(Clone)]
pub(super) struct AccessToken([u8; 32]);

impl AccessToken {
    pub(super) fn new(secret: &SecretString) -> Self {
        Self(Sha256::digest(secret.expose_secret()).into())
    }

    fn matches(&self, presented: &str) -> bool {
        let presented: [u8; 32] = Sha256::digest(presented).into();
        self.0.ct_eq(&presented).into()
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(..)")
    }
}

/// Middleware of the `/v1` routes: 401 for who is not known.
pub(super) async fn require(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    match access(&state, &parts).await {
        Ok(access) => {
            parts.extensions.insert(access);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(error) => error.into_response(),
    }
}

async fn access(state: &AppState, request: &Parts) -> Result<Access, ApiError> {
    let headers = &request.headers;
    let access = match (bearer(headers), &state.token) {
        (Some(presented), Some(token)) if token.matches(presented) => Access::full(Actor::Operator),
        (Some(presented), _) => {
            let secret = TokenSecret::presented(presented);
            let found = match &secret {
                Some(secret) => state.workspaces.authenticate(secret).await,
                None => Ok(None),
            };
            let found = found.map_err(|error| ApiError::from_lower(&error))?;
            found.ok_or_else(|| unauthorized("the bearer token is not one that is good here"))?
        }
        (None, None) => Access::full(Actor::Local),
        (None, Some(_)) => {
            let detail = "this path needs an Authorization header with a bearer token";
            return Err(unauthorized(detail));
        }
    };
    if let Actor::Token(token) = access.actor {
        state.rates.count(token, access.requests_per_minute).map_err(too_often)?;
    }
    Ok(access)
}

fn too_often(wait: Duration) -> ApiError {
    let detail = "this token has asked as often as it may in a minute";
    let seconds = wait.as_secs_f64().ceil().max(1.0);
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail)
        .with_header("retry-after", format!("{seconds:.0}"))
}

/// Whose things the request is about: those of the token's workspace, or of the one that it names.
async fn in_workspace(
    state: &AppState,
    request: &Parts,
    access: Access,
) -> Result<Access, ApiError> {
    let is_name = |text: &str| text.parse::<WorkspaceId>().is_ok();
    let expected = "1 to 64 lowercase letters, digits, '-' and '_', a letter or digit first";
    let Some(text) = header(&request.headers, WORKSPACE, is_name, expected)? else {
        return Ok(access);
    };
    let Ok(workspace) = text.parse::<WorkspaceId>() else { return Ok(access) };
    let lower = |error| ApiError::from_lower(&error);
    let exists = match access.role {
        Role::Workspace => access.workspace == workspace,
        _ if workspace == access.workspace => true,
        // A gateway's tenants come into being with what is theirs; looking for it makes nothing.
        Role::Gateway if request.method.is_safe() => true,
        Role::Gateway => {
            let id = request.extensions.get::<RequestId>().map(|id| id.as_str().to_owned());
            let change = Change::by(&access, id);
            state.workspaces.ensure(&workspace, &change).await.map_err(lower)?;
            true
        }
        Role::Admin => state.workspaces.get(&workspace).await.map_err(lower)?.is_some(),
    };
    if exists { Ok(Access { workspace, ..access }) } else { Err(no_workspace(&workspace)) }
}

/// 404: there is no workspace of this name, or none that may be known of.
pub(super) fn no_workspace(workspace: &WorkspaceId) -> ApiError {
    ApiError::not_found("workspace_not_found", format!("there is no workspace {workspace}"))
}

fn unauthorized(detail: &'static str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
        .with_header("www-authenticate", "Bearer")
}

/// The token in `Authorization: Bearer TOKEN`; an empty one is none.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// A scope as a type.
pub(super) trait Needs {
    /// Which.
    const SCOPE: Scope;
}

macro_rules! scopes {
    ($($name:ident),*) => {
        $(
            #[doc = concat!("[`Scope::", stringify!($name), "`].")]
            pub(in crate::api) struct $name;

            impl Needs for $name {
                const SCOPE: Scope = Scope::$name;
            }
        )*
    };
}

/// The scopes that handlers ask for.
pub(super) mod scope {
    use super::{Needs, Scope};

    scopes!(
        JobsRead,
        JobsWrite,
        ImagesRead,
        ImagesWrite,
        StartsWrite,
        WorkspacesRead,
        WorkspacesWrite,
        TokensWrite,
        AuditRead,
        RolloutsRead,
        RolloutsWrite
    );
}

/// Who asks, and may do what `S` says: 403 for who may not. A handler has no other way to learn whose
/// things it is about.
pub(super) struct May<S> {
    pub(super) access: Access,
    request_id: Option<String>,
    scope: PhantomData<fn() -> S>,
}

impl<S: Needs> May<S> {
    /// To be written down with what is changed.
    pub(super) fn change(&self) -> Change {
        Change::by(&self.access, self.request_id.clone())
    }
}

impl<S: Needs> FromRequestParts<AppState> for May<S> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let Some(access) = parts.extensions.get::<Access>().cloned() else {
            return Err(ApiError::internal(&"a route without access control asks who is asking"));
        };
        if !access.scopes.contains(&S::SCOPE) {
            let detail = format!("this token may not do that: it lacks the scope {}", S::SCOPE);
            return Err(ApiError::new(StatusCode::FORBIDDEN, "scope_missing", detail));
        }
        let access = in_workspace(state, parts, access).await?;
        let request_id = parts.extensions.get::<RequestId>().map(|id| id.as_str().to_owned());
        Ok(Self { access, request_id, scope: PhantomData })
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_the_token_itself_matches() {
        let token = AccessToken::new(&SecretString::from("s3cret"));
        assert!(token.matches("s3cret"));
        for wrong in ["", "s3cre", "s3crets", "S3CRET"] {
            assert!(!token.matches(wrong), "{wrong:?}");
        }
        assert_eq!(format!("{token:?}"), "AccessToken(..)");
    }

    #[test]
    fn the_scheme_is_case_insensitive_and_must_be_bearer() {
        let parse = |value: &'static str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))]);
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(parse("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(parse("bearer  abc ").as_deref(), Some("abc"));
        for none in ["", "Bearer", "Bearer ", "Basic abc", "abc"] {
            assert_eq!(parse(none), None, "{none:?}");
        }
    }
}
