//! Probes: is the process up, and can it do its work.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::problem::{ApiError, FieldError, Problem};

/// How long a part may take to answer before it counts as unreachable.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// A good answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    #[schema(examples("ok"))]
    status: &'static str,
}

const OK: Json<Health> = Json(Health { status: "ok" });

/// What is ready, and what this process can't do.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Readiness {
    #[schema(examples("ok"))]
    status: &'static str,
    /// Keys that waiting jobs or storages of workspaces need and this process doesn't have: it leaves those jobs
    /// to others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unknown_keys: Vec<UnknownKey>,
    /// Why this process builds no images; absent if it does, or works on no jobs at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_builds: Option<String>,
    /// Why builds have no network here although the settings give them a filtered one; absent if they have
    /// what the settings say.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_build_network: Option<String>,
}

/// A key that is not here.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UnknownKey {
    /// Names the key, and tells nothing about it.
    key_id: String,
    /// How many jobs wait for a process that has it; 1000 are counted at most.
    jobs: i64,
    /// How many workspaces have a storage whose secret is sealed with it.
    storages: i64,
}

/// Each key once.
fn unknown(jobs: Vec<(String, i64)>, storages: Vec<(String, i64)>) -> Vec<UnknownKey> {
    let mut counts = BTreeMap::<String, (i64, i64)>::new();
    for (key, count) in jobs {
        counts.entry(key).or_default().0 = count;
    }
    for (key, count) in storages {
        counts.entry(key).or_default().1 = count;
    }
    let counts = counts.into_iter();
    counts.map(|(key_id, (jobs, storages))| UnknownKey { key_id, jobs, storages }).collect()
}

/// Says that the process is up
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "healthz",
    tag = "health",
    responses(
        (status = 200, description = "The process is up", body = Health),
        (status = 403, description = "Without a token only local clients are served", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn live() -> Json<Health> {
    OK
}

/// Says whether the service can take requests
///
/// Database and store are asked; a failing one is named in `errors`.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "readyz",
    tag = "health",
    responses(
        (status = 200, description = "Database and store answer", body = Readiness),
        (status = 403, description = "Without a token only local clients are served", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "A part does not answer, or the service is shutting down", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn ready(State(state): State<AppState>) -> Result<Json<Readiness>, ApiError> {
    if state.stopping.is_cancelled() || state.shutdown.is_cancelled() {
        let detail = "the service is shutting down";
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", detail));
    }
    let (database, store, keys, storage_keys) = tokio::join!(
        check("database", state.queue.ping()),
        check("store", state.archives.check()),
        state.queue.unknown_keys(),
        tokio::time::timeout(CHECK_TIMEOUT, state.workspaces.unknown_storage_keys()),
    );
    let failing: Vec<_> = [database, store].into_iter().flatten().collect();
    if failing.is_empty() {
        let unknown_keys = unknown(
            keys.unwrap_or_default(),
            storage_keys.unwrap_or(Ok(Vec::new())).unwrap_or_default(),
        );
        let no_builds = state.no_builds.clone();
        let no_build_network = state.no_build_network.clone();
        return Ok(Json(Readiness { status: "ok", unknown_keys, no_builds, no_build_network }));
    }
    let names: Vec<_> = failing.iter().map(|part| part.field.as_str()).collect();
    let detail = format!("not ready: {} can't be reached", names.join(" and "));
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", detail).with_errors(failing))
}

/// `None` when all is well. The cause goes to the log: a probe needs no token.
async fn check<E: Display>(
    part: &'static str,
    answer: impl Future<Output = Result<(), E>>,
) -> Option<FieldError> {
    let detail = match tokio::time::timeout(CHECK_TIMEOUT, answer).await {
        Ok(Ok(())) => return None,
        Ok(Err(cause)) => {
            tracing::warn!(part, %cause, "readiness check failed");
            "answered with an error".to_owned()
        }
        Err(_) => {
            tracing::warn!(part, "readiness check timed out");
            format!("did not answer within {CHECK_TIMEOUT:?}")
        }
    };
    Some(FieldError::new(part, detail))
}
