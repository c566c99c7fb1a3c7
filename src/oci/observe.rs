//! Who is told of requests to registries: what they were for, how they ended, what came. Measures what
//! it is told however it likes; nothing of a request itself, which may hold secrets, is told.

use std::fmt::Debug;
use std::time::Duration;

use reqwest::{Method, StatusCode, Url};

/// What a request to a registry was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// A manifest, or an index of them.
    Manifest,
    /// A blob, or whether it is there.
    Blob,
    /// A part of an upload.
    Upload,
    /// A token, or how to get one.
    Token,
}

impl RequestKind {
    /// By the paths of the distribution specification; what is none of them is for a token, or comes
    /// from where a registry keeps its blobs.
    pub(super) fn of(method: &Method, url: &Url, own: bool) -> Self {
        let path = url.path();
        if path.contains("/blobs/uploads/") || matches!(*method, Method::PUT | Method::PATCH) {
            Self::Upload
        } else if path.contains("/manifests/") {
            Self::Manifest
        } else if path.contains("/blobs/") || !own {
            Self::Blob
        } else {
            Self::Token
        }
    }

    /// Its name in metrics and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Upload => "upload",
            Self::Token => "token",
        }
    }
}

/// How a registry answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOutcome {
    /// With a status below 400.
    Ok,
    /// With 401 or 403.
    Unauthorized,
    /// With 404.
    NotFound,
    /// With 429.
    RateLimited,
    /// With another status of 400 to 499.
    ClientError,
    /// With a status above that.
    ServerError,
    /// Not at all.
    Unreachable,
}

impl RequestOutcome {
    pub(super) fn of(status: StatusCode) -> Self {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Self::Unauthorized,
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::TOO_MANY_REQUESTS => Self::RateLimited,
            status if status.is_client_error() => Self::ClientError,
            status if status.is_server_error() => Self::ServerError,
            _ => Self::Ok,
        }
    }

    /// Its name in metrics and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unauthorized => "unauthorized",
            Self::NotFound => "not_found",
            Self::RateLimited => "rate_limited",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
            Self::Unreachable => "unreachable",
        }
    }
}

/// Who is told of requests.
pub trait RequestObserver: Debug + Send + Sync {
    /// A request was answered, or was not.
    fn answered(&self, kind: RequestKind, outcome: RequestOutcome, took: Duration);

    /// A range of a blob is asked for.
    fn range_requested(&self);

    /// So many bytes of a blob came.
    fn received(&self, bytes: usize);
}

/// Looks away.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl RequestObserver for Unobserved {
    fn answered(&self, _kind: RequestKind, _outcome: RequestOutcome, _took: Duration) {}

    fn range_requested(&self) {}

    fn received(&self, _bytes: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart_by_their_paths() {
        let kind = |method, url: &str, own| RequestKind::of(&method, &url.parse().unwrap(), own);
        let v2 = |path| format!("https://r.example/v2/{path}");
        for (url, own, expected) in [
            (v2(""), true, RequestKind::Token),
            (v2("a/b/manifests/latest"), true, RequestKind::Manifest),
            (v2("a/b/blobs/sha256:0"), true, RequestKind::Blob),
            (v2("a/b/blobs/uploads/7?digest=x"), true, RequestKind::Upload),
            ("https://storage.example/x?signature=y".to_owned(), false, RequestKind::Blob),
        ] {
            assert_eq!(kind(Method::GET, &url, own), expected, "{url}");
        }
        assert_eq!(kind(Method::PUT, &v2("a/manifests/t"), true), RequestKind::Upload);
        assert_eq!(RequestOutcome::of(StatusCode::IM_A_TEAPOT).name(), "client_error");
        assert_eq!(RequestOutcome::of(StatusCode::PARTIAL_CONTENT).name(), "ok");
    }
}
