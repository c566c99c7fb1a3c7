//! The parts of a service, and how they end together. None should end by itself before the service is
//! told to stop; if one does, the others are stopped as a signal would stop them, so that the jobs that
//! run are given back.

use std::io;

use anyhow::Context as _;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;

/// Resolves when all of them have ended. `stopping` ends the workers and the reconcilers, `shutdown` the
/// API.
pub(super) async fn end_together(
    serving: impl Future<Output = io::Result<()>>,
    workers: JoinHandle<()>,
    reconcilers: JoinHandle<()>,
    stopping: &CancellationToken,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let stop_all = || {
        stopping.cancel();
        shutdown.cancel();
    };
    let ended = |part: &'static str, ended: Result<(), JoinError>| {
        let by_itself = !stopping.is_cancelled();
        if by_itself {
            // Without them nothing would be done, however well requests are answered.
            tracing::error!(part, "ended by themselves: the service stops");
            stop_all();
        }
        ended.with_context(|| format!("the {part} failed"))?;
        anyhow::ensure!(!by_itself, "the {part} ended by themselves");
        Ok(())
    };
    let serving = async {
        let served = serving.await;
        stop_all();
        served.context("the API failed")
    };
    let workers = async { ended("workers", workers.await) };
    let reconcilers = async { ended("reconcilers", reconcilers.await) };
    let (served, worked, reconciled) = tokio::join!(serving, workers, reconcilers);
    served.and(worked).and(reconciled)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A part that does what it has to do when it is told to stop.
    async fn part(stop: CancellationToken, orderly: Arc<AtomicU32>) {
        stop.cancelled().await;
        tokio::task::yield_now().await;
        orderly.fetch_add(1, Ordering::SeqCst);
    }

    #[tokio::test]
    async fn all_come_to_their_end_whichever_ends_first() {
        let broken = || tokio::spawn(async { panic!("as told") });
        let gone = || tokio::spawn(async {});
        for (case, expected) in [
            (0, None),
            (1, Some("the workers failed")),
            (2, Some("the reconcilers ended by themselves")),
            (3, Some("the API failed")),
        ] {
            let (stopping, shutdown) = (CancellationToken::new(), CancellationToken::new());
            let orderly = Arc::new(AtomicU32::new(0));
            let (told, counted) = (stopping.clone(), orderly.clone());
            let other = move || tokio::spawn(part(told.clone(), counted.clone()));
            let serving = async {
                if case == 3 {
                    return Err(io::Error::other("as told"));
                }
                part(shutdown.clone(), orderly.clone()).await;
                Ok(())
            };
            let workers = if case == 1 { broken() } else { other() };
            let reconcilers = if case == 2 { gone() } else { other() };
            if case == 0 {
                // The workers end long before the API does.
                let (stopping, shutdown) = (stopping.clone(), shutdown.clone());
                tokio::spawn(async move {
                    stopping.cancel();
                    for _ in 0..9 {
                        tokio::task::yield_now().await;
                    }
                    shutdown.cancel();
                });
            }
            let end = end_together(serving, workers, reconcilers, &stopping, &shutdown).await;
            assert_eq!(end.err().map(|error| error.to_string()).as_deref(), expected);
            assert_eq!(orderly.load(Ordering::SeqCst), if case == 0 { 3 } else { 2 });
        }
    }
}
