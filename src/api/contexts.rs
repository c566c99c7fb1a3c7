//! `/v1/contexts`: what builds take files from, sent once.

use std::path::PathBuf;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_LENGTH, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Duration, timeout};
use utoipa::ToSchema;

use super::AppState;
use super::auth::{May, scope};
use super::extract::PathParam;
use super::problem::{ApiError, BodyProblems, CommonProblems, Problem};
use crate::build::context::Format;
use crate::digest::Digest;
use crate::jobs::build::{Contexts, KeepError};

/// Where they are.
pub(super) const PATH: &str = "/v1/contexts";
/// Bytes of a context as it is sent, at most.
const MAX: u64 = 4 << 30;
/// A client that sends nothing for so long is gone.
const SILENCE: Duration = Duration::from_mins(1);

/// Where contexts are kept, and where they are while they come.
#[derive(Debug, Clone)]
pub(super) struct ContextRoom {
    contexts: Contexts,
    scratch: PathBuf,
}

impl ContextRoom {
    pub(super) fn new(contexts: Contexts, scratch: PathBuf) -> Self {
        Self { contexts, scratch }
    }
}

/// A context that is kept.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"digest": "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "size": 10240}))]
pub(super) struct KeptContext {
    /// Names it in a build's `context`.
    #[schema(value_type = String)]
    digest: Digest,
    /// Its size as it was sent, in bytes.
    size: u64,
}

/// Sends a context
///
/// A tar, plain or compressed with gzip or zstd, or a zip. It is kept for the workspace under the digest of its
/// bytes, for some days after its last use: ask whether it is there before you send it again. Those that were not
/// used for longest make room for it.
#[utoipa::path(
    post,
    path = PATH,
    operation_id = "send_context",
    tag = "jobs",
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "The archive's bytes"),
    responses(
        CommonProblems,
        BodyProblems,
        (status = 201, description = "It is kept", body = KeptContext,
            headers(("Location" = String, description = "Where it can be asked for"))),
        (status = 429, description = "Those of the workspace that are in use leave no room for it; or the token asks more often than it may", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn keep(
    State(state): State<AppState>,
    may: May<scope::JobsWrite>,
    body: Body,
) -> Result<Response, ApiError> {
    let room = room(&state)?;
    // It has its connection for as long as a stream has.
    let _place = state.streams.open(&may.access)?;
    let failed = |error: std::io::Error| ApiError::internal(&error);
    let file =
        tempfile::Builder::new().prefix("context-").tempfile_in(&room.scratch).map_err(failed)?;
    let (mut output, path) =
        (tokio::fs::File::from_std(file.reopen().map_err(failed)?), file.path());
    let (mut hasher, mut size, mut start) = (Sha256::new(), 0_u64, Vec::new());
    let mut chunks = body.into_data_stream();
    loop {
        let next = timeout(SILENCE, chunks.next()).await;
        let broken =
            |detail: String| ApiError::new(StatusCode::BAD_REQUEST, "context_broken", detail);
        let next = next.map_err(|_| broken(format!("nothing came for {SILENCE:?}")))?;
        let Some(chunk) = next else { break };
        let chunk = chunk.map_err(|error| broken(format!("the context broke off: {error}")))?;
        size += chunk.len() as u64;
        if size > MAX {
            let detail = format!("the context has more than {MAX} bytes");
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "context_too_large", detail));
        }
        start.extend_from_slice(&chunk[..chunk.len().min(512 - start.len().min(512))]);
        hasher.update(&chunk);
        output.write_all(&chunk).await.map_err(failed)?;
    }
    output.flush().await.map_err(failed)?;
    if Format::of(&start).is_none() {
        let detail = "the body is neither a tar, plain or compressed with gzip or zstd, nor a zip";
        return Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_context", detail));
    }
    let digest = Digest::from_hasher(hasher);
    let (workspace, contexts) = (&may.access.workspace, &room.contexts);
    let kept = contexts.keep(workspace, (digest, size), path, &state.shutdown).await;
    kept.map_err(|error| match error {
        KeepError::TooLarge { .. } => {
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "context_too_large", error.to_string())
        }
        KeepError::Full { .. } => {
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "contexts_full", error.to_string())
                .with_header("retry-after", "600")
        }
        KeepError::Store(error) => ApiError::from_lower(&error),
    })?;
    let location = format!("{PATH}/{digest}");
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(KeptContext { digest, size }))
        .into_response())
}

/// Looks for a context
///
/// Whether the workspace has it: then it needn't be sent.
#[utoipa::path(
    head,
    path = "/v1/contexts/{digest}",
    operation_id = "find_context",
    tag = "jobs",
    params(("digest" = String, Path, description = "Digest of its bytes, as it was or would be sent", pattern = "^sha256:[0-9a-f]{64}$")),
    responses(
        CommonProblems,
        (status = 200, description = "It is there; `Content-Length` is its size"),
        (status = 404, description = "It is not there", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn look(
    State(state): State<AppState>,
    may: May<scope::JobsRead>,
    PathParam(digest): PathParam<Digest>,
) -> Result<Response, ApiError> {
    let found = room(&state)?.contexts.size(&may.access.workspace, digest).await;
    let size = found.map_err(|error| ApiError::from_lower(&error))?.ok_or_else(|| {
        ApiError::not_found("context_not_found", format!("there is no context {digest}"))
    })?;
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_LENGTH, size.into());
    Ok((StatusCode::OK, headers).into_response())
}

fn room(state: &AppState) -> Result<&ContextRoom, ApiError> {
    state.contexts.as_ref().ok_or_else(|| {
        let detail = "this process takes no contexts";
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no_contexts", detail)
    })
}
