//! `/v1/beta9`: builds as beta9's gateway asks for them. What they mean is in [`crate::beta9`]; here they
//! become jobs.

use std::collections::BTreeMap;
use std::fmt;

use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use super::AppState;
use super::auth::{May, scope};
use super::extract::{JsonBody, PathParam, invalid};
use super::jobs::{not_found, submit_to, trace_context, visible};
use super::new_job::{BUILD_TIMEOUT, MAX_CREDENTIALS, MAX_JOB, source_of};
use super::observe::RequestId;
use super::problem::{ApiError, BodyProblems, CommonProblems, FieldError, Problem};
use crate::archive::LayerPolicy;
use crate::beta9::{Build, BuildRequest, ContainerId, VerifyRequest};
use crate::build::{MAX_DOCKERFILE, no_argument};
use crate::digest::Digest;
use crate::jobs::build::{PUSH_SECRET, REGISTRY_PREFIX, SECRET_PREFIX};
use crate::jobs::job::{BuildSpec, JobSpec, PullSpec};
use crate::jobs::pull::REGISTRY_SECRET;
use crate::jobs::queue::{NewJob, Secrets};
use crate::oci::{Credentials, Platform, Reference};
use crate::workspaces::Access;

/// `/v1/beta9/builds/{id}/logs`.
pub(super) mod logs;

/// Submits a build
///
/// Takes beta9's `ContainerRequest` as it is: fields that say nothing about the image are passed over. A
/// Dockerfile is built, in a context that was sent to `/v1/contexts` and is named by its digest, or an empty
/// one; a source image without a Dockerfile is indexed where it is, as by a pull; whoever sends a `container_id`
/// twice gets the build that the first request made. The workspace is that of the token, or the one that
/// the header names, never one in the body.
#[utoipa::path(
    post,
    path = "/v1/beta9/builds",
    operation_id = "submit_build",
    tag = "beta9",
    request_body = BuildRequest,
    responses(
        CommonProblems,
        BodyProblems,
        (status = 202, description = "The build was queued", body = Build,
            headers(("Location" = String, description = "Where the build is shown"))),
        (status = 200, description = "The build that this container_id stands for", body = Build,
            headers(("Location" = String, description = "Where the build is shown"))),
        (status = 409, description = "The container_id stands for a build of something else", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "The workspace has as many waiting jobs as it may", body = Problem, content_type = "application/problem+json"),
        (status = 501, description = "The context is an object of a bucket, which this version does not fetch", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn submit(
    State(state): State<AppState>,
    may: May<scope::JobsWrite>,
    Extension(request_id): Extension<RequestId>,
    headers: HeaderMap,
    JsonBody(request): JsonBody<BuildRequest, MAX_JOB>,
) -> Result<Response, ApiError> {
    let (spec, secrets) = match request.build_options.dockerfile() {
        Some(text) => build_of(&request, text)?,
        None => pull_of(&request).map(|(spec, secrets)| (JobSpec::Pull(spec), secrets))?,
    };
    let new = NewJob {
        workspace: may.access.workspace,
        secrets,
        idempotency_key: request.container_id.as_ref().map(key_of),
        request_id: Some(request_id.as_str().to_owned()),
        trace_context: trace_context(&headers),
        ..NewJob::new(spec)
    };
    let submitted = submit_to(&state, new).await.map_err(|error| match error.code() {
        "idempotency_mismatch" => {
            let detail = "the container_id was sent before, with a build of something else";
            ApiError::new(StatusCode::CONFLICT, "container_id_taken", detail)
        }
        _ => error,
    })?;
    let status = if submitted.existing { StatusCode::OK } else { StatusCode::ACCEPTED };
    let location = format!("/v1/beta9/builds/{}", submitted.job.id);
    Ok((status, [(LOCATION, location)], Json(Build::of(&submitted.job))).into_response())
}

/// The build of a Dockerfile.
fn build_of(request: &BuildRequest, text: &str) -> Result<(JobSpec, Secrets), ApiError> {
    let options = &request.build_options;
    let context = match options.build_context().map(str::parse::<Digest>) {
        None => None,
        Some(Ok(digest)) => Some(digest),
        Some(Err(_)) => {
            let detail = "this version of the service does not fetch contexts out of buckets: send it to \
                          /v1/contexts, and name its digest in build_context";
            return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, "context_not_fetched", detail));
        }
    };
    let as_arguments = request.secrets_as_build_args.unwrap_or_default();
    let mut secrets = Secrets::new();
    let mut wrong = Vec::new();
    for (name, value) in options.build_secrets() {
        let bad = if as_arguments { no_argument(name) } else { None };
        if let Some(reason) = bad {
            let shown: String = name.chars().take(100).collect();
            wrong.push(FieldError::new(
                "build_options.build_secrets",
                format!("{shown:?} {reason}"),
            ));
        }
        secrets.insert(format!("{SECRET_PREFIX}{name}"), value.clone());
    }
    if text.len() > MAX_DOCKERFILE {
        let detail = format!("has {} bytes: expected at most {MAX_DOCKERFILE}", text.len());
        wrong.push(FieldError::new("build_options.dockerfile", detail));
    }
    // Beside a Dockerfile the source image is what it begins with.
    let source = options.source_image().and_then(|text| source_of(text).ok());
    if let (Some(text), Some(source)) = (&options.source_image_creds, source) {
        let registry = source.registry();
        match Credentials::parse(text.expose_secret(), registry) {
            Ok(_) => drop(secrets.insert(format!("{REGISTRY_PREFIX}{registry}"), text.clone())),
            Err(error) => {
                wrong.push(FieldError::new("build_options.source_image_creds", error));
            }
        }
    }
    if let Some(text) = &request.build_registry_credentials {
        secrets.insert(PUSH_SECRET.to_owned(), text.clone());
    }
    match request.image_id() {
        Some(image_id) if wrong.is_empty() => {
            let spec = BuildSpec {
                image_id,
                dockerfile: Some(text.to_owned()),
                dockerfile_path: None,
                context,
                build_args: BTreeMap::new(),
                secret_ids: options.build_secrets().keys().cloned().collect(),
                secrets_as_build_args: as_arguments,
                target: None,
                platform: Platform::host().normalised(),
                labels: BTreeMap::new(),
                no_cache: false,
                timeout: BUILD_TIMEOUT,
                clip_version: request.clip_version,
                fallback: None,
                force: false,
            };
            Ok((JobSpec::Build(Box::new(spec)), secrets))
        }
        _ => Err(invalid("the build", wrong)),
    }
}

/// The pull that a build without a Dockerfile is.
fn pull_of(request: &BuildRequest) -> Result<(PullSpec, Secrets), ApiError> {
    let options = &request.build_options;
    let mut wrong = Vec::new();
    let mut fault = |field: &str, detail: &dyn fmt::Display| {
        wrong.push(FieldError::new(format!("build_options.{field}"), detail));
    };
    let source = options.source_image().ok_or_else(|| "is missing".to_owned());
    let source = source.and_then(source_of).map_err(|error| fault("source_image", &error)).ok();
    let registry = source.as_ref().map(Reference::registry);
    let secrets = match (&options.source_image_creds, registry) {
        (Some(text), Some(registry)) => {
            let secrets = secrets_for(text, registry);
            secrets.map_err(|error| fault("source_image_creds", &error)).unwrap_or_default()
        }
        _ => Secrets::default(),
    };
    match (source, request.image_id()) {
        (Some(source), Some(image_id)) if wrong.is_empty() => {
            let spec = PullSpec {
                image_id,
                source,
                platform: Platform::host().normalised(),
                clip_version: request.clip_version,
                layers: LayerPolicy::default(),
                fallback: None,
                force: false,
            };
            Ok((spec, secrets))
        }
        _ => Err(invalid("the build", wrong)),
    }
}

fn secrets_for(text: &SecretString, registry: &str) -> Result<Secrets, String> {
    let found = text.expose_secret().len();
    if found > MAX_CREDENTIALS {
        return Err(format!("has {found} bytes: expected at most {MAX_CREDENTIALS}"));
    }
    Credentials::parse(text.expose_secret(), registry).map_err(|error| error.to_string())?;
    Ok([(REGISTRY_SECRET.to_owned(), text.clone())].into())
}

/// No client's own key has a space in it.
fn key_of(container: &ContainerId) -> String {
    format!("beta9 {}", container.as_str())
}

/// A build by its job's id, or by the `container_id` that it was sent with.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(super) enum BuildName {
    Job(Uuid),
    Container(ContainerId),
}

impl TryFrom<String> for BuildName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.parse() {
            Ok(id) => Ok(Self::Job(id)),
            Err(_) => text.parse().map(Self::Container).map_err(|_| {
                "expected the id of a build's job, or the container_id it was sent with".to_owned()
            }),
        }
    }
}

impl PartialSchema for BuildName {
    fn schema() -> RefOr<Schema> {
        let uuid = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}";
        ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(format!("^({uuid}|build-[0-9A-Za-z-]{{1,64}})$")))
            .into()
    }
}

impl ToSchema for BuildName {}

impl BuildName {
    /// The build's job, which `access` may see or not.
    async fn job(&self, state: &AppState, access: &Access) -> Result<Uuid, ApiError> {
        match self {
            Self::Job(id) => Ok(*id),
            Self::Container(container) => {
                let found = state.queue.job_of_key(&access.workspace, &key_of(container)).await;
                let found = found.map_err(|error| ApiError::from_lower(&error))?;
                found.ok_or_else(|| not_found(container.as_str()))
            }
        }
    }
}

/// Shows a build
///
/// Success, exit code and message, once it has ended.
#[utoipa::path(
    get,
    path = "/v1/beta9/builds/{id}",
    operation_id = "get_build",
    tag = "beta9",
    params(("id" = inline(BuildName), Path, description = "The job's id, or the `container_id` that it was sent with")),
    responses(
        CommonProblems,
        (status = 200, description = "The build", body = Build),
        (status = 404, description = "No such build", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn get(
    State(state): State<AppState>,
    may: May<scope::JobsRead>,
    PathParam(name): PathParam<BuildName>,
) -> Result<Json<Build>, ApiError> {
    let id = name.job(&state, &may.access).await?;
    visible(&state, &may.access, id).await.map(|job| Json(Build::of(&job)))
}

/// Stops a build
///
/// One that waits is stopped at once, one that runs as soon as its worker notices, and one that has ended
/// is returned as it is. Asking twice does no harm.
#[utoipa::path(
    post,
    path = "/v1/beta9/builds/{id}/stop",
    operation_id = "stop_build",
    tag = "beta9",
    params(("id" = inline(BuildName), Path, description = "The job's id, or the `container_id` that it was sent with")),
    responses(
        CommonProblems,
        (status = 200, description = "The build as it is now", body = Build),
        (status = 404, description = "No such build", body = Problem, content_type = "application/problem+json"),
    ),
    security((), ("token" = []))
)]
pub(super) async fn stop(
    State(state): State<AppState>,
    may: May<scope::JobsWrite>,
    PathParam(name): PathParam<BuildName>,
) -> Result<Json<Build>, ApiError> {
    let id = name.job(&state, &may.access).await?;
    visible(&state, &may.access, id).await?;
    let job = state.queue.cancel(id).await.map_err(|error| ApiError::from_lower(&error))?;
    job.map(|job| Json(Build::of(&job))).ok_or_else(|| not_found(id))
}

/// What is known of an image that might be built.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({"image_id": "961eaef6668e480f", "valid": true, "exists": false}))]
pub(super) struct Verdict {
    /// Names the archive; empty if there can be none.
    #[schema(value_type = String)]
    image_id: String,
    /// Whether the image can have a name at all.
    valid: bool,
    /// Whether its archive is there.
    exists: bool,
}

/// Looks for an image before it is built
///
/// Computes the image's id as beta9 does, unless one is given, and says whether the workspace has it. Asks
/// no registry: a tag in `existing_image_uri` is taken as a tag.
#[utoipa::path(
    post,
    path = "/v1/beta9/verify",
    operation_id = "verify_build",
    tag = "beta9",
    request_body = VerifyRequest,
    responses(
        CommonProblems,
        BodyProblems,
        (status = 200, description = "What is known of it", body = Verdict),
    ),
    security((), ("token" = []))
)]
pub(super) async fn verify(
    State(state): State<AppState>,
    may: May<scope::ImagesRead>,
    JsonBody(request): JsonBody<VerifyRequest>,
) -> Result<Json<Verdict>, ApiError> {
    let Some(image_id) = request.image_id() else {
        return Ok(Json(Verdict { image_id: String::new(), valid: false, exists: false }));
    };
    let image = state.queue.image(&may.access.workspace, &image_id).await;
    let exists = image.map_err(|error| ApiError::from_lower(&error))?.is_some();
    Ok(Json(Verdict { image_id: image_id.into(), valid: true, exists }))
}
