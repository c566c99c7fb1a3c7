//! `clipwright serve`: API, queue and workers in one process.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
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
use crate::memory::MemoryBudget;
use crate::publish::archives::Stores;
use crate::rollouts::{Rollouts, Versions};
use crate::store::{InterceptedStore, ObjectStore};
use crate::telemetry::{self, store::StoreMetrics};
use crate::workspaces::Workspaces;

/// A directory for what is not finished.
mod scratch;

use scratch::Scratch;

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
    let (stopping, shutdown) = (CancellationToken::new(), CancellationToken::new());
    stop_on_signals(stopping.clone(), shutdown.clone(), config.shutdown_delay)?;
    // The port first: a second service on it should fail before it touches anything.
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("can't listen on {}", config.listen))?;
    let address = listener.local_addr()?;
    let database = match Database::start(&config.database, Migrations::Apply, &stopping).await {
        Err(DatabaseError::Cancelled) => return Ok(()),
        started => started?,
    };
    let scratch = Scratch::make(&config.data_dir)?;
    let outcome = run(&config, listener, address, &scratch, &database, &stopping, &shutdown).await;
    shutdown.cancel();
    database.stop().await;
    outcome
}

async fn run(
    config: &Config,
    listener: TcpListener,
    address: std::net::SocketAddr,
    scratch: &Scratch,
    database: &Database,
    stopping: &CancellationToken,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let measured = |objects| Arc::new(InterceptedStore::new(objects, Arc::new(StoreMetrics))) as _;
    let stores = Stores::open(&config.store, measured).await?;
    let keys = config.secret_key.load()?;
    let queue = Queue::new(database.work_pool().clone(), Vault::new(keys))
        .with_max_attempts(config.max_attempts)
        .with_retry_for(config.retry_for);
    let index = IndexOptions {
        reference_form: config.reference_form,
        limits: config.limits,
        span: Some(config.span),
        budget: Arc::new(config.layer_concurrency.map_or_else(Budget::default, Budget::new)),
        cache: layer_cache(config, &stores.objects, &queue),
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
        scratch: scratch.path().to_owned(),
    });
    let puller = Arc::new(Puller {
        archives: stores.archives.clone(),
        oci: config.oci.clone(),
        index,
        versions: Arc::new(Versions {
            workspaces: Workspaces::new(database.work_pool().clone()),
            rollouts: Rollouts::new(database.work_pool().clone()),
            configured: config.clip_version,
        }),
        fallback: config.fallback,
        build_registry: config.build_registry.clone(),
        scratch: scratch.path().to_owned(),
    });
    tokio::spawn(telemetry::metrics::keep_up());
    let mut workers = WorkerPool::start(
        queue.clone(),
        Arc::new(Handlers {
            puller,
            migrator,
            memory: MemoryBudget::new(config.limits.memory_bytes),
        }),
        WorkerSettings {
            workers: config.workers,
            slots: BTreeMap::default(),
            lease: config.lease,
            poll: config.poll_interval,
            liveness: Liveness::default(),
            worker_id: format!("{}:{}", hostname(), Uuid::now_v7().simple()),
        },
        stopping.clone(),
    );
    let reconcilers = Reconcilers::new(&queue, &stores, config.lease, config.retention);
    let mut reconcilers = reconcilers.start(stopping.clone());
    info!(%address, store = stores.archives.describe(), workers = config.workers, "ready");
    let mut out = std::io::stdout();
    writeln!(out, "clipwright is ready at http://{address} (docs: http://{address}/docs)")?;
    out.flush()?;

    let clients = queue.over(database.pool().clone());
    let workspaces = Workspaces::new(database.pool().clone());
    let rollouts = Rollouts::new(database.pool().clone());
    let state =
        AppState::new(clients, stores.archives, workspaces, rollouts, config.token.as_ref());
    let state = state.with_stopping(stopping.clone());
    let mut serving = Box::pin(api::serve(listener, state, shutdown.clone()));
    let served = tokio::select! {
        served = &mut serving => served,
        // Without them nothing would be done, however well it is answered.
        () = ended(&mut workers, stopping) => anyhow::bail!("the workers stopped by themselves"),
        () = ended(&mut reconcilers, stopping) => anyhow::bail!("the reconcilers stopped by themselves"),
    };
    stopping.cancel();
    shutdown.cancel();
    workers.await.context("the workers stopped")?;
    reconcilers.await.context("the reconcilers stopped")?;
    served.context("the API stopped")
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

/// Resolves when a task ends that should go on until `stopping`.
async fn ended(task: &mut JoinHandle<()>, stopping: &CancellationToken) {
    let _ = task.await;
    if stopping.is_cancelled() {
        std::future::pending::<()>().await;
    }
}

/// SIGINT and SIGTERM end the service in good order: no more jobs are taken and `/readyz` says no at
/// once; whoever sends clients here has `delay` to notice before the port is closed. A second signal ends
/// the wait.
fn stop_on_signals(
    stopping: CancellationToken,
    shutdown: CancellationToken,
    delay: Duration,
) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        info!(?delay, "stopping");
        stopping.cancel();
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
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
