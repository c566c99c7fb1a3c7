//! `/v1/images/{image_id}/starts`: how images started, as those report it who started them.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::AppState;
use super::auth::{May, scope};
use super::extract::{JsonBody, PathParam, invalid};
use super::problem::{ApiError, BodyProblems, CommonProblems, FieldError, Problem};
use crate::archive::ClipVersion;
use crate::image_id::ImageId;
use crate::rollouts::{MAX_AGE, MAX_AHEAD, NewStart, ReportedStarts, StartOutcome, Temperature};

/// Starts in one request at most; so many fit into the largest body.
const MAX_STARTS: usize = 200;
/// A day.
const MAX_SECONDS: f64 = 86_400.0;
/// No image is larger, and no start asks more often.
const MAX_COUNT: i64 = 1 << 50;
/// Bytes of a host's name.
const MAX_HOST: usize = 128;

/// Starts of one image.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"starts": [{
    "id": "0199d2a4-7c1e-7f0a-9a55-0d4b1a1c7e21", "clip_version": 2, "temperature": "cold",
    "outcome": "succeeded", "start_seconds": 0.84, "first_exec_ms": 912.5, "wire_bytes": 48_213_004,
    "range_gets": 61, "cache_hits": 12, "host": "worker-17",
}]}))]
pub(super) struct Starts {
    #[serde(default)]
    #[schema(max_items = 200)]
    starts: Vec<StartBody>,
}

/// One start; what was not measured is left out.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StartBody {
    /// Of the client's choice: who sends it twice reports it once.
    id: Uuid,
    /// When it was: in the last 7 days; now when absent.
    at: Option<DateTime<Utc>>,
    /// The version of the archive that was mounted.
    #[schema(minimum = 1, maximum = 2)]
    clip_version: u8,
    /// Whether something of the image was there before.
    temperature: Temperature,
    /// How it ended.
    outcome: StartOutcome,
    /// Seconds from mounting until it was ready.
    #[schema(minimum = 0, maximum = 86_400)]
    start_seconds: Option<f64>,
    /// Milliseconds from mounting to the first read of a file.
    #[schema(minimum = 0, maximum = 86_400_000)]
    first_exec_ms: Option<f64>,
    /// Bytes that came over the link.
    #[schema(minimum = 0, maximum = 1_125_899_906_842_624_i64)]
    wire_bytes: Option<i64>,
    /// Requests for ranges.
    #[schema(minimum = 0, maximum = 1_125_899_906_842_624_i64)]
    range_gets: Option<i64>,
    /// How often something was found in a cache.
    #[schema(minimum = 0, maximum = 1_125_899_906_842_624_i64)]
    cache_hits: Option<i64>,
    /// Where it was.
    #[schema(max_length = 128)]
    host: Option<String>,
}

impl StartBody {
    fn checked(
        self,
        n: usize,
        now: DateTime<Utc>,
        wrong: &mut Vec<FieldError>,
    ) -> Option<NewStart> {
        let before = wrong.len();
        let mut no = |field: &str, detail: String| {
            wrong.push(FieldError::new(format!("starts[{n}].{field}"), detail));
        };
        let version = ClipVersion::try_from(self.clip_version).ok();
        if version.is_none() {
            let detail =
                format!("{} is not an archive version: expected 1 or 2", self.clip_version);
            no("clip_version", detail);
        }
        if let Some(at) = self.at.filter(|at| *at < now - MAX_AGE || *at > now + MAX_AHEAD) {
            no("at", format!("is {at}: expected a time in the last {} days", MAX_AGE.num_days()));
        }
        for (field, value, most) in [
            ("start_seconds", self.start_seconds, MAX_SECONDS),
            ("first_exec_ms", self.first_exec_ms, MAX_SECONDS * 1000.0),
        ] {
            if let Some(value) = value.filter(|value| !(0.0..=most).contains(value)) {
                no(field, format!("is {value}: expected 0 to {most}"));
            }
        }
        for (field, value) in [
            ("wire_bytes", self.wire_bytes),
            ("range_gets", self.range_gets),
            ("cache_hits", self.cache_hits),
        ] {
            if let Some(value) = value.filter(|value| !(0..=MAX_COUNT).contains(value)) {
                no(field, format!("is {value}: expected 0 to {MAX_COUNT}"));
            }
        }
        let is_plain =
            |host: &String| host.len() <= MAX_HOST && !host.chars().any(char::is_control);
        if self.host.as_ref().is_some_and(|host| !is_plain(host)) {
            no("host", format!("expected at most {MAX_HOST} bytes without control characters"));
        }
        let clip_version = version.filter(|_| wrong.len() == before)?;
        Some(NewStart {
            id: self.id,
            at: self.at,
            clip_version,
            temperature: self.temperature,
            outcome: self.outcome,
            start_seconds: self.start_seconds,
            first_exec_ms: self.first_exec_ms,
            wire_bytes: self.wire_bytes,
            range_gets: self.range_gets,
            cache_hits: self.cache_hits,
            host: self.host,
        })
    }
}

/// Reports how an image started
///
/// For workers: many starts of one image at once. Those that the service knows by their ids change nothing,
/// so that a report may be sent again. Reports of rollouts count them some seconds later.
#[utoipa::path(
    post,
    path = "/v1/images/{image_id}/starts",
    operation_id = "report_starts",
    tag = "images",
    params(("image_id" = ImageId, Path, description = "16 lowercase hex digits")),
    request_body = Starts,
    responses(
        CommonProblems,
        BodyProblems,
        (status = 200, description = "They are written down", body = ReportedStarts),
        (status = 404, description = "No such image", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn report(
    State(state): State<AppState>,
    may: May<scope::StartsWrite>,
    PathParam(image_id): PathParam<ImageId>,
    JsonBody(Starts { starts }): JsonBody<Starts>,
) -> Result<Json<ReportedStarts>, ApiError> {
    if starts.len() > MAX_STARTS {
        let detail = format!("has {}: expected at most {MAX_STARTS}", starts.len());
        return Err(invalid("the report", vec![FieldError::new("starts", detail)]));
    }
    let (now, mut wrong) = (Utc::now(), Vec::new());
    let each = starts.into_iter().enumerate();
    let starts: Vec<_> = each.filter_map(|(n, start)| start.checked(n, now, &mut wrong)).collect();
    if !wrong.is_empty() {
        return Err(invalid("the report", wrong));
    }
    let workspace = &may.access.workspace;
    let written = state.rollouts.report_starts(workspace, &image_id, &starts).await;
    let written = written.map_err(|error| ApiError::from_lower(&error))?;
    written.map(Json).ok_or_else(|| {
        let detail = format!("there is no archive of an image {image_id}");
        ApiError::not_found("image_not_found", detail)
    })
}
