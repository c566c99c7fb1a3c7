//! `/v1/images/{image_id}/starts`: how images started, as those report it who started them.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::AppState;
use super::auth::{May, scope};
use super::extract::{JsonBody, PathParam, invalid};
use super::images::no_image;
use super::problem::{ApiError, BodyProblems, CommonProblems, FieldError, Problem};
use crate::archive::ClipVersion;
use crate::image_id::ImageId;
use crate::rollouts::{MAX_AGE, NewStart, ReportedStarts, StartOutcome, Temperature};
use crate::workspaces::Role;

/// Starts in one request at most; so many fit into the largest body.
const MAX_STARTS: usize = 200;
/// A day.
const MAX_SECONDS: f64 = 86_400.0;
/// No image is larger, and no start asks more often.
const MAX_COUNT: i64 = 1 << 50;
/// Characters of a host's name.
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
    /// How many seconds ago it was, so that no two clocks need to agree; now when absent.
    #[schema(minimum = 0, maximum = 604_800)]
    age_seconds: Option<f64>,
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
    #[schema(max_length = 128, pattern = r"^[^\x00-\x1f\x7f-\x9f]{0,128}$")]
    host: Option<String>,
}

#[expect(clippy::cast_possible_truncation, reason = "it was found to be 7 days at most")]
fn milliseconds(seconds: f64) -> TimeDelta {
    TimeDelta::milliseconds((seconds * 1000.0) as i64)
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
        for (field, value, most) in [
            ("age_seconds", self.age_seconds, MAX_AGE.as_seconds_f64()),
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
            |host: &String| host.chars().count() <= MAX_HOST && !host.chars().any(char::is_control);
        if self.host.as_ref().is_some_and(|host| !is_plain(host)) {
            no(
                "host",
                format!("expected at most {MAX_HOST} characters without control characters"),
            );
        }
        let clip_version = version.filter(|_| wrong.len() == before)?;
        Some(NewStart {
            id: self.id,
            at: self.age_seconds.map(|age| now - milliseconds(age)),
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
    let is_vouched = may.access.role != Role::Workspace;
    let written = state.rollouts.report_starts(workspace, &image_id, &starts, is_vouched).await;
    let written = written.map_err(|error| ApiError::from_lower(&error))?;
    written.map(Json).ok_or_else(|| no_image(&image_id))
}
