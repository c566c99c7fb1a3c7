//! What works on jobs: handlers with all that they need, workers, reconcilers. A process that serves the
//! API alone has none of it.

use std::path::Path;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::archive::{IndexOptions, LayerCache, PackOptions};
use crate::build::context::ContextLimits;
use crate::build::source::{Git, SourceLimits};
use crate::build::{BuildError, Buildah, Launcher, Storages};
use crate::config::{BuildSettings, Config};
use crate::database::Database;
use crate::fetch::Budget;
use crate::jobs::build::{Builder, Contexts, TidyContexts, TidyStorages};
use crate::jobs::courier::Courier;
use crate::jobs::handlers::Handlers;
use crate::jobs::job::JobKind;
use crate::jobs::migrate::Migrator;
use crate::jobs::pull::Puller;
use crate::jobs::queue::{Queue, Vault};
use crate::jobs::reconcile::Reconcilers;
use crate::jobs::worker::{Liveness, WorkerPool, WorkerSettings};
use crate::local::io_error;
use crate::memory::MemoryBudget;
use crate::publish::archives::Stores;
use crate::rollouts::{Guard, Rollouts, Tally, Tidy, Versions};
use crate::store::ObjectStore;
use crate::workspaces::{StorageSecrets, Workspaces};

/// Handlers, and what looks after the things that they leave.
pub(super) struct Workshop {
    handlers: Arc<Handlers>,
    rollouts: Rollouts,
    workspaces: Workspaces,
    /// Why there are no builds here, if there are none.
    no_builds: Option<String>,
}

impl Workshop {
    /// What is not finished goes to `scratch`.
    pub(super) async fn open(
        config: &Config,
        stores: &Stores,
        queue: &Queue,
        (database, vault): (&Database, &Vault),
        scratch: &Path,
    ) -> anyhow::Result<Self> {
        let index = IndexOptions {
            reference_form: config.reference_form,
            limits: config.limits,
            span: Some(config.span),
            budget: Arc::new(config.layer_concurrency.map_or_else(Budget::default, Budget::new)),
            cache: layer_cache(config, &stores.objects, queue),
            ..IndexOptions::default()
        };
        let migrator = Arc::new(Migrator {
            archives: stores.archives.clone(),
            oci: config.oci.clone(),
            pack: PackOptions {
                limits: config.limits,
                budget: index.budget.clone(),
                ..PackOptions::default()
            },
            index: index.clone(),
            build_registry: config.build_registry.clone(),
            scratch: scratch.to_owned(),
        });
        let rollouts = Rollouts::new(database.work_pool().clone());
        let workspaces = Workspaces::new(database.work_pool().clone()).with_vault(vault.clone());
        let puller = Arc::new(Puller {
            archives: stores.archives.clone(),
            oci: config.oci.clone(),
            index,
            versions: Arc::new(Versions {
                workspaces: workspaces.clone(),
                rollouts: rollouts.clone(),
                configured: config.clip_version,
            }),
            fallback: config.fallback,
            build_registry: config.build_registry.clone(),
            scratch: scratch.to_owned(),
        });
        let memory = MemoryBudget::new(config.limits.memory_bytes);
        let builder = builder(config, stores, &puller, &workspaces, scratch).await;
        let no_builds = builder.as_ref().err().cloned();
        if let Some(reason) = &no_builds {
            tracing::warn!(reason, "this process builds no images");
        }
        if let Ok(Builder { network_obstacle: Some(reason), .. }) = &builder {
            tracing::warn!(reason, "builds have no network here, as it can't be filtered");
        }
        let builder = builder.ok().map(Arc::new);
        let handlers = Arc::new(Handlers { puller, migrator, builder, memory });
        Ok(Self { handlers, rollouts, workspaces, no_builds })
    }

    /// Why there are no builds here; `None` if there are.
    pub(super) fn no_builds(&self) -> Option<String> {
        self.no_builds.clone()
    }

    /// Why builds have no network here; `None` if they have what the settings say.
    pub(super) fn no_build_network(&self) -> Option<String> {
        self.handlers.builder.as_ref()?.network_obstacle.clone()
    }

    /// The workers and the reconcilers, until `stopping`.
    pub(super) fn start(
        &self,
        config: &Config,
        stores: &Stores,
        queue: &Queue,
        stopping: &CancellationToken,
    ) -> anyhow::Result<(JoinHandle<()>, JoinHandle<()>)> {
        let courier = Courier::new(queue.clone(), config.oci.egress)?.start(stopping.clone());
        let workers = WorkerPool::start(
            queue.clone(),
            self.handlers.clone(),
            WorkerSettings {
                workers: config.workers,
                slots: [(JobKind::Migrate, config.migrations), (JobKind::Build, config.builds)]
                    .into_iter()
                    .filter_map(|(kind, most)| Some((kind, most?)))
                    .collect(),
                lease: config.lease,
                poll: config.poll_interval,
                liveness: Liveness { stall: config.stall, limit: config.attempt_limit },
                worker_id: format!("{}:{}", hostname(), Uuid::now_v7().simple()),
            },
            stopping.clone(),
        );
        let rollouts = || self.rollouts.clone();
        let reconcilers = Reconcilers::new(queue, stores, config.lease, config.retention)
            .with(Tally { rollouts: rollouts() })
            .with(Guard { rollouts: rollouts() })
            .with(Tidy { rollouts: rollouts() })
            .with(StorageSecrets { workspaces: self.workspaces.clone() });
        let reconcilers = match &self.handlers.builder {
            Some(builder) => reconcilers
                .with(TidyStorages {
                    backend: builder.backend.clone(),
                    storages: builder.storages.clone(),
                    most: config.build.cache_bytes,
                    scratch: builder.scratch.clone(),
                    measured: std::sync::Mutex::default(),
                })
                .with(TidyContexts {
                    contexts: builder.contexts.clone(),
                    keep: config.build.keep_contexts,
                }),
            None => reconcilers,
        };
        let reconcilers = reconcilers.start(stopping.clone());
        let beside = tokio::spawn(async move {
            // The first of them that ends by itself, which a defect may do, is known to the caller.
            tokio::select! {
                _ = reconcilers => {}
                _ = courier => {}
            }
        });
        Ok((workers, beside))
    }
}

/// What builds, or why nothing does.
async fn builder(
    config: &Config,
    stores: &Stores,
    puller: &Arc<Puller>,
    workspaces: &Workspaces,
    scratch: &Path,
) -> Result<Builder, String> {
    if config.builds == Some(0) {
        return Err("the settings leave builds to other processes".to_owned());
    }
    let BuildSettings { isolation, network, resources, style, .. } = config.build;
    let exceptions = config.build.network_exceptions.clone();
    let probing = async {
        let probe = tempfile::tempdir_in(scratch)
            .map_err(io_error("can't make a directory for the probe"))?;
        let launcher = Launcher::of_this_program()?;
        let backend = Buildah::probe(launcher, isolation, resources, probe.path()).await?;
        let backend = backend.with_exceptions(exceptions);
        let network = backend.network(network, probe.path()).await?;
        Ok::<_, BuildError>((backend, network))
    };
    let (backend, (network, network_obstacle)) =
        probing.await.map_err(|error| error.to_string())?;
    Ok(Builder {
        backend: Arc::new(backend),
        puller: puller.clone(),
        storages: Storages { root: config.data_dir.join("builds") },
        contexts: Contexts { store: stores.objects.clone(), most: config.build.context_bytes },
        buckets: Arc::new(workspaces.clone()),
        git: Git {
            egress: config.oci.egress,
            limits: SourceLimits::default(),
            scratch: scratch.to_owned(),
        },
        network,
        network_obstacle,
        context_limits: ContextLimits::default(),
        style,
        scratch: scratch.to_owned(),
    })
}

/// Layer indexes in the data directory and the store, as far as they are wanted there.
fn layer_cache(
    config: &Config,
    store: &Arc<dyn ObjectStore>,
    queue: &Queue,
) -> Option<Arc<LayerCache>> {
    if config.layer_cache_bytes == 0 && !config.layer_cache_in_store {
        return None;
    }
    let mut cache = LayerCache::default();
    if config.layer_cache_bytes > 0 {
        let directory = config.data_dir.join("layer-index");
        cache = cache.with_local(directory, config.layer_cache_bytes);
    }
    if config.layer_cache_in_store {
        // What others found out can be had there alone, so that waiting for them makes sense.
        let claims = Arc::new(queue.layer_claims(config.lease));
        cache = cache.with_store(store.clone()).with_claims(claims);
    }
    Some(Arc::new(cache))
}

fn hostname() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "localhost".into())
}
