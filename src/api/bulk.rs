//! Many jobs in one request.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::AppState;
use super::auth::{May, scope};
use super::extract::{JsonBody, invalid};
use super::jobs::{MAX_KEY, asked_for, idempotency_key, queue};
use super::new_job::NewJobBody;
use super::observe::RequestId;
use super::problem::{ApiError, BodyProblems, CommonProblems, FieldError, Problem};
use crate::jobs::job::Job;

/// Jobs in one request at most.
const MAX_JOBS: usize = 500;
/// Bytes in such a request.
pub(super) const MAX_BULK: usize = 1 << 20;

/// Jobs to be done.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BulkBody {
    /// Each is as `POST /v1/jobs` takes it.
    #[schema(min_items = 1, max_items = 500)]
    jobs: Vec<Value>,
}

/// What became of the jobs, in the order of the request.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BulkAnswer {
    jobs: Vec<BulkItem>,
}

/// What became of one of them: a job or a problem.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BulkItem {
    /// What `POST /v1/jobs` would have answered.
    status: u16,
    /// The job, if it was accepted or was there; without its `result`, which the job itself shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<Job>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
}

/// Submits many jobs
///
/// They are taken one by one, in their order: what is wrong with one of them is told in its place, and
/// keeps none of the others out. With an `Idempotency-Key`, sending the same request again returns the jobs
/// that the first one made, and goes on where that one broke off. Results are not told: hundreds of them
/// would be too much at once, and `GET /v1/jobs/{id}` shows each.
#[utoipa::path(
    post,
    path = "/v1/bulk/jobs",
    operation_id = "submit_jobs",
    tag = "jobs",
    params(("Idempotency-Key" = Option<String>, Header, pattern = "^[!-~]{1,190}$", description = "1 to 190 visible ASCII characters")),
    request_body = BulkBody,
    responses(
        CommonProblems,
        BodyProblems,
        (status = 200, description = "What became of each", body = BulkAnswer),
    ),
    security((), ("token" = []))
)]
pub(super) async fn submit(
    State(state): State<AppState>,
    may: May<scope::JobsWrite>,
    Extension(request_id): Extension<RequestId>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<BulkBody, MAX_BULK>,
) -> Result<Json<BulkAnswer>, ApiError> {
    let count = body.jobs.len();
    if !(1..=MAX_JOBS).contains(&count) {
        let detail = format!("has {count} entries: expected 1 to {MAX_JOBS}");
        return Err(invalid("the request", vec![FieldError::new("jobs", detail)]));
    }
    // Room for a dot and the number.
    let key = idempotency_key(&headers, MAX_KEY - 10)?;
    let mut jobs = Vec::with_capacity(count);
    let mut away: Option<ApiError> = None;
    for (n, body) in body.jobs.into_iter().enumerate() {
        let submitted = match &away {
            // Each would wait as long for a database that is not there.
            Some(error) => Err(error.clone()),
            None => {
                async {
                    let new = asked_for(
                        NewJobBody::read(body)?.into_job()?,
                        may.access.workspace.clone(),
                    );
                    let key = key.as_ref().map(|key| format!("{key}.{n}"));
                    queue(&state, new, key, &request_id, &headers).await
                }
                .await
            }
        };
        jobs.push(match submitted {
            Ok(submitted) => {
                let status = if submitted.existing { StatusCode::OK } else { StatusCode::ACCEPTED };
                // A result may have a MiB, and take several in memory.
                let job = Job { result: None, ..submitted.job };
                BulkItem { status: status.as_u16(), job: Some(job), problem: None }
            }
            Err(error) => {
                let status = error.status();
                if status.is_server_error() {
                    away = Some(error.clone());
                }
                let instance = format!("/v1/bulk/jobs#{n}");
                let problem = error.into_problem(instance, request_id.as_str().to_owned());
                BulkItem { status: status.as_u16(), job: None, problem: Some(problem) }
            }
        });
    }
    Ok(Json(BulkAnswer { jobs }))
}
