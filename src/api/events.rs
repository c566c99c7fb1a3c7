//! `/v1/jobs/{id}/events`: what happens to a job, as it happens.
//!
//! Server-sent events by default, one JSON object a line on request. A stream ends after the
//! job's final event, or when the service shuts down; whoever was cut off resumes after the last
//! event that it saw.

use std::time::Duration;
use std::vec;

use super::streams::StreamPlace;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{self, Stream, TryStreamExt as _};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::jobs::job::JobEvent;
use crate::jobs::queue::{Queue, QueueError, Wakeups};
use crate::workspaces::Access;

use super::AppState;
use super::auth::{May, scope};
use super::extract::{PathParam, QueryParams, header};
use super::jobs::visible;
use super::problem::{ApiError, CommonProblems, Problem};

const NDJSON: &str = "application/x-ndjson";
/// Events read from the database at once.
const PAGE: i64 = 200;
/// Proxies close connections that are silent for about a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Which events to send.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventParams {
    /// Only events after this one; `Last-Event-ID` takes precedence.
    #[serde(default)]
    #[param(default = 0, minimum = 0)]
    after: i64,
    /// Whether to wait for the job's end; `false` sends what there is.
    #[serde(default = "default_follow")]
    #[param(default = true)]
    follow: bool,
}

fn default_follow() -> bool {
    true
}

/// One server-sent event, as it is read.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it is for the document")]
struct ServerSentEvent {
    /// The event's `seq`.
    id: String,
    /// Its name.
    event: String,
    /// The JSON object.
    data: String,
}

/// Follows a job
///
/// Server-sent events: `id` is the event's `seq`, `event` its name, `data` the JSON object. With
/// `Accept: application/x-ndjson`, one such object a line. The stream ends after the job's final
/// event; a client that was cut off sends the last `seq` it saw and misses nothing. A stream that
/// would be empty because the job is final and all of it was seen is answered by 204, upon which
/// browsers stop to reconnect.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/events",
    operation_id = "follow_job",
    tag = "jobs",
    params(
        ("id" = Uuid, Path, description = "The job's id"),
        EventParams,
        ("Last-Event-ID" = Option<String>, Header, pattern = "^[0-9]{1,18}$", description = "The `seq` of the last event seen"),
    ),
    responses(
        CommonProblems,
        (status = 200, description = "Events in order", content(
            (ServerSentEvent = "text/event-stream", example = "id: 1\nevent: queued\ndata: {\"seq\":1,\"at\":\"2026-11-24T02:00:00Z\",\"attempt\":0,\"event\":\"queued\"}\n\n"),
            (JobEvent = "application/x-ndjson", example = json!({"seq": 1, "at": "2026-11-24T02:00:00Z", "attempt": 0, "event": "queued"})),
        )),
        (status = 204, description = "The job is final and has no event after the one given"),
        (status = 404, description = "No such job", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn follow(
    State(state): State<AppState>,
    may: May<scope::JobsRead>,
    PathParam(id): PathParam<Uuid>,
    QueryParams(params): QueryParams<EventParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let after = last_seen(&headers, params.after)?;
    let tail = Tail::open(&state, &may.access, id, after, params.follow).await?;
    if tail.is_over() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let events = tail.into_stream();
    let mut response = if wants_ndjson(&headers) { ndjson(events) } else { sse(events) };
    // A proxy which collects the answer would turn events into history.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn last_seen(headers: &HeaderMap, after: i64) -> Result<i64, ApiError> {
    let number = |text: &str| text.parse().ok().filter(|seq: &i64| *seq >= 0);
    let last = header(headers, "last-event-id", |id| number(id).is_some(), "an event's seq")?;
    let after = last.and_then(number).unwrap_or(after);
    if after < 0 {
        let detail = format!("after is {after}: expected the seq of an event, or 0");
        return Err(ApiError::bad_parameter("after", detail));
    }
    Ok(after)
}

fn wants_ndjson(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = accepted.flat_map(|list| list.split(','));
    types.any(|item| item.split(';').next().is_some_and(|t| t.trim().eq_ignore_ascii_case(NDJSON)))
}

fn sse(events: impl Stream<Item = Result<JobEvent, StreamError>> + Send + 'static) -> Response {
    let events = events.and_then(async |event| {
        let json = serde_json::to_string(&event)?;
        Ok(Event::default().id(event.seq.to_string()).event(event.name()).data(json))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

fn ndjson(events: impl Stream<Item = Result<JobEvent, StreamError>> + Send + 'static) -> Response {
    let lines = events.and_then(async |event| {
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        Ok(Bytes::from(line))
    });
    let headers = [(CONTENT_TYPE, NDJSON), (CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(lines)).into_response()
}

/// Why a stream breaks off. The client sees only a broken connection, and resumes.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// One reader of a job's events.
pub(super) struct Tail {
    queue: Queue,
    job: Uuid,
    after: i64,
    page: vec::IntoIter<JobEvent>,
    wakes: Wakeups,
    follow: bool,
    /// Whether the job was final before `page` was read, so that nothing can follow it.
    finished: bool,
    shutdown: CancellationToken,
    _place: StreamPlace,
}

impl Tail {
    /// Of the events after the one of seq `after`, of a job that `access` may see.
    pub(super) async fn open(
        state: &AppState,
        access: &Access,
        id: Uuid,
        after: i64,
        follow: bool,
    ) -> Result<Self, ApiError> {
        let place = state.streams.open(access)?;
        // Interest is registered before anything is read, so that nothing falls between.
        let wakes = state.queue.wakes(id);
        let job = visible(state, access, id).await?;
        let mut tail = Self {
            queue: state.queue.clone(),
            job: id,
            after,
            page: Vec::new().into_iter(),
            wakes,
            follow,
            finished: job.is_final(),
            shutdown: state.shutdown.clone(),
            _place: place,
        };
        tail.load().await.map_err(|error| ApiError::from_lower(&error))?;
        Ok(tail)
    }

    /// Whether nothing is left, and nothing will come.
    pub(super) fn is_over(&self) -> bool {
        self.finished && self.page.len() == 0
    }

    /// The job.
    pub(super) fn job(&self) -> Uuid {
        self.job
    }

    fn into_stream(self) -> impl Stream<Item = Result<JobEvent, StreamError>> + Send + 'static {
        stream::try_unfold(self, async |mut tail| {
            let next = tail.next().await.inspect_err(|error| {
                tracing::warn!(job = %tail.job, %error, "event stream broke off");
            });
            Ok(next?.map(|event| (event, tail)))
        })
    }

    /// The next event, when it is there; `None` after the last, or when the service stops. What has not
    /// come may be asked for again.
    pub(super) async fn next(&mut self) -> Result<Option<JobEvent>, QueueError> {
        loop {
            if let Some(event) = self.page.next() {
                self.after = event.seq;
                return Ok(Some(event));
            }
            self.load().await?;
            if self.page.len() > 0 {
                continue;
            }
            if self.finished || !self.follow {
                return Ok(None);
            }
            // Asked only when nothing is left to send: a client may name an event that never
            // comes, and would then wait for a final event that it skipped.
            let job = self.queue.get(self.job).await?;
            self.finished = job.is_none_or(|job| job.is_final());
            if self.finished {
                continue;
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return Ok(None),
                () = self.wakes.next() => {}
            }
        }
    }

    async fn load(&mut self) -> Result<(), QueueError> {
        self.page = self.queue.events(self.job, self.after, PAGE).await?.into_iter();
        Ok(())
    }
}
