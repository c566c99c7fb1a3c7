//! Connections: accepting them, bounding them, and ending them in good order.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::AppState;
use super::router::router;

/// Open connections; more wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 2048;
/// Open files that the process asks for: connections, and all that is done for them. Mostly a process begins
/// with 1024, and may have more.
const FILES: rlim_t = 65_536;
/// How long a client may take to send its request head; also ends idle connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take nothing of an answer, or be silent altogether, until its connection is
/// closed: answers and streams would be held for it.
const SILENCE: Duration = Duration::from_secs(30);
/// How long requests may go on after `shutdown`.
const DRAIN: Duration = Duration::from_secs(10);
/// Pause after a failed accept: out of file descriptors does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown`: then accepts no more, ends event streams, lets other requests finish
/// for 10 seconds, and closes what is left.
pub async fn serve(
    listener: TcpListener,
    mut state: AppState,
    shutdown: CancellationToken,
) -> io::Result<()> {
    tracing::info!(address = %listener.local_addr()?, "listening");
    allow_files();
    state.shutdown = shutdown.clone();
    let service = TowerToHyperService::new(router(state));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();

    let accept = async {
        loop {
            while connections.try_join_next().is_some() {}
            let slot = slots.clone().acquire_owned().await;
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Events are small and wanted at once. A socket that refuses is broken anyway.
            let _ = stream.set_nodelay(true);
            let silence = u32::try_from(SILENCE.as_millis()).unwrap_or(u32::MAX);
            let _ = setsockopt(&stream, sockopt::TcpUserTimeout, &silence);
            let connection = http.serve_connection(TokioIo::new(stream), service.clone());
            let connection = graceful.watch(connection);
            connections.spawn(async move {
                let _slot = slot;
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection ended");
                }
            });
        }
    };
    shutdown.run_until_cancelled(accept).await.unwrap_or(());

    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!(connections = connections.len(), "closing connections that did not finish");
    }
    connections.shutdown().await;
    Ok(())
}

/// Raises the number of files that may be open, as far as the process may.
fn allow_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let wanted = hard.min(FILES);
        if soft < wanted { setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) } else { Ok(()) }
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the number of open files could not be raised");
    }
}
