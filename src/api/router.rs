//! The table of contents.

use std::sync::LazyLock;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi as _;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt as _};
use utoipa_axum::routes;

use super::extract::MAX_BODY;
use super::{
    AppState, archives, auth, beta9, bulk, contexts, deadline, docs, events, files, health, images,
    jobs, log, metrics, new_job, observe, origin, packages, pages, problem, provenance,
    rollout_report, rollouts, starts, storage, tokens, traces, webhooks, workspaces,
};
use crate::trace;

/// What needs the token, when there is one.
fn v1() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(jobs::submit, jobs::list).layer(DefaultBodyLimit::max(new_job::MAX_JOB)))
        .routes(routes!(bulk::submit).layer(DefaultBodyLimit::max(bulk::MAX_BULK)))
        .routes(routes!(jobs::get))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::retry))
        .routes(routes!(events::follow))
        .routes(routes!(log::follow))
        .routes(routes!(provenance::show))
        .routes(routes!(packages::show))
        .routes(routes!(contexts::keep).layer(DefaultBodyLimit::disable()))
        .routes(routes!(contexts::look))
        .routes(routes!(images::list))
        .routes(routes!(images::get, images::delete))
        .routes(routes!(images::archive))
        .routes(routes!(starts::report))
        .routes(
            routes!(traces::report, traces::show).layer(DefaultBodyLimit::max(trace::MAX_BYTES)),
        )
        .routes(routes!(files::list))
        .routes(routes!(files::content))
        .routes(routes!(files::usage::show))
        .routes(routes!(archives::list))
        .routes(routes!(workspaces::create, workspaces::list))
        .routes(routes!(workspaces::get, workspaces::change))
        .routes(routes!(storage::set, storage::get, storage::remove))
        .routes(routes!(rollouts::create, rollouts::list))
        .routes(routes!(rollouts::get, rollouts::change, rollouts::delete))
        .routes(routes!(rollout_report::show))
        .routes(routes!(tokens::create, tokens::list))
        .routes(routes!(tokens::rotate))
        .routes(routes!(tokens::revoke))
        .routes(routes!(tokens::audit))
        .routes(routes!(webhooks::list))
        .routes(routes!(webhooks::redeliver))
        .routes(routes!(beta9::submit).layer(DefaultBodyLimit::max(new_job::MAX_JOB)))
        .routes(routes!(beta9::get))
        .routes(routes!(beta9::stop))
        .routes(routes!(beta9::verify))
        .routes(routes!(beta9::logs::follow))
}

/// What never does.
fn probes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(metrics::show))
}

/// The whole service as one `tower` service.
pub fn router(state: AppState) -> Router {
    let guarded = || {
        let v1 = Router::from(v1()).route_layer(from_fn_with_state(state.clone(), auth::require));
        v1.merge(docs::routes(openapi_json)).merge(pages::routes())
    };
    let served = if state.probes_alone { Router::new() } else { guarded() };
    served
        .merge(Router::from(probes()))
        // The last layer is the outermost.
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(deadline::answer_in_time))
        .layer(from_fn_with_state(state.clone(), origin::guard))
        .layer(CatchPanicLayer::custom(problem::from_panic))
        .layer(from_fn(problem::render))
        .layer(from_fn(observe::observe))
        .with_state(state)
}

static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let mut document = OpenApiRouter::with_openapi(docs::Frame::openapi())
        .merge(v1())
        .merge(probes())
        .into_openapi();
    docs::name_the_workspace(&mut document);
    // Maps of strings: this can't fail, and the test of the checked-in document would show it.
    document.to_pretty_json().map(|json| json + "\n").unwrap_or_default()
});

/// The API document: the same bytes for the same build, with a final newline.
pub fn openapi_json() -> &'static str {
    &DOCUMENT
}
