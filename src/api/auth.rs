//! Who may call: the bearer token (RFC 6750), when one is set.

use std::fmt;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::AppState;
use super::problem::ApiError;

/// The token that is expected, as its SHA-256: comparing hashes takes the same time whatever is
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

/// Middleware of the `/v1` routes: 401 unless the token is presented or none is set.
pub(super) async fn require(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Response {
    let Some(token) = &state.token else { return next.run(request).await };
    let detail = match bearer(request.headers()) {
        Some(presented) if token.matches(presented) => return next.run(request).await,
        Some(_) => "the bearer token is not the one that this service expects",
        None => "this path needs an Authorization header with a bearer token",
    };
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
        .with_header("www-authenticate", "Bearer")
        .into_response()
}

/// The token in `Authorization: Bearer TOKEN`; an empty one is none.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
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
