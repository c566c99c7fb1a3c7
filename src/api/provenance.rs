//! `/v1/jobs/{id}/provenance`: how the image of a build came to be.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use uuid::Uuid;

use super::AppState;
use super::auth::{May, scope};
use super::extract::PathParam;
use super::jobs::visible;
use super::problem::{ApiError, CommonProblems, Problem};
use crate::jobs::build::{STATEMENT, Statement};
use crate::jobs::job::{Job, JobSpec, JobState};
use crate::jobs::recorded::Recorded;

/// Shows how a build's image came to be
///
/// An in-toto statement with SLSA provenance: the image by its digest, what the job asked for, the Dockerfile,
/// the context and the base images by their digests, who built it and when. Of secrets it has the ids alone. The
/// first build of an image puts it beside the image in the registry too, as what refers to its manifest.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/provenance",
    operation_id = "get_job_provenance",
    tag = "jobs",
    params(("id" = Uuid, Path, description = "The job's id")),
    responses(
        CommonProblems,
        (status = 200, description = "The statement", body = Statement, content_type = "application/vnd.in-toto+json",
            example = json!({
                "_type": "https://in-toto.io/Statement/v1",
                "subject": [{
                    "name": "registry.example/beta9-users:961eaef6668e480f",
                    "digest": {"sha256": "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"},
                }],
                "predicateType": "https://slsa.dev/provenance/v1",
                "predicate": {
                    "buildDefinition": {
                        "buildType": "urn:clipwright:build:v1",
                        "externalParameters": {
                            "buildArgs": {"VERSION": "1"}, "secretIds": ["token"], "secretsAsBuildArgs": false,
                            "platform": "linux/amd64", "labels": {}, "noCache": false,
                        },
                        "resolvedDependencies": [
                            {
                                "name": "dockerfile",
                                "digest": {"sha256": "a1fce4363854ff888cff4b8e7875d600c2682390412a8cf79b37d0b11148b0fa"},
                            },
                            {
                                "name": "registry.example/base:1",
                                "uri": "pkg:oci/base@sha256%3Afcf2e84d8a3b9f1e0a6a6f2a3e6d1f6f0d3b5a1c8e7f4b2d9c0a7e6f5d4c3b2a?repository_url=registry.example/base",
                                "digest": {"sha256": "fcf2e84d8a3b9f1e0a6a6f2a3e6d1f6f0d3b5a1c8e7f4b2d9c0a7e6f5d4c3b2a"},
                                "annotations": {"reference": "registry.example/base@sha256:fcf2e84d8a3b9f1e0a6a6f2a3e6d1f6f0d3b5a1c8e7f4b2d9c0a7e6f5d4c3b2a"},
                            },
                        ],
                    },
                    "runDetails": {
                        "builder": {"id": "urn:clipwright:builder", "version": {"buildah": "1.28.2", "clipwright": "0.1.0"}},
                        "metadata": {
                            "invocationId": "0199d2a4-7c1e-7f0a-9a55-0d4b1a1c7e21",
                            "startedOn": "2026-11-28T02:00:00Z", "finishedOn": "2026-11-28T02:01:00Z",
                        },
                    },
                },
            })),
        (status = 404, description = "No such job, or none that has built an image", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn show(
    State(state): State<AppState>,
    may: May<scope::JobsRead>,
    PathParam(id): PathParam<Uuid>,
) -> Result<Response, ApiError> {
    let job = visible(&state, &may.access, id).await?;
    let statement = statement(&job)
        .map_err(|reason| ApiError::not_found("no_provenance", format!("job {id} {reason}")))?;
    Ok(([(CONTENT_TYPE, STATEMENT)], statement.to_json()).into_response())
}

/// The statement, or why there is none.
fn statement(job: &Job) -> Result<Statement, &'static str> {
    let Some(JobSpec::Build(spec)) = job.spec.known() else {
        return Err("is no build: its image was there before");
    };
    if job.state != JobState::Succeeded {
        return Err("has built no image, or not yet");
    }
    let result = job.result.as_ref().and_then(Recorded::known);
    let made = result.and_then(|result| Statement::of_result(job.id, &spec, &result));
    made.ok_or("has left no word of how its image was built, or another version of the service has")
}
