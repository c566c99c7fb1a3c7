//! What is done on this machine: files and threads, and how they fail.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::error::{Classify, Fault};

/// Something local could not be read, written or run.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct IoError {
    /// What was being done.
    pub what: String,
    /// What the system said.
    pub source: std::io::Error,
}

impl Classify for IoError {
    fn is_transient(&self) -> bool {
        true
    }

    fn fault(&self) -> Fault {
        Fault::Ours
    }

    fn code(&self) -> &'static str {
        "io"
    }
}

/// For `map_err`: says what was being done.
pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> IoError {
    let what = what.into();
    |source| IoError { what, source }
}

/// Runs work that takes a while off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, IoError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|died| io_error("a helper thread died")(std::io::Error::other(died)))
}

/// Runs two pieces of work at once; a panic of either is one here.
pub(crate) fn both<A: Send, B>(
    first: impl FnOnce() -> A + Send,
    second: impl FnOnce() -> B,
) -> (A, B) {
    std::thread::scope(|scope| {
        let first = scope.spawn(first);
        let second = second();
        (first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), second)
    })
}

/// Drops what takes a while to drop off the async threads; nobody waits for it.
pub(crate) fn drop_aside(value: impl Send + 'static) {
    drop(tokio::task::spawn_blocking(move || drop(value)));
}

/// How long this thread has been worked on by a processor.
pub(crate) fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}
