//! `/v1/rollouts/{name}/report`: v1 against v2.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::response::{IntoResponse as _, Response};
use chrono::NaiveDate;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::AppState;
use super::auth::{May, scope};
use super::extract::{PathParam, QueryParams};
use super::problem::{ApiError, CommonProblems, Problem};
use super::rollouts::no_rollout;
use crate::rollouts::{Report, Window};

const FIRST_DAY: NaiveDate = day(2000, 1, 1);
const LAST_DAY: NaiveDate = day(9999, 12, 31);

const fn day(year: i32, month: u32, day: u32) -> NaiveDate {
    match NaiveDate::from_ymd_opt(year, month, day) {
        Some(day) => day,
        None => panic!("a day of the calendar"),
    }
}

const CSV: &str = "text/csv";

/// How to write a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Format {
    /// An object.
    Json,
    /// A table.
    Csv,
}

/// Which report.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReportParams {
    /// The first day (UTC), such as `2026-11-01`; from the beginning when absent.
    since: Option<NaiveDate>,
    /// The last day (UTC), which is a part of it; to the end when absent.
    until: Option<NaiveDate>,
    /// How to write it; as the `Accept` header says when absent.
    #[param(inline)]
    format: Option<Format>,
}

/// Whether a table is asked for by name.
fn accepts_csv(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut types = accept.split(',').map(|part| part.split(';').next().unwrap_or_default().trim());
    types.any(|name| name.eq_ignore_ascii_case(CSV))
}

/// Reports what came of a rollout
///
/// v1 against v2, of the jobs that the rollout decided and of the starts of their images: how many failed
/// and fell back, and medians and p95 of what was measured, with 95 % confidence intervals and a
/// verdict in words. A job counts for the version that was chosen for its first attempt, whatever became
/// of it. Jobs and starts are counted some seconds after they end.
#[utoipa::path(
    get,
    path = "/v1/rollouts/{name}/report",
    operation_id = "report_rollout",
    tag = "rollouts",
    params(
        ("name" = String, Path, description = "Its name"),
        ReportParams,
        ("Accept" = Option<String>, Header, description = "`text/csv` for a table"),
    ),
    responses(
        CommonProblems,
        (status = 200, description = "The report", content(
            (Report = "application/json"),
            (String = "text/csv"),
        )),
        (status = 404, description = "No such rollout", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn show(
    State(state): State<AppState>,
    _: May<scope::RolloutsRead>,
    PathParam(name): PathParam<String>,
    QueryParams(params): QueryParams<ReportParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let ReportParams { since, until, format } = params;
    // Postgres knows fewer years than chrono, and nothing was counted outside of these.
    let known = |day: NaiveDate| day.clamp(FIRST_DAY, LAST_DAY);
    let (since, until) = (since.map(known), until.map(known));
    let report = state.rollouts.report(&name, Window { since, until }).await;
    let report = report.map_err(|error| ApiError::from_lower(&error))?;
    let report = report.ok_or_else(|| no_rollout(&name))?;
    let csv = match format {
        Some(format) => format == Format::Csv,
        None => accepts_csv(&headers),
    };
    Ok(if csv {
        let headers = [(CONTENT_TYPE, "text/csv; charset=utf-8; header=present"), (VARY, "accept")];
        (headers, report.to_csv()).into_response()
    } else {
        ([(VARY, "accept")], Json(report)).into_response()
    })
}
