//! The HTTP face: the router, one file per resource, problem+json, the pages of console and docs.
//!
//! A handler turns a request into types, asks the queue, and turns the answer into JSON. It knows
//! no SQL and no registry. What can go wrong leaves as a `problem::ApiError`
//! and is rendered in one place.

mod archives;
mod auth;
mod beta9;
mod bulk;
mod byte_range;
mod bytes;
mod contexts;
mod deadline;
mod docs;
mod events;
mod extract;
mod files;
mod health;
mod images;
mod jobs;
mod log;
mod metrics;
mod new_job;
mod observe;
mod origin;
mod packages;
mod pages;
mod problem;
mod provenance;
mod rate;
mod rollout_report;
mod rollouts;
mod router;
mod server;
mod starts;
mod storage;
mod streams;
mod tokens;
mod traces;
mod webhooks;
mod workspaces;

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use crate::egress::Egress;
use crate::jobs::build::Contexts;
use crate::jobs::queue::Queue;
use crate::oci::OciSettings;
use crate::publish::archives::ArchiveStore;
use crate::publish::files::ArchiveReader;
use crate::rollouts::Rollouts;
use crate::workspaces::Workspaces;

pub use router::{openapi_json, router};
pub use server::serve;

/// What the handlers share.
#[derive(Clone)]
pub struct AppState {
    queue: Queue,
    archives: Arc<dyn ArchiveStore>,
    reader: Arc<ArchiveReader>,
    workspaces: Workspaces,
    rollouts: Rollouts,
    token: Option<auth::AccessToken>,
    /// Where contexts of builds are kept, and where they are while they come.
    contexts: Option<contexts::ContextRoom>,
    /// Which addresses builds may be told to take contexts from.
    egress: Egress,
    /// Why this process builds nothing, if it works and doesn't.
    no_builds: Option<String>,
    /// Why its builds have no network, if they should and don't.
    no_build_network: Option<String>,
    rates: rate::RateLimits,
    streams: streams::Streams,
    queue_gauge: metrics::QueueGauge,
    /// The service is about to stop: no new clients should come.
    stopping: CancellationToken,
    shutdown: CancellationToken,
    /// Nothing but probes and metrics is served.
    probes_alone: bool,
}

impl AppState {
    /// With a `token` every `/v1` route asks for it, or for one of those in the database; without one
    /// clients of this machine are served as well, so that the caller must not bind to anything but a
    /// loopback address.
    pub fn new(
        queue: Queue,
        archives: Arc<dyn ArchiveStore>,
        workspaces: Workspaces,
        rollouts: Rollouts,
        token: Option<&SecretString>,
    ) -> Self {
        Self {
            queue,
            reader: Arc::new(ArchiveReader::new(archives.clone(), OciSettings::default())),
            archives,
            workspaces,
            rollouts,
            token: token.map(auth::AccessToken::new),
            contexts: None,
            egress: Egress::default(),
            no_builds: None,
            no_build_network: None,
            rates: rate::RateLimits::default(),
            streams: streams::Streams::default(),
            queue_gauge: metrics::QueueGauge::default(),
            stopping: CancellationToken::new(),
            shutdown: CancellationToken::new(),
            probes_alone: false,
        }
    }

    /// Serves nothing but probes and metrics.
    #[must_use]
    pub fn for_probes_alone(self) -> Self {
        Self { probes_alone: true, ..self }
    }

    /// Contexts of builds are taken, and lie in `scratch` while they come.
    #[must_use]
    pub fn with_contexts(self, contexts: Contexts, scratch: PathBuf) -> Self {
        Self { contexts: Some(contexts::ContextRoom::new(contexts, scratch)), ..self }
    }

    /// For `/readyz`: why this process builds nothing, and why its builds have no network.
    #[must_use]
    pub fn with_builds(self, no_builds: Option<String>, no_build_network: Option<String>) -> Self {
        Self { no_builds, no_build_network, ..self }
    }

    /// How often each token may ask in a minute that has no limit of its own.
    #[must_use]
    pub fn with_rate_limit(self, requests_per_minute: Option<NonZeroU32>) -> Self {
        Self { rates: rate::RateLimits::new(requests_per_minute), ..self }
    }

    /// Files' content is fetched from registries by these settings, and what they say of addresses counts
    /// for storages too.
    #[must_use]
    pub fn with_oci(self, oci: OciSettings) -> Self {
        let egress = oci.egress;
        let reader = Arc::new(ArchiveReader::new(self.archives.clone(), oci));
        Self { reader, egress, ..self }
    }

    /// `/readyz` says no from when `stopping` fires.
    #[must_use]
    pub fn with_stopping(self, stopping: CancellationToken) -> Self {
        Self { stopping, ..self }
    }
}
