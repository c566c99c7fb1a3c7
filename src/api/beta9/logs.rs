//! `/v1/beta9/builds/{id}/logs`: what happens to a build, in the messages of beta9.

use std::collections::VecDeque;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use utoipa::IntoParams;

use super::BuildName;
use crate::api::AppState;
use crate::api::auth::{May, scope};
use crate::api::events::{StreamError, Tail};
use crate::api::extract::{PathParam, QueryParams};
use crate::api::jobs::visible;
use crate::api::log::LogReader;
use crate::api::problem::{ApiError, CommonProblems, Problem};
use crate::beta9::{Build, Message, Narrator, PythonVersion};
use crate::jobs::build::LogRecord;
use crate::jobs::queue::Queue;

/// How often a build is looked at for new lines.
const LOOK: Duration = Duration::from_millis(300);
/// beta9's own log client says something as often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// What the messages say that the service does not know.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogParams {
    /// `python_version` of every message: beta9's SDK wants back what the gateway was asked for.
    #[serde(default)]
    #[param(inline)]
    python_version: PythonVersion,
    /// Whether to wait for the build's end; `false` sends what there is, and no `done` before the end.
    #[serde(default = "default_follow")]
    #[param(default = true)]
    follow: bool,
}

fn default_follow() -> bool {
    true
}

/// Follows a build
///
/// One message a line, in the shape of beta9's `BuildImageResponse`, from the first on; an empty one every
/// ten seconds of silence. Exactly one is `done`, and is the last. A stream that ends without it was cut
/// off, as by a service that stops: ask again, and the same messages come again.
#[utoipa::path(
    get,
    path = "/v1/beta9/builds/{id}/logs",
    operation_id = "follow_build",
    tag = "beta9",
    params(
        ("id" = inline(BuildName), Path, description = "The job's id, or the `container_id` that it was sent with"),
        LogParams,
    ),
    responses(
        CommonProblems,
        (status = 200, description = "Messages in order", body = Message, content_type = "application/x-ndjson"),
        (status = 404, description = "No such build", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(crate) async fn follow(
    State(state): State<AppState>,
    may: May<scope::JobsRead>,
    PathParam(name): PathParam<BuildName>,
    QueryParams(params): QueryParams<LogParams>,
) -> Result<Response, ApiError> {
    let id = name.job(&state, &may.access).await?;
    let job = visible(&state, &may.access, id).await?;
    let image_id = Build::of(&job).image_id.parse();
    let image_id = image_id.map_err(|error| ApiError::internal(&error))?;
    let tail = Tail::open(&state, &may.access, id, 0, params.follow).await?;
    let narrator = Narrator::new(image_id, params.python_version);
    let log = LogReader::new(state.queue.clone(), id, 0);
    let log = (job.spec.json()["kind"] == "build").then_some(log);
    let (lines, queue, due) = (VecDeque::new(), state.queue, soon());
    let telling = Telling { tail, log, lines, queue, narrator, due, has_ended: false };
    let lines = stream::try_unfold(telling, async |mut telling| {
        let Some(message) = telling.next().await? else { return Ok(None) };
        let mut line = serde_json::to_vec(&message)?;
        line.push(b'\n');
        Ok::<_, StreamError>(Some((Bytes::from(line), telling)))
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // A proxy which collects the answer would turn messages into history.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(lines)).into_response())
}

fn soon() -> Instant {
    Instant::now() + SIGN_OF_LIFE
}

/// One reader of a build's messages.
struct Telling {
    tail: Tail,
    queue: Queue,
    narrator: Narrator,
    /// What a build says itself, where it is one.
    log: Option<LogReader>,
    lines: VecDeque<String>,
    /// When something is to be said in any case.
    due: Instant,
    has_ended: bool,
}

impl Telling {
    /// The next line that the build has said.
    async fn next_line(&mut self) -> Result<Option<String>, StreamError> {
        if let (true, Some(log)) = (self.lines.is_empty(), &mut self.log) {
            for (_, line) in log.read().await? {
                let record: LogRecord = serde_json::from_slice(&line)?;
                self.lines.push_back(record.text);
            }
        }
        Ok(self.lines.pop_front())
    }

    async fn next(&mut self) -> Result<Option<Message>, StreamError> {
        let message = self.awaited().await?;
        self.due = soon();
        Ok(message)
    }

    async fn awaited(&mut self) -> Result<Option<Message>, StreamError> {
        while !self.has_ended {
            if let Some(text) = self.next_line().await? {
                return Ok(Some(self.narrator.says(&text)));
            }
            // A build's lines are looked for now and then; whoever wakes the one wakes the other.
            let look = Instant::now() + LOOK;
            let until = if self.log.is_some() { self.due.min(look) } else { self.due };
            let Ok(event) = timeout_at(until, self.tail.next()).await else {
                if Instant::now() < self.due {
                    continue;
                }
                return Ok(Some(self.narrator.sign_of_life()));
            };
            if let Some(event) = event? {
                if let Some(message) = self.narrator.tell(&event) {
                    return Ok(Some(message));
                }
            } else if self.tail.is_over() {
                self.has_ended = true;
                let job = self.queue.get(self.tail.job()).await?;
                return Ok(Some(self.narrator.end(job.as_ref())));
            } else {
                return Ok(None);
            }
        }
        Ok(None)
    }
}
