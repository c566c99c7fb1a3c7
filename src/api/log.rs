//! `/v1/jobs/{id}/log`: what a job writes while it works, as it comes.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::time::{Duration, sleep};
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::AppState;
use super::auth::{May, scope};
use super::extract::{PathParam, QueryParams};
use super::jobs::visible;
use super::problem::{ApiError, CommonProblems, Problem};
use super::streams::StreamPlace;
use crate::jobs::build::LogRecord;
use crate::jobs::queue::{Queue, QueueError, Wakeups};

/// Chunks read from the database at once.
const PAGE: i64 = 16;
/// A line without content so often, while there is nothing to say.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Which part of the log to send.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogParams {
    /// Only lines behind this: the `next` of the last line seen.
    #[serde(default)]
    #[param(default = 0, minimum = 0)]
    offset: i64,
    /// Whether to wait for the job's end; `false` sends what there is.
    #[serde(default = "default_follow")]
    #[param(default = true)]
    follow: bool,
}

fn default_follow() -> bool {
    true
}

/// A line of a job's log.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct LogEntry {
    /// Where to go on behind it.
    next: i64,
    #[serde(flatten)]
    record: LogRecord,
}

/// Follows the log of a job
///
/// What a build's programs say, one JSON object a line, with the step that it belongs to; values of secrets
/// are masked. A client that was cut off sends the `next` of the last line that it saw and misses nothing.
/// Empty lines are signs of life. Jobs that are no builds write none.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/log",
    operation_id = "follow_job_log",
    tag = "jobs",
    params(("id" = Uuid, Path, description = "The job's id"), LogParams),
    responses(
        CommonProblems,
        (status = 200, description = "Lines in order", body = LogEntry, content_type = "application/x-ndjson",
            example = json!({"next": 161, "at": "2026-11-28T02:00:00Z", "attempt": 1, "step": {"stage": 1, "step": 2, "line": 2}, "stream": "stdout", "text": "hello"})),
        (status = 404, description = "No such job", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn follow(
    State(state): State<AppState>,
    may: May<scope::JobsRead>,
    PathParam(id): PathParam<Uuid>,
    QueryParams(params): QueryParams<LogParams>,
) -> Result<Response, ApiError> {
    if params.offset < 0 {
        let detail = format!("offset is {}: expected the next of a line, or 0", params.offset);
        return Err(ApiError::bad_parameter("offset", detail));
    }
    let place = state.streams.open(&may.access)?;
    // Interest is registered before anything is read, so that nothing falls between.
    let wakes = state.queue.wakes(id);
    visible(&state, &may.access, id).await?;
    let tail = LogTail {
        reader: LogReader::new(state.queue.clone(), id, params.offset),
        wakes,
        follow: params.follow,
        finished: false,
        shutdown: state.shutdown.clone(),
        _place: place,
    };
    let lines = stream::try_unfold(tail, async |mut tail| {
        let next = tail.next().await.inspect_err(|error| {
            tracing::warn!(%error, "a log stream broke off");
        });
        Ok::<_, QueueError>(next?.map(|lines| (lines, tail)))
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // A proxy which collects the answer would turn lines into history.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(lines)).into_response())
}

/// Reads the log of a job from an offset on.
pub(super) struct LogReader {
    queue: Queue,
    job: Uuid,
    offset: i64,
}

impl LogReader {
    pub(super) fn new(queue: Queue, job: Uuid, offset: i64) -> Self {
        Self { queue, job, offset }
    }

    /// The next lines that are there, each with the offset behind it.
    pub(super) async fn read(&mut self) -> Result<Vec<(i64, Vec<u8>)>, QueueError> {
        let chunks = self.queue.log(self.job, self.offset, PAGE).await?;
        let mut lines = Vec::new();
        for chunk in chunks {
            let mut end = chunk.offset;
            // Chunks are of whole lines.
            for line in chunk.bytes.split_inclusive(|byte| *byte == b'\n') {
                end += i64::try_from(line.len()).unwrap_or(i64::MAX);
                if end > self.offset {
                    lines.push((end, line.to_vec()));
                }
            }
            self.offset = self.offset.max(end);
        }
        Ok(lines)
    }
}

struct LogTail {
    reader: LogReader,
    wakes: Wakeups,
    follow: bool,
    /// Whether the job was final before the last look, so that nothing can follow.
    finished: bool,
    shutdown: CancellationToken,
    _place: StreamPlace,
}

impl LogTail {
    /// The next lines, when they are there; `None` after the last.
    async fn next(&mut self) -> Result<Option<Bytes>, QueueError> {
        loop {
            let lines = self.reader.read().await?;
            if !lines.is_empty() {
                return Ok(Some(shown(&lines)));
            }
            if self.finished || !self.follow {
                return Ok(None);
            }
            let job = self.reader.queue.get(self.reader.job).await?;
            self.finished = job.is_none_or(|job| job.is_final());
            if self.finished {
                continue;
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return Ok(None),
                () = self.wakes.next() => {}
                () = sleep(KEEP_ALIVE) => return Ok(Some(Bytes::from_static(b"\n"))),
            }
        }
    }
}

/// Lines as they are sent: `next` goes before what was written.
fn shown(lines: &[(i64, Vec<u8>)]) -> Bytes {
    let mut text = Vec::new();
    for (next, line) in lines {
        let rest = line.strip_prefix(b"{").unwrap_or(line);
        text.extend_from_slice(format!("{{\"next\":{next},").as_bytes());
        text.extend_from_slice(rest);
    }
    text.into()
}
