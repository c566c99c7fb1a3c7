//! How long a call to the database may take, and when it is made again. Dropping the call is what
//! cancels it.

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::QueueError;
use crate::retry::{RetrySettings, retry, retry_within};

/// A call that finds no database in this time gives up: a restart passes unnoticed, an outage shows.
const PATIENCE: Duration = Duration::from_secs(5);
const TRY_AGAIN: RetrySettings =
    RetrySettings::endless(Duration::from_millis(50), Duration::from_secs(1));

/// Makes the call until it succeeds, fails for good, or [`PATIENCE`] ends.
pub(crate) async fn patiently<T, Call, Attempt>(
    action: &'static str,
    call: Call,
) -> Result<T, QueueError>
where
    Call: Fn() -> Attempt,
    Attempt: Future<Output = Result<T, QueueError>>,
{
    patiently_for(PATIENCE, action, call).await
}

async fn patiently_for<T, Call, Attempt>(
    patience: Duration,
    action: &'static str,
    call: Call,
) -> Result<T, QueueError>
where
    Call: Fn() -> Attempt,
    Attempt: Future<Output = Result<T, QueueError>>,
{
    let silence = || silent(action, patience);
    let never = CancellationToken::new();
    retry_within(patience, &TRY_AGAIN, &never, silence, || Box::pin(away(call()))).await?
}

/// Makes the call until the database answers, however long that takes: while it is away nobody else
/// can take the job either, and when it is back it says whether somebody did.
pub(in crate::jobs) async fn insist<T, Call, Attempt>(call: Call) -> Result<T, QueueError>
where
    Call: Fn() -> Attempt,
    Attempt: Future<Output = Result<T, QueueError>>,
{
    retry(&TRY_AGAIN, &CancellationToken::new(), || Box::pin(away(call()))).await?
}

/// The outer error alone is worth another attempt: the database is away.
async fn away<T>(
    attempt: impl Future<Output = Result<T, QueueError>>,
) -> Result<Result<T, QueueError>, QueueError> {
    match attempt.await {
        Err(error @ QueueError::Unavailable { .. }) => Err(error),
        done => Ok(done),
    }
}

/// Makes the call once, for at most `limit`.
pub(super) async fn once<T>(
    action: &'static str,
    limit: Duration,
    call: impl Future<Output = Result<T, QueueError>>,
) -> Result<T, QueueError> {
    timeout(limit, call).await.unwrap_or_else(|_| Err(silent(action, limit)))
}

fn silent(action: &'static str, limit: Duration) -> QueueError {
    QueueError::Unavailable { action, reason: format!("no answer within {limit:?}") }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn outage() -> QueueError {
        QueueError::Unavailable { action: "test", reason: "away".to_owned() }
    }

    #[tokio::test]
    async fn a_short_outage_passes_unnoticed() {
        let calls = AtomicU32::new(0);
        let done = patiently("test", async || match calls.fetch_add(1, Ordering::SeqCst) {
            0..3 => Err(outage()),
            call => Ok(call),
        });
        assert_eq!(done.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_long_outage_shows_as_what_it_was() {
        let short = Duration::from_millis(20);
        let refused = patiently_for(short, "test", async || Err::<(), _>(outage())).await;
        assert_eq!(refused.unwrap_err().to_string(), "the database could not test: away");
        let silent = patiently_for(short, "test", std::future::pending::<Result<(), _>>).await;
        let expected = "the database could not test: no answer within 20ms";
        assert_eq!(silent.unwrap_err().to_string(), expected);
    }

    #[tokio::test]
    async fn a_refusal_is_final() {
        let calls = AtomicU32::new(0);
        let done = patiently("test", async || {
            calls.fetch_add(1, Ordering::SeqCst);
            Err::<(), _>(QueueError::NoSecretKey)
        });
        assert!(matches!(done.await, Err(QueueError::NoSecretKey)));
        assert_eq!(calls.into_inner(), 1);
    }
}
