//! The one retry policy: capped exponential backoff with jitter, under a cancellation token, bounded
//! by a number of attempts or by time.
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

impl RetrySettings {
    /// Without a last attempt: for what must succeed, or is bounded by time.
    pub const fn endless(base_delay: Duration, max_delay: Duration) -> Self {
        Self { attempts: u32::MAX, base_delay, max_delay }
    }

    /// How long to wait after so many failures in a row.
    pub fn delay(&self, failures: u32) -> Duration {
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
        let full = self.base_delay.saturating_mul(doubled).min(self.max_delay);
        // Half fixed, half random, so that clients that failed together don't return together.
        full.mul_f64(0.5 + 0.5 * rand::random::<f64>())
    }
}

/// An error that [`retry`] can judge.
pub trait Retryable: Classify {
    /// What to return when the token is cancelled.
    fn cancelled() -> Self;
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
        // To be asked for no wait at all, or one that is over, is no reason to hurry.
        let delay = self.settings.delay(self.failures);
        let asked = asked.unwrap_or_default();
        (asked <= self.settings.max_delay).then(|| asked.max(delay))
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

/// As [`retry`], for at most `patience`. The error is then that of the last attempt that came to an
/// end, or `silence` if none did.
pub async fn retry_within<T, E, F, Fut>(
    patience: Duration,
    settings: &RetrySettings,
    cancel: &CancellationToken,
    silence: impl FnOnce() -> E,
    mut operation: F,
) -> Result<T, E>
where
    E: Retryable,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let mut last = None;
    let attempts = async {
        let mut backoff = Backoff::new(settings.clone());
        loop {
            let error = match operation().await {
                Err(error) if error.is_transient() => error,
                done => return done,
            };
            let Some(delay) = backoff.next_delay(error.retry_after()) else { return Err(error) };
            last = Some(error);
            tokio::time::sleep(delay).await;
        }
    };
    match cancel.run_until_cancelled(tokio::time::timeout(patience, attempts)).await {
        None => Err(E::cancelled()),
        Some(Ok(done)) => done,
        Some(Err(_)) => Err(last.unwrap_or_else(silence)),
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
        fn retry_after(&self) -> Option<Duration> {
            match self {
                Self::Busy(after) => *after,
                _ => None,
            }
        }

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
    }

    fn fast() -> RetrySettings {
        RetrySettings {
            attempts: 4,
            base_delay: Duration::from_micros(10),
            max_delay: Duration::from_millis(1),
        }
    }

    /// What one call brings; errors are made anew each time.
    type Attempt = Result<u8, fn() -> Failure>;

    async fn run(results: &[Attempt]) -> (Result<u8, Failure>, usize) {
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
        let busy: Attempt = Err(|| Failure::Busy(None));
        assert_eq!(run(&[busy, busy, Ok(7)]).await, (Ok(7), 3));
    }

    #[tokio::test]
    async fn attempts_are_counted_and_the_last_error_returned() {
        let busy: Attempt = Err(|| Failure::Busy(None));
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

    async fn within(patience: Duration, results: &[Attempt]) -> (Result<u8, Failure>, usize) {
        let calls = Cell::new(0);
        let endless = RetrySettings::endless(Duration::from_micros(10), Duration::from_millis(1));
        let never = CancellationToken::new();
        let silence = || Failure::Broken;
        let result = retry_within(patience, &endless, &never, silence, || {
            let call = calls.replace(calls.get() + 1);
            async move {
                match results.get(call) {
                    Some(result) => result.map_err(|failure| failure()),
                    None => std::future::pending().await,
                }
            }
        })
        .await;
        (result, calls.get())
    }

    #[tokio::test(start_paused = true)]
    async fn patience_bounds_what_attempts_do_not() {
        let (long, short) = (Duration::from_hours(1), Duration::from_millis(20));
        let busy: Attempt = Err(|| Failure::Busy(None));
        assert_eq!(within(long, &[busy, busy, busy, Ok(7)]).await, (Ok(7), 4));
        assert_eq!(within(long, &[busy, Err(|| Failure::Broken)]).await, (Err(Failure::Broken), 2));
        // The last attempt that ended says why; if none did, there is nothing but silence.
        assert_eq!(within(short, &[busy, busy]).await, (Err(Failure::Busy(None)), 3));
        assert_eq!(within(short, &[]).await, (Err(Failure::Broken), 1));
        let (cancel, fast) = (CancellationToken::new(), fast());
        cancel.cancel();
        let pending = std::future::pending::<Result<(), Failure>>;
        let stuck = retry_within(long, &fast, &cancel, || Failure::Broken, pending);
        assert_eq!(stuck.await, Err(Failure::Cancelled));
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
        // What is asked for counts unless it is shorter, or too long.
        for (asked, shortest) in [(0, 50), (10, 50), (349, 349)] {
            backoff.reset();
            let delay = backoff.next_delay(Some(Duration::from_millis(asked))).unwrap();
            let (least, most) = (Duration::from_millis(shortest), Duration::from_millis(350));
            assert!((least..=most).contains(&delay), "{delay:?} for {asked} ms");
        }
        backoff.reset();
        assert_eq!(backoff.next_delay(Some(Duration::from_millis(351))), None);
        let endless = RetrySettings::endless(Duration::from_secs(2), Duration::from_mins(5));
        for (failures, full) in [(0, 2), (1, 2), (2, 4), (8, 256), (9, 300), (u32::MAX, 300)] {
            let (delay, full) = (endless.delay(failures), Duration::from_secs(full));
            assert!((full / 2..=full).contains(&delay), "{failures}");
        }
    }
}
