//! `clipwright serve`: API, queue and workers in one process.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::api::{self, AppState};
use crate::config::{Config, Role, SettingsArgs};
use crate::database::{Database, DatabaseError, Migrations};
use crate::jobs::build::Contexts;
use crate::jobs::queue::{Queue, Vault};
use crate::publish::archives::Stores;
use crate::rollouts::Rollouts;
use crate::store::InterceptedStore;
use crate::telemetry::catalogue::Place;
use crate::telemetry::store::StoreMetrics;
use crate::telemetry::{self, Telemetry, metrics};
use crate::workspaces::Workspaces;

/// How its parts end.
mod parts;
/// A directory for what is not finished.
mod scratch;
/// What works on jobs.
mod workshop;

use parts::end_together;
use scratch::Scratch;
use workshop::Workshop;

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
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let telemetry = {
            let _on = runtime.enter();
            start_telemetry(&config)?
        };
        let outcome = runtime.block_on(serve(config));
        telemetry.shutdown(runtime.handle());
        runtime.shutdown_timeout(LEAVE_BEHIND);
        outcome
    }
}

fn start_telemetry(config: &Config) -> anyhow::Result<Telemetry> {
    metrics::start(Place::Service, config.metrics_by_workspace);
    Ok(match &config.otlp {
        Some(otlp) => telemetry::init_with_collector(&config.log, otlp)?,
        None => {
            telemetry::init(&config.log);
            Telemetry::default()
        }
    })
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
    let outcome = run(&config, listener, address, &database, &stopping, &shutdown).await;
    // Whatever came of it, a private server is not left running.
    database.stop().await;
    outcome
}

async fn run(
    config: &Config,
    listener: TcpListener,
    address: std::net::SocketAddr,
    database: &Database,
    stopping: &CancellationToken,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let measured = |objects| Arc::new(InterceptedStore::new(objects, Arc::new(StoreMetrics))) as _;
    let stores = Stores::open(&config.store, measured).await?;
    let keys = config.secret_key.load()?;
    let vault = Vault::new(keys);
    let queue = Queue::new(database.work_pool().clone(), vault.clone())
        .with_max_attempts(config.max_attempts)
        .with_retry_for(config.retry_for)
        .with_limits(config.max_running, config.max_queued);
    let scratch = Scratch::make(&config.data_dir)?;
    let workshop = match config.role {
        Role::Api => None,
        Role::All | Role::Worker => {
            let records = (database, &vault);
            Some(Workshop::open(config, &stores, &queue, records, scratch.path()).await?)
        }
    };
    let (store, workers) = (stores.archives.describe(), config.workers);
    info!(%address, store, workers, role = config.role.as_str(), "ready");
    let mut out = std::io::stdout();
    writeln!(
        out,
        "clipwright is ready at http://{address} (console: http://{address}/, docs: http://{address}/docs/)"
    )?;
    out.flush()?;

    // From here on nothing returns before they have ended.
    let (workers, reconcilers) = match &workshop {
        Some(workshop) => workshop.start(config, &stores, &queue, stopping)?,
        None => (idle(stopping), idle(stopping)),
    };
    let clients = queue.over(database.pool().clone());
    let workspaces = Workspaces::new(database.pool().clone()).with_vault(vault);
    let rollouts = Rollouts::new(database.pool().clone());
    let state =
        AppState::new(clients, stores.archives, workspaces, rollouts, config.token.as_ref());
    let state = state.with_stopping(stopping.clone()).with_oci(config.oci.clone());
    let contexts = Contexts { store: stores.objects.clone(), most: config.build.context_bytes };
    let no_builds = workshop.as_ref().and_then(Workshop::no_builds);
    let no_build_network = workshop.as_ref().and_then(Workshop::no_build_network);
    let uploads = scratch.path().to_owned();
    let state = state.with_contexts(contexts, uploads);
    let state = state.with_builds(no_builds, no_build_network);
    let state = state.with_rate_limit(config.requests_per_minute);
    let state = if config.role == Role::Worker { state.for_probes_alone() } else { state };
    let serving = Box::pin(api::serve(listener, state, shutdown.clone()));
    end_together(serving, workers, reconcilers, stopping, shutdown).await
}

/// A part that has nothing to do until it is told to stop.
fn idle(stopping: &CancellationToken) -> JoinHandle<()> {
    tokio::spawn(stopping.clone().cancelled_owned())
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
