//! `/v1/jobs`: submit, list, show, cancel.

use std::time::Duration;

use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::error::Classify as _;
use crate::jobs::job::{ImageId, Job, JobSpec, JobState};
use crate::jobs::queue::{JobFilter, JobList, NewJob, QueueError, Sharing, Submitted};
use crate::telemetry::trace;
use crate::workspace::WorkspaceId;
use crate::workspaces::Access;

use super::AppState;
use super::auth::{May, scope};
use super::extract::{
    JsonBody, OptionalJsonBody, PathParam, QueryParams, default_limit, header, page_limit,
};
use super::new_job::{CredentialText, MAX_JOB, NewJobBody, secrets_for};
use super::observe::{RequestId, traceparent};
use super::problem::{ApiError, BodyProblems, CommonProblems, FieldError, Problem};

/// The longest that an answer may wait for a job's end, in seconds: it has to begin in 30.
const MAX_WAIT: u64 = 25;

/// Submits a job
///
/// The job is validated, queued and answered at once; follow it by its events. With an
/// `Idempotency-Key`, sending the same request again returns the job that the first one made. A job of the
/// workspace that asks for the same and was brought the same credentials is joined while it has not ended;
/// when its archive is there it is the answer at once, unless `force` is set.
#[utoipa::path(
    post,
    path = "/v1/jobs",
    operation_id = "submit_job",
    tag = "jobs",
    params(("Idempotency-Key" = Option<String>, Header, pattern = "^[!-~]{1,200}$", description = "1 to 200 visible ASCII characters")),
    request_body = NewJobBody,
    responses(
        CommonProblems,
        BodyProblems,
        (status = 202, description = "The job was queued", body = Job,
            headers(("Location" = String, description = "Where the job is shown"))),
        (status = 200, description = "The job that is there: it asks for the same, or this Idempotency-Key made it", body = Job,
            headers(("Location" = String, description = "Where the job is shown"))),
        (status = 429, description = "As many jobs of the workspace, or of all, wait as may; or the token asks more often than it may", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn submit(
    State(state): State<AppState>,
    may: May<scope::JobsWrite>,
    Extension(request_id): Extension<RequestId>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<Value, MAX_JOB>,
) -> Result<Response, ApiError> {
    let new = asked_for(NewJobBody::read(body)?.into_job()?, may.access.workspace);
    accept(&state, new, request_id, &headers).await
}

/// Characters of an idempotency key at most.
pub(super) const MAX_KEY: usize = 200;

/// Queues a job, if there is room for it.
async fn accept(
    state: &AppState,
    new: NewJob,
    request_id: RequestId,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let key = idempotency_key(headers, MAX_KEY)?;
    let submitted = queue(state, new, key, &request_id, headers).await?;
    let status = if submitted.existing { StatusCode::OK } else { StatusCode::ACCEPTED };
    let location = format!("/v1/jobs/{}", submitted.job.id);
    Ok((status, [(LOCATION, location)], Json(submitted.job)).into_response())
}

/// The header of that name.
pub(super) fn idempotency_key(
    headers: &HeaderMap,
    longest: usize,
) -> Result<Option<String>, ApiError> {
    let key = header(
        headers,
        "idempotency-key",
        |key| (1..=longest).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()),
        &format!("1 to {longest} visible ASCII characters"),
    )?;
    Ok(key.map(str::to_owned))
}

/// Queues a job, or finds the one that does for it.
pub(super) async fn queue(
    state: &AppState,
    new: NewJob,
    idempotency_key: Option<String>,
    request_id: &RequestId,
    headers: &HeaderMap,
) -> Result<Submitted, ApiError> {
    let new = NewJob {
        idempotency_key,
        request_id: Some(request_id.as_str().to_owned()),
        trace_context: trace_context(headers),
        ..new
    };
    submit_to(state, new).await
}

/// A job that a client asks for: what has no archive yet, or is to have another, is done; else what is
/// there will do.
pub(super) fn asked_for(new: NewJob, workspace: WorkspaceId) -> NewJob {
    let replaces = match &new.spec {
        JobSpec::Pull(pull) => pull.force,
        JobSpec::Build(build) => build.force || build.no_cache,
        JobSpec::Migrate(_) => false,
    };
    let sharing = if replaces { Sharing::WithActive } else { Sharing::WithArchived };
    NewJob { workspace, sharing, ..new }
}

/// The job that was accepted, or 429.
pub(super) async fn submit_to(state: &AppState, new: NewJob) -> Result<Submitted, ApiError> {
    state.queue.submit(new).await.map_err(|error| match error {
        QueueError::Full { .. } | QueueError::ServiceFull => {
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, error.code(), error.to_string())
                .with_header("retry-after", "10")
        }
        QueueError::WebhooksFull => {
            ApiError::from_lower(&error).with_errors(vec![FieldError::new("webhook", &error)])
        }
        error => ApiError::from_lower(&error),
    })
}

/// The trace that a job is to be a part of: that of the request.
pub(super) fn trace_context(headers: &HeaderMap) -> Option<String> {
    trace::current(traceparent(headers))
}

/// Which jobs to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Only jobs in this state.
    #[param(inline)]
    state: Option<JobState>,
    /// Only jobs about this image.
    image_id: Option<ImageId>,
    /// Only jobs older than this one: the `next` of the page before.
    before: Option<Uuid>,
    /// At most this many, and fewer if they are large.
    #[serde(default = "default_limit")]
    #[param(default = 50, minimum = 1, maximum = 200)]
    limit: i64,
}

/// One page of jobs, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobPage {
    jobs: Vec<Job>,
    /// Pass it as `before` to see the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Uuid>,
}

/// Lists jobs
///
/// Newest first, page by page.
#[utoipa::path(
    get,
    path = "/v1/jobs",
    operation_id = "list_jobs",
    tag = "jobs",
    params(ListParams),
    responses(CommonProblems, (status = 200, description = "One page of jobs", body = JobPage)),
    security((), ("token" = []))
)]
pub(super) async fn list(
    State(state): State<AppState>,
    may: May<scope::JobsRead>,
    QueryParams(params): QueryParams<ListParams>,
) -> Result<Json<JobPage>, ApiError> {
    page_limit(params.limit)?;
    if let Some(JobState::Other(name)) = &params.state {
        let known = JobState::KNOWN.map(String::from).join(", ");
        let detail = format!("state is {name:?}: expected one of {known}");
        return Err(ApiError::bad_parameter("state", detail));
    }
    let filter = JobFilter {
        workspace: may.access.workspace,
        state: params.state,
        image_id: params.image_id,
        before: params.before,
        limit: params.limit,
    };
    let listed = state.queue.list(filter).await.map_err(|e| ApiError::from_lower(&e))?;
    let JobList { jobs, more } = listed;
    let next = jobs.last().filter(|_| more).map(|job| job.id);
    Ok(Json(JobPage { jobs, next }))
}

/// Shows a job
///
/// With `wait` the answer comes as soon as the job is final.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}",
    operation_id = "get_job",
    tag = "jobs",
    params(("id" = Uuid, Path, description = "The job's id"), WaitParams),
    responses(
        CommonProblems,
        (status = 200, description = "The job", body = Job),
        (status = 404, description = "No such job", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn get(
    State(state): State<AppState>,
    may: May<scope::JobsRead>,
    PathParam(id): PathParam<Uuid>,
    QueryParams(params): QueryParams<WaitParams>,
) -> Result<Json<Job>, ApiError> {
    let job = visible(&state, &may.access, id).await?;
    awaited(&state, &may.access, job, &params).await.map(Json)
}

/// How long to wait for a job's end before it is shown.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WaitParams {
    /// Seconds; the answer comes as soon as the job is final, and then in any case.
    #[serde(default)]
    #[param(default = 0, minimum = 0, maximum = 25)]
    wait: u64,
}

/// The job, once it is final or the time is over.
async fn awaited(
    state: &AppState,
    access: &Access,
    job: Job,
    params: &WaitParams,
) -> Result<Job, ApiError> {
    if params.wait > MAX_WAIT {
        let detail = format!("wait is {}: expected 0 to {MAX_WAIT} seconds", params.wait);
        return Err(ApiError::bad_parameter("wait", detail));
    }
    if params.wait == 0 || job.is_final() {
        return Ok(job);
    }
    let id = job.id;
    // It has its connection as a stream has.
    let _place = state.streams.open(access)?;
    // Interest is registered before anything is read, so that nothing falls between.
    let mut wakes = state.queue.wakes(id);
    let end = tokio::time::Instant::now() + Duration::from_secs(params.wait);
    loop {
        let found = state.queue.get(id).await.map_err(|e| ApiError::from_lower(&e))?;
        let found = found.ok_or_else(|| not_found(id))?;
        let over = tokio::time::Instant::now() >= end || state.shutdown.is_cancelled();
        if found.is_final() || over {
            return Ok(found);
        }
        tokio::select! {
            () = wakes.next() => {}
            () = tokio::time::sleep_until(end) => {}
            () = state.shutdown.cancelled() => {}
        }
    }
}

/// What a job needs that is done once more.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RetryBody {
    /// How to log in to the image's registry: what the first job brought was erased when it ended.
    #[schema(write_only)]
    credentials: Option<CredentialText>,
}

/// Does a job once more
///
/// A job that ended is submitted again as a new one, which asks for the same. Credentials that it brought
/// have to be sent again. With an `Idempotency-Key`, sending the same request again returns the job that
/// the first one made.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/retry",
    operation_id = "retry_job",
    tag = "jobs",
    params(
        ("id" = Uuid, Path, description = "The job's id"),
        ("Idempotency-Key" = Option<String>, Header, pattern = "^[!-~]{1,200}$", description = "1 to 200 visible ASCII characters"),
    ),
    request_body = Option<RetryBody>,
    responses(
        CommonProblems,
        BodyProblems,
        (status = 202, description = "The new job was queued", body = Job,
            headers(("Location" = String, description = "Where the job is shown"))),
        (status = 200, description = "The job that this Idempotency-Key made before", body = Job,
            headers(("Location" = String, description = "Where the job is shown"))),
        (status = 404, description = "No such job", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The job has not ended", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "As many jobs of the workspace, or of all, wait as may; or the token asks more often than it may", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn retry(
    State(state): State<AppState>,
    may: May<scope::JobsWrite>,
    PathParam(id): PathParam<Uuid>,
    Extension(request_id): Extension<RequestId>,
    headers: HeaderMap,
    OptionalJsonBody(body): OptionalJsonBody<RetryBody>,
) -> Result<Response, ApiError> {
    let job = visible(&state, &may.access, id).await?;
    if !job.is_final() {
        let detail =
            format!("the job is {}: only one that ended is done again", job.state.as_str());
        return Err(ApiError::new(StatusCode::CONFLICT, "job_not_final", detail));
    }
    let spec = job.spec.read().map_err(|error| {
        let detail = format!("this version of the service does not understand the job: {error}");
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "job_not_understood", detail)
    })?;
    let new = NewJob {
        workspace: job.workspace,
        priority: job.priority.try_into().unwrap_or_default(),
        secrets: secrets_for(&spec, body.credentials)?,
        sharing: Sharing::WithActive,
        ..NewJob::new(spec)
    };
    accept(&state, new, request_id, &headers).await
}

/// The job, if it is one of those that `access` may see; else 404, as if there were none.
pub(super) async fn visible(state: &AppState, access: &Access, id: Uuid) -> Result<Job, ApiError> {
    let job = state.queue.get(id).await.map_err(|e| ApiError::from_lower(&e))?;
    job.filter(|job| access.sees(&job.workspace)).ok_or_else(|| not_found(id))
}

/// Cancels a job
///
/// A queued job is cancelled at once; a running one as soon as its worker notices; a final one is
/// returned as it is. Asking twice does no harm.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/cancel",
    operation_id = "cancel_job",
    tag = "jobs",
    params(("id" = Uuid, Path, description = "The job's id")),
    responses(
        CommonProblems,
        (status = 200, description = "The job as it is now", body = Job),
        (status = 404, description = "No such job", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn cancel(
    State(state): State<AppState>,
    may: May<scope::JobsWrite>,
    PathParam(id): PathParam<Uuid>,
) -> Result<Json<Job>, ApiError> {
    visible(&state, &may.access, id).await?;
    let job = state.queue.cancel(id).await.map_err(|e| ApiError::from_lower(&e))?;
    job.map(Json).ok_or_else(|| not_found(id))
}

/// 404: there is no job of this id.
pub(super) fn not_found(id: impl std::fmt::Display) -> ApiError {
    ApiError::not_found("job_not_found", format!("there is no job {id}"))
}
