//! How long a call to the database may take, and when it is made again.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::QueueError;

/// A call that finds no database in this time gives up: a restart passes unnoticed, an outage shows.
const PATIENCE: Duration = Duration::from_secs(5);

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Makes the call until it succeeds, fails for good, or [`PATIENCE`] ends.
pub(super) async fn patiently<T, Call, Attempt>(
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
    let mut last = None;
    let attempts = async {
        let mut pause = FIRST_PAUSE;
        loop {
            match call().await {
                Err(error @ QueueError::Unavailable { .. }) => last = Some(error),
                done => return done,
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    };
    match timeout(patience, attempts).await {
        Ok(done) => done,
        Err(_) => Err(last.unwrap_or_else(|| silent(action, patience))),
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

    fn away() -> QueueError {
        QueueError::Unavailable { action: "test", reason: "away".to_owned() }
    }

    #[tokio::test]
    async fn a_short_outage_passes_unnoticed() {
        let calls = AtomicU32::new(0);
        let done = patiently("test", async || match calls.fetch_add(1, Ordering::SeqCst) {
            0..3 => Err(away()),
            call => Ok(call),
        });
        assert_eq!(done.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_long_outage_shows_as_what_it_was() {
        let short = Duration::from_millis(20);
        let refused = patiently_for(short, "test", async || Err::<(), _>(away())).await;
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
