//! The one retry helper: capped exponential backoff with jitter, under a cancellation token.
//!
//! It knows nothing of what is retried: errors say through [`crate::error::Classify`] whether
//! trying again can help, and through [`crate::retry::Retryable`] how long the other side asked to
//! be left alone.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::Classify;

/// How often and how fast to try again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySettings {
    /// Attempts in all, the first included; 0 counts as 1.
    pub attempts: u32,
    /// Wait before the second attempt; doubles with each further one.
    pub base_delay: Duration,
    /// No wait is longer. When the other side asks for a longer one we give up at once: a job has
    /// better things to do than to hold a worker that long.
    pub max_delay: Duration,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            attempts: 6,
            base_delay: Duration::from_millis(250),
            max_delay: Duration::from_mins(1),
        }
    }
}

/// An error that [`retry`] can judge.
pub trait Retryable: Classify {
    /// What to return when the token is cancelled.
    fn cancelled() -> Self;

    /// How long the other side asked to be left alone (`Retry-After`, RFC 9110 section 10.2.3).
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}

/// Counts attempts and says how long to wait before the next one.
#[derive(Debug, Clone)]
pub struct Backoff {
    settings: RetrySettings,
    failures: u32,
}

impl Backoff {
    /// A fresh count.
    pub fn new(settings: RetrySettings) -> Self {
        Self { settings, failures: 0 }
    }

    /// Forgets past failures, because real progress was made since.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after one more failure; `None` when it was the last attempt.
    pub fn next_delay(&mut self, asked: Option<Duration>) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.settings.attempts {
            return None;
        }
        if let Some(asked) = asked {
            return (asked <= self.settings.max_delay).then_some(asked);
        }
        let doubled = 2u32.saturating_pow(self.failures - 1);
        let full = self.settings.base_delay.saturating_mul(doubled).min(self.settings.max_delay);
        // Half fixed, half random, so that clients that failed together don't return together.
        Some(full.mul_f64(0.5 + 0.5 * rand::random::<f64>()))
    }

    /// Waits after `error` if another attempt is due and can help; otherwise returns the error.
    pub async fn wait_after<E: Retryable>(
        &mut self,
        error: E,
        cancel: &CancellationToken,
    ) -> Result<(), E> {
        if !error.is_transient() {
            return Err(error);
        }
        let Some(delay) = self.next_delay(error.retry_after()) else {
            return Err(error);
        };
        tracing::debug!(%error, ?delay, failures = self.failures, "trying again");
        match cancel.run_until_cancelled(tokio::time::sleep(delay)).await {
            Some(()) => Ok(()),
            None => Err(E::cancelled()),
        }
    }
}

/// Runs `operation` until it succeeds, fails for good, runs out of attempts or is cancelled.
///
/// The operation itself is dropped at the moment of cancellation. The error is that of the last
/// attempt.
pub async fn retry<T, E, F, Fut>(
    settings: &RetrySettings,
    cancel: &CancellationToken,
    mut operation: F,
) -> Result<T, E>
where
    E: Retryable,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let mut backoff = Backoff::new(settings.clone());
    loop {
        match cancel.run_until_cancelled(operation()).await {
            None => return Err(E::cancelled()),
            Some(Ok(value)) => return Ok(value),
            Some(Err(error)) => backoff.wait_after(error, cancel).await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::error::Fault;

    #[derive(Debug, PartialEq, thiserror::Error)]
    enum Failure {
        #[error("busy")]
        Busy(Option<Duration>),
        #[error("broken")]
        Broken,
        #[error("cancelled")]
        Cancelled,
    }

    impl Classify for Failure {
        fn is_transient(&self) -> bool {
            matches!(self, Self::Busy(_))
        }
        fn fault(&self) -> Fault {
            Fault::Upstream
        }
        fn code(&self) -> &'static str {
            "failure"
        }
    }

    impl Retryable for Failure {
        fn cancelled() -> Self {
            Self::Cancelled
        }
        fn retry_after(&self) -> Option<Duration> {
            match self {
                Self::Busy(after) => *after,
                _ => None,
            }
        }
    }

    fn fast() -> RetrySettings {
        RetrySettings {
            attempts: 4,
            base_delay: Duration::from_micros(10),
            max_delay: Duration::from_millis(1),
        }
    }

    /// What one call brings; errors are made anew each time.
    type Outcome = Result<u8, fn() -> Failure>;

    async fn run(results: &[Outcome]) -> (Result<u8, Failure>, usize) {
        let calls = Cell::new(0);
        let result = retry(&fast(), &CancellationToken::new(), || {
            let call = calls.replace(calls.get() + 1);
            async move { results[call].map_err(|failure| failure()) }
        })
        .await;
        (result, calls.get())
    }

    #[tokio::test]
    async fn transient_errors_are_retried_until_success() {
        let busy: Outcome = Err(|| Failure::Busy(None));
        assert_eq!(run(&[busy, busy, Ok(7)]).await, (Ok(7), 3));
    }

    #[tokio::test]
    async fn attempts_are_counted_and_the_last_error_returned() {
        let busy: Outcome = Err(|| Failure::Busy(None));
        assert_eq!(run(&[busy; 5]).await, (Err(Failure::Busy(None)), 4));
    }

    #[tokio::test]
    async fn other_errors_are_final() {
        assert_eq!(run(&[Err(|| Failure::Broken), Ok(1)]).await, (Err(Failure::Broken), 1));
    }

    #[tokio::test]
    async fn too_long_a_wait_is_not_waited_for() {
        let (result, calls) =
            run(&[Err(|| Failure::Busy(Some(Duration::from_hours(1)))), Ok(1)]).await;
        assert!(result.is_err());
        assert_eq!(calls, 1);
    }

    #[tokio::test]
    async fn cancellation_ends_an_operation_that_never_would() {
        let cancel = CancellationToken::new();
        let stuck = retry(&fast(), &cancel, || async {
            cancel.cancel();
            std::future::pending::<Result<(), Failure>>().await
        })
        .await;
        assert_eq!(stuck, Err(Failure::Cancelled));
    }

    #[test]
    fn delays_double_within_the_cap() {
        let mut backoff = Backoff::new(RetrySettings {
            attempts: 5,
            base_delay: Duration::from_millis(100),
            max_delay: Duration::from_millis(350),
        });
        for full in [100, 200, 350, 350] {
            let delay = backoff.next_delay(None).unwrap();
            let full = Duration::from_millis(full);
            assert!(delay >= full / 2 && delay <= full, "{delay:?} of {full:?}");
        }
        assert_eq!(backoff.next_delay(None), None);
    }
}
