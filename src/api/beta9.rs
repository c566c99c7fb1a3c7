//! `/v1/beta9`: builds as beta9's gateway asks for them. What they mean is in [`crate::beta9`]; here they
//! become jobs.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use super::AppState;
use super::auth::{May, scope};
use super::extract::{JsonBody, PathParam, invalid};
use super::jobs::{not_found, submit_to, trace_context, visible};
use super::new_job::{BUILD_TIMEOUT, Faults, MAX_JOB, source_of};
use super::observe::RequestId;
use super::problem::{ApiError, BodyProblems, CommonProblems, Problem};
use crate::archive::LayerPolicy;
use crate::beta9::{Build, BuildRequest, ContainerId, VerifyRequest};
use crate::build::source::ObjectKey;
use crate::build::{MAX_DOCKERFILE, secret_id_fault};
use crate::digest::Digest;
use crate::jobs::build::{PUSH_SECRET, REGISTRY_PREFIX, SECRET_PREFIX};
use crate::jobs::job::{BuildSpec, JobSpec, PullSpec};
use crate::jobs::pull::REGISTRY_SECRET;
use crate::jobs::queue::{NewJob, Secrets};
use crate::oci::Platform;
use crate::workspaces::Access;

/// Where beta9 keeps contexts in a bucket.
const OBJECTS: &str = "objects/";

/// `/v1/beta9/builds/{id}/logs`.
pub(super) mod logs;

/// Submits a build
///
/// Takes beta9's `ContainerRequest` as it is: fields that say nothing about the image are passed over. A
/// Dockerfile is built, in a context that was sent to `/v1/contexts` and is named by its digest, or that is an
/// object of the workspace's storage, `objects/` and its id, or in an empty one; a source image without a Dockerfile is indexed where it is, as by a pull; whoever sends a `container_id`
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
    let mut faults = Faults::default();
    // What was sent here has a digest; what the gateway keeps has an object's id (CONTRACT D.1).
    let (context, context_object) = match options.build_context() {
        None => (None, None),
        Some(name) => match name.parse::<Digest>() {
            Ok(digest) => (Some(digest), None),
            Err(_) => {
                let key = format!("{OBJECTS}{name}").parse::<ObjectKey>();
                (None, faults.keep("build_options.build_context", key))
            }
        },
    };
    let as_arguments = request.secrets_as_build_args.unwrap_or_default();
    let given = options.build_secrets();
    let texts = given.iter().map(|(name, value)| (name, value.expose_secret()));
    faults.map("build_options.build_secrets", texts, |name| secret_id_fault(name, as_arguments));
    let mut secrets: Secrets = given
        .iter()
        .map(|(name, value)| (format!("{SECRET_PREFIX}{name}"), value.clone()))
        .collect();
    if text.len() > MAX_DOCKERFILE || text.contains('\0') {
        let found = text.len();
        let detail = format!("has {found} bytes: expected at most {MAX_DOCKERFILE}, and no NUL");
        faults.wrong("build_options.dockerfile", detail);
    }
    // Beside a Dockerfile the source image is what it begins with.
    if let (Some(source), Some(text)) = (options.source_image(), &options.source_image_creds)
        && let Some(source) = faults.keep("build_options.source_image", source_of(source))
    {
        let (field, registry) = ("build_options.source_image_creds", source.registry());
        let kept = faults.credentials(field, text.clone(), Some(registry));
        secrets.extend(kept.map(|text| (format!("{REGISTRY_PREFIX}{registry}"), text)));
    }
    if let Some(text) = &request.build_registry_credentials {
        let kept = faults.credentials("build_registry_credentials", text.clone(), None);
        secrets.extend(kept.map(|text| (PUSH_SECRET.to_owned(), text)));
    }
    match request.image_id() {
        Some(image_id) if faults.0.is_empty() => {
            let spec = BuildSpec {
                image_id,
                dockerfile: Some(text.to_owned()),
                dockerfile_path: None,
                context,
                context_object,
                context_git: None,
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
        _ => Err(invalid("the build", faults.0)),
    }
}

/// The pull that a build without a Dockerfile is.
fn pull_of(request: &BuildRequest) -> Result<(PullSpec, Secrets), ApiError> {
    let options = &request.build_options;
    let mut faults = Faults::default();
    let source = options.source_image().ok_or_else(|| "is missing".to_owned());
    let source = faults.keep("build_options.source_image", source.and_then(source_of));
    let kept = match (&options.source_image_creds, &source) {
        (Some(text), Some(source)) => {
            let field = "build_options.source_image_creds";
            faults.credentials(field, text.clone(), Some(source.registry()))
        }
        _ => None,
    };
    let secrets = kept.map(|text| (REGISTRY_SECRET.to_owned(), text)).into_iter().collect();
    match (source, request.image_id()) {
        (Some(source), Some(image_id)) if faults.0.is_empty() => {
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
        _ => Err(invalid("the build", faults.0)),
    }
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
