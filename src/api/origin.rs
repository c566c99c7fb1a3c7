//! Keeps web pages away from a service that runs without a token on somebody's own machine.
//!
//! Such a service trusts whoever reaches the loopback address, and a browser there reaches it on
//! behalf of any page. Two rules stop that: the `Host` must be a loopback name (a page that had
//! its own name rebound to 127.0.0.1 still sends that name), and a request that changes something
//! must not come from a page of another origin. With a token neither is needed, since no browser
//! sends it by itself.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::AppState;
use super::problem::ApiError;

/// Middleware of all routes: 403 for what a foreign web page may have caused.
pub(super) async fn guard(State(state): State<AppState>, request: Request, next: Next) -> Response {
    if state.token.is_none()
        && let Err(detail) = check(&request)
    {
        return ApiError::new(StatusCode::FORBIDDEN, "foreign_origin", detail).into_response();
    }
    next.run(request).await
}

fn check(request: &Request) -> Result<(), &'static str> {
    let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
    // An absolute request target takes the place of the Host header (RFC 9112, 3.2.2).
    let host: Authority = (request.uri().authority().map(Authority::as_str))
        .or_else(|| header(HOST))
        .and_then(|host| host.parse().ok())
        .ok_or("the request has no valid Host header")?;
    if !is_loopback(host.host()) {
        return Err(
            "without a token this service answers only to localhost, 127.0.0.0/8 and [::1]",
        );
    }
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    match header(ORIGIN) {
        Some(origin) if !safe && !is_same_origin(origin, &host) => {
            Err("without a token this service takes no changes from web pages of another origin")
        }
        _ => Ok(()),
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_same_origin(origin: &str, host: &Authority) -> bool {
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host.as_str()))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn judge(method: Method, host: Option<&str>, origin: Option<&str>) -> bool {
        let mut request = Request::builder().method(method).uri("/v1/jobs");
        for (name, value) in [(HOST, host), (ORIGIN, origin)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        check(&request.body(Body::empty()).unwrap()).is_ok()
    }

    #[test]
    fn only_loopback_hosts_are_served() {
        for good in ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "127.9.9.9", "[::1]:80", "[::1]"]
        {
            assert!(judge(Method::GET, Some(good), None), "{good}");
        }
        let bad =
            ["evil.example", "localhost.evil.example:80", "10.0.0.1", "0.0.0.0:80", "", "[::2]"];
        for bad in bad {
            assert!(!judge(Method::GET, Some(bad), None), "{bad}");
        }
        assert!(!judge(Method::GET, None, None));
    }

    #[test]
    fn changes_come_from_the_same_origin_or_from_no_page() {
        let host = Some("localhost:8080");
        assert!(judge(Method::POST, host, None));
        assert!(judge(Method::POST, host, Some("http://localhost:8080")));
        for foreign in ["http://localhost:9090", "http://evil.example", "null", "localhost:8080"] {
            assert!(!judge(Method::POST, host, Some(foreign)), "{foreign}");
            assert!(judge(Method::GET, host, Some(foreign)), "{foreign}");
        }
    }
}
