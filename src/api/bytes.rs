//! Answers that are bytes of something which has a size and a version (RFC 9110): all of them, a range, or
//! none because they are there already. Whatever is in them, no browser is to take it for a page.

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, IF_RANGE, RANGE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};

use super::byte_range::{Wanted, wanted};
use super::problem::ApiError;

/// What is to be given.
pub(super) struct Subject {
    /// For people: what it is.
    pub(super) what: &'static str,
    /// Bytes.
    pub(super) size: u64,
    /// The quoted entity tag.
    pub(super) etag: String,
    /// What a browser would save it as: plain characters.
    pub(super) name: String,
}

/// Which bytes a client is to be given.
pub(super) struct Part {
    status: StatusCode,
    pub(super) first: u64,
    pub(super) end: u64,
}

impl Subject {
    /// 304 for who has it already.
    pub(super) fn unchanged(&self, headers: &HeaderMap) -> Option<Response> {
        let seen = text(headers, IF_NONE_MATCH)?;
        let same = |tag: &str| tag == "*" || tag.trim_start_matches("W/") == self.etag;
        let unchanged = seen.split(',').any(|tag| same(tag.trim()));
        unchanged.then(|| (StatusCode::NOT_MODIFIED, [(ETAG, self.etag.clone())]).into_response())
    }

    /// What is asked for, or 416.
    pub(super) fn part(&self, headers: &HeaderMap) -> Result<Part, ApiError> {
        let size = self.size;
        // A part is no use to who has a part of something else.
        let fits = text(headers, IF_RANGE).is_none_or(|seen| seen.trim() == self.etag);
        let range = text(headers, RANGE).filter(|_| fits);
        match wanted(range, size) {
            Wanted::All => Ok(Part { status: StatusCode::OK, first: 0, end: size }),
            Wanted::Part(first, end) => {
                Ok(Part { status: StatusCode::PARTIAL_CONTENT, first, end })
            }
            Wanted::Nothing => {
                let detail = format!("the {} has {size} bytes, and none of those", self.what);
                Err(ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "no_such_range", detail))
            }
        }
    }

    /// The answer, whose bytes are `body`.
    pub(super) fn answer(self, part: &Part, body: Body) -> Response {
        let Part { status, first, end } = *part;
        let common = [
            (CONTENT_TYPE, "application/octet-stream".to_owned()),
            (HeaderName::from_static("x-content-type-options"), "nosniff".to_owned()),
            (CONTENT_DISPOSITION, format!("attachment; filename=\"{}\"", self.name)),
            (CONTENT_LENGTH, (end - first).to_string()),
            (ACCEPT_RANGES, "bytes".to_owned()),
            (ETAG, self.etag),
        ];
        let mut answer = (status, common, body).into_response();
        if status == StatusCode::PARTIAL_CONTENT {
            let range = format!("bytes {first}-{}/{}", end.saturating_sub(1), self.size);
            if let Ok(range) = HeaderValue::try_from(range) {
                answer.headers_mut().insert(CONTENT_RANGE, range);
            }
        }
        answer
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        Subject { what: "file", size: 10, etag: "\"a\"".to_owned(), name: "f".to_owned() }
    }

    fn with(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn who_has_it_is_told_so() {
        for (seen, unchanged) in
            [("\"a\"", true), ("\"b\", W/\"a\"", true), ("*", true), ("\"b\"", false), ("a", false)]
        {
            let answer = subject().unchanged(&with(IF_NONE_MATCH, seen));
            assert_eq!(answer.is_some(), unchanged, "{seen}");
        }
        assert!(subject().unchanged(&HeaderMap::new()).is_none());
    }

    #[test]
    fn a_part_of_something_else_is_not_continued() {
        let mut headers = with(RANGE, "bytes=4-");
        let ends = |headers: &HeaderMap| subject().part(headers).map(|part| (part.first, part.end));
        assert_eq!(ends(&headers).unwrap(), (4, 10));
        headers.insert(IF_RANGE, HeaderValue::from_static("\"a\""));
        assert_eq!(ends(&headers).unwrap(), (4, 10));
        headers.insert(IF_RANGE, HeaderValue::from_static("\"b\""));
        assert_eq!(ends(&headers).unwrap(), (0, 10));
        assert!(subject().part(&with(RANGE, "bytes=10-")).is_err());
        let part = subject().part(&with(RANGE, "bytes=2-3")).unwrap();
        let answer = subject().answer(&part, Body::empty());
        assert_eq!(answer.headers()[CONTENT_RANGE], "bytes 2-3/10");
    }
}
