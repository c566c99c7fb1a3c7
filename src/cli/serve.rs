//! `clipwright serve`: API, queue and workers in one process.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

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
use crate::memory::MemoryBudget;
use crate::publish::archives::Stores;
use crate::rollouts::{Rollouts, Versions};
use crate::store::{InterceptedStore, ObjectStore};
use crate::telemetry::{self, store::StoreMetrics};
use crate::workspaces::Workspaces;

/// How its parts end.
mod parts;
/// A directory for what is not finished.
mod scratch;

use parts::end_together;
use scratch::Scratch;

/// What still runs on blocking threads at the end, such as a read from a file system that hangs, is left.
const LEAVE_BEHIND: Duration = Duration::from_secs(1);

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
        let outcome = runtime.block_on(serve(config));
        runtime.shutdown_timeout(LEAVE_BEHIND);
        outcome
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
    let outcome = async {
        let scratch = Scratch::make(&config.data_dir)?;
        run(&config, listener, address, &scratch, &database, &stopping, &shutdown).await
    };
    let outcome = outcome.await;
    // Whatever came of it, a private server is not left running.
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
    info!(%address, store = stores.archives.describe(), workers = config.workers, "ready");
    let mut out = std::io::stdout();
    writeln!(out, "clipwright is ready at http://{address} (docs: http://{address}/docs)")?;
    out.flush()?;

    // From here on nothing returns before they have ended.
    let workers = WorkerPool::start(
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
    let reconcilers = reconcilers.start(stopping.clone());
    let clients = queue.over(database.pool().clone());
    let workspaces = Workspaces::new(database.pool().clone());
    let rollouts = Rollouts::new(database.pool().clone());
    let state =
        AppState::new(clients, stores.archives, workspaces, rollouts, config.token.as_ref());
    let state = state.with_stopping(stopping.clone());
    let serving = Box::pin(api::serve(listener, state, shutdown.clone()));
    end_together(serving, workers, reconcilers, stopping, shutdown).await
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
