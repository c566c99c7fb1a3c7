//! Whether an attempt gets on. A registry that trickles keeps a connection alive for ever: what counts
//! is what comes of it.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::pulse::{Brake, Stop};
use super::sink::EventSink;

/// When an attempt is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Liveness {
    /// So long may it go without an event, or without 1 MiB more; waiting for others is not counted.
    pub stall: Duration,
    /// So long may it take in all.
    pub limit: Duration,
}

impl Default for Liveness {
    fn default() -> Self {
        Self { stall: Duration::from_mins(10), limit: Duration::from_hours(6) }
    }
}

/// Pulls the brake when the attempt doesn't get on.
pub(super) async fn watch(liveness: Liveness, sink: EventSink, brake: Brake) {
    let limit = Instant::now() + liveness.limit;
    loop {
        let stall = sink.moved_at() + liveness.stall;
        if Instant::now() >= limit {
            return brake.pull(Stop::TimedOut);
        }
        if Instant::now() >= stall {
            return brake.pull(Stop::Stalled);
        }
        sleep_until(stall.min(limit)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::sink::FLOOR;
    use super::*;
    use crate::jobs::job::EventKind;

    fn progress(bytes_done: u64) -> EventKind {
        EventKind::Progress {
            layers_done: 0,
            layers_cached: 0,
            layers_total: 1,
            bytes_done,
            bytes_total: 1 << 40,
        }
    }

    /// Sends what `bytes` says each minute, and gives the minutes until it was stopped.
    async fn minutes(bytes: impl Fn(u64) -> u64) -> (u64, Option<Stop>) {
        let (sink, brake) = (EventSink::default(), Brake::default());
        let watching = tokio::spawn(watch(Liveness::default(), sink.clone(), brake.clone()));
        for minute in 0.. {
            tokio::task::yield_now().await;
            if brake.token.is_cancelled() {
                watching.await.unwrap();
                return (minute, brake.reason());
            }
            sink.send(progress(bytes(minute)));
            tokio::time::sleep(Duration::from_mins(1)).await;
        }
        unreachable!("minutes don't end")
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_no_progress_and_nothing_lasts_for_ever() {
        let (after, stop) = minutes(|_| 0).await;
        assert_eq!((after, stop), (10, Some(Stop::Stalled)), "nothing at all");
        let (after, stop) = minutes(|minute| minute * (FLOOR / 11)).await;
        assert_eq!((after, stop), (10, Some(Stop::Stalled)), "less than the floor");
        let (after, stop) = minutes(|minute| minute * (FLOOR / 8)).await;
        assert_eq!((after, stop), (360, Some(Stop::TimedOut)), "enough, but for ever");
    }
}
