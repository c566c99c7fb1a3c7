//! `clipwright serve`: API, queue and workers in one process.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;
use uuid::Uuid;

use crate::api::{self, AppState};
use crate::archive::{IndexOptions, LayerCache, PackOptions};
use crate::config::{Config, SettingsArgs};
use crate::database::{Database, DatabaseError, Migrations};
use crate::fetch::Budget;
use crate::jobs::handlers::Handlers;
use crate::jobs::migrate::Migrator;
use crate::jobs::pull::Puller;
use crate::jobs::queue::{Queue, Vault};
use crate::jobs::reconcile::Reconcilers;
use crate::jobs::worker::{Liveness, WorkerPool, WorkerSettings};
use crate::store::ArchiveStore;
use crate::{store, telemetry};

/// Run the service: API, queue and workers.
///
/// With no settings at all everything is kept under one data directory: a private PostgreSQL, a
/// directory store, and workers in the same process.
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    settings: SettingsArgs,
}

impl Serve {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let config = Config::load(&self.settings)?;
        telemetry::init(&config.log);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(serve(config))
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    stop_on_signals(shutdown.clone())?;
    // The port first: a second service on it should fail before it touches anything.
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("can't listen on {}", config.listen))?;
    let address = listener.local_addr()?;
    let database = match Database::start(&config.database, Migrations::Apply, &shutdown).await {
        Err(DatabaseError::Cancelled) => return Ok(()),
        started => started?,
    };
    let scratch = scratch(&config.data_dir)?;
    let outcome = run(&config, listener, address, scratch, &database, &shutdown).await;
    shutdown.cancel();
    database.stop().await;
    outcome
}

async fn run(
    config: &Config,
    listener: TcpListener,
    address: std::net::SocketAddr,
    scratch: std::path::PathBuf,
    database: &Database,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let store = store::open(&config.store).await?;
    let keys = config.secret_key.load()?;
    let queue = Queue::new(database.work_pool().clone(), Vault::new(keys))
        .with_max_attempts(config.max_attempts)
        .with_retry_for(config.retry_for);
    let index = IndexOptions {
        reference_form: config.reference_form,
        limits: config.limits,
        span: Some(config.span),
        budget: Arc::new(config.layer_concurrency.map_or_else(Budget::default, Budget::new)),
        cache: layer_cache(config, &store, &queue),
        ..IndexOptions::default()
    };
    let migrator = Arc::new(Migrator {
        store: store.clone(),
        oci: config.oci.clone(),
        pack: PackOptions { limits: config.limits, budget: index.budget.clone() },
        index: index.clone(),
        build_registry: config.build_registry.clone(),
        scratch: scratch.clone(),
    });
    let puller = Arc::new(Puller {
        store: store.clone(),
        oci: config.oci.clone(),
        index,
        clip_version: config.clip_version,
        fallback: config.fallback,
        build_registry: config.build_registry.clone(),
        scratch,
    });
    let workers = WorkerPool::start(
        queue.clone(),
        Arc::new(Handlers { puller, migrator }),
        WorkerSettings {
            workers: config.workers,
            slots: BTreeMap::default(),
            lease: config.lease,
            poll: config.poll_interval,
            liveness: Liveness::default(),
            worker_id: format!("{}:{}", hostname(), Uuid::now_v7().simple()),
        },
        shutdown.clone(),
    );
    let reconcilers = Reconcilers::new(&queue, &store, config.lease, config.retention);
    let reconcilers = reconcilers.start(shutdown.clone());
    info!(%address, store = store.describe(), workers = config.workers, "ready");
    let mut out = std::io::stdout();
    writeln!(out, "clipwright is ready at http://{address} (docs: http://{address}/docs)")?;
    out.flush()?;

    let clients = queue.over(database.pool().clone());
    let state = AppState::new(clients, store, config.token.as_ref());
    let served = api::serve(listener, state, shutdown.clone()).await;
    shutdown.cancel();
    workers.await.context("the workers stopped")?;
    reconcilers.await.context("the reconcilers stopped")?;
    served.context("the API stopped")
}

/// Layer indexes in the data directory and the store, as far as they are wanted there.
fn layer_cache(
    config: &Config,
    store: &Arc<dyn ArchiveStore>,
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

/// A directory of this process's own for what is not finished. What processes that were killed left
/// there goes: their ids are no longer running.
fn scratch(data_dir: &std::path::Path) -> anyhow::Result<std::path::PathBuf> {
    let all = data_dir.join("tmp");
    let own = all.join(std::process::id().to_string());
    let failed = || format!("can't make {}", own.display());
    std::fs::create_dir_all(&all).with_context(failed)?;
    for entry in std::fs::read_dir(&all).with_context(failed)?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let alive = pid.is_some_and(|pid| {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None)
                != Err(nix::errno::Errno::ESRCH)
        });
        if !alive || pid.is_some_and(|pid| pid.cast_unsigned() == std::process::id()) {
            std::fs::remove_dir_all(entry.path()).with_context(failed)?;
        }
    }
    std::fs::create_dir_all(&own).with_context(failed)?;
    Ok(own)
}

/// SIGINT and SIGTERM end the service in good order.
fn stop_on_signals(shutdown: CancellationToken) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        info!("stopping");
        shutdown.cancel();
    });
    Ok(())
}

fn hostname() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "localhost".into())
}
