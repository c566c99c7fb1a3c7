//! Pages that are part of the binary: the console at `/`, the documentation at `/docs/`. Nothing in them is
//! fetched from elsewhere, and their policies (CSP level 3) let browsers fetch nothing from elsewhere either.
//! Builds for development read the files where they are in the source.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::Router;
use axum::extract::Path;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rust_embed::{Embed, EmbeddedFile};
use sha2::{Digest as _, Sha256};

use super::AppState;
use super::problem::ApiError;

/// What `npm run build` makes of `console/src`.
#[derive(Embed)]
#[folder = "console/dist"]
struct Console;

/// What `scripts/site.sh` makes of `docs`.
#[derive(Embed)]
#[folder = "site"]
struct Site;

/// No script but its own files, nothing in a frame, no form that leads elsewhere.
const CONSOLE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The policy of each page of the documentation: mdBook's pages have small scripts in them, which are
/// named by their hashes.
static SITE_POLICIES: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
    let pages = Site::iter().filter(|path| path.ends_with(".html"));
    let policy = |path: &str| Some(site_policy(&String::from_utf8_lossy(&Site::get(path)?.data)));
    pages.filter_map(|path| Some((path.to_string(), policy(&path)?))).collect()
});

fn site_policy(page: &str) -> String {
    let mut scripts = String::new();
    let behind = page.split("<script>").skip(1);
    for (script, _) in behind.filter_map(|rest| rest.split_once("</script>")) {
        scripts.extend([" 'sha256-", &STANDARD.encode(Sha256::digest(script)), "'"]);
    }
    format!(
        "default-src 'none'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'; \
         img-src 'self' data:; font-src 'self'; connect-src 'self'; frame-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )
}

/// `/`, `/console/...`, `/docs/...`.
pub(super) fn routes() -> Router<AppState> {
    Router::new()
        .route("/", get(async |headers: HeaderMap| console("index.html", &headers)))
        .route(
            "/console/{*path}",
            get(async |Path(path): Path<String>, headers: HeaderMap| console(&path, &headers)),
        )
        .route("/docs", get(async || Redirect::permanent("/docs/")))
        .route("/docs/", get(async |headers: HeaderMap| site("index.html", &headers)))
        .route(
            "/docs/{*path}",
            get(async |Path(path): Path<String>, headers: HeaderMap| site(&path, &headers)),
        )
}

fn console(path: &str, headers: &HeaderMap) -> Response {
    answer(Console::get(path), path, headers, CONSOLE_POLICY)
}

fn site(path: &str, headers: &HeaderMap) -> Response {
    let policy = SITE_POLICIES.get(path).map_or("default-src 'none'", String::as_str);
    answer(Site::get(path), path, headers, policy)
}

fn answer(file: Option<EmbeddedFile>, path: &str, asked: &HeaderMap, policy: &str) -> Response {
    let Some(file) = file else {
        return ApiError::not_found("not_found", "there is nothing at this path".to_owned())
            .into_response();
    };
    let etag = format!("\"{}\"", &hex::encode(file.metadata.sha256_hash())[..32]);
    // Looked after each time: another version of the binary has other files under the same names.
    let headers = [
        (CONTENT_TYPE, content_type(path).to_owned()),
        (CONTENT_SECURITY_POLICY, policy.to_owned()),
        (REFERRER_POLICY, "no-referrer".to_owned()),
        (CACHE_CONTROL, "no-cache".to_owned()),
        (ETAG, etag.clone()),
    ];
    let seen = asked.get(IF_NONE_MATCH).and_then(|seen| seen.to_str().ok());
    if seen.is_some_and(|seen| seen.split(',').any(|tag| tag.trim() == etag)) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, file.data.into_owned()).into_response()
}

/// Of the few kinds of files that there are.
fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("json") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("woff2") => "font/woff2",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_a_type_that_browsers_take() {
        for path in Console::iter().chain(Site::iter()) {
            assert_ne!(content_type(&path), "application/octet-stream", "{path}");
        }
        assert!(Console::get("index.html").is_some() && Site::get("index.html").is_some());
    }

    #[test]
    fn scripts_in_a_page_are_named_by_their_hashes() {
        // printf 'a()' | openssl dgst -sha256 -binary | base64
        let policy = site_policy("<script>a()</script><script src=\"b.js\"></script>");
        assert!(
            policy.contains(
                "script-src 'self' 'sha256-qVpDBgj7bpq5hMAcGp3AOc79J3Y1Z4HvySTwKrWDoy4=';"
            ),
            "{policy}"
        );
    }
}
