//! Events on their way from a handler to the database. Sending never waits, from any thread: what
//! is sent lies in a bounded place until the writer takes it. Of progress only the newest counts.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::jobs::job::EventKind;
use crate::jobs::queue::{Lease, Queue, QueueError, insist};

/// So many events other than progress wait at most; what comes beyond is counted.
const WAITING: usize = 1000;
/// Progress is written so often at first; and then ever less, a sixtieth of the time that has passed
/// apart, up to the latter: a job of hours is to have hundreds of events, not thousands.
const PROGRESS_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Bytes that count as getting on.
pub(super) const FLOOR: u64 = 1 << 20;

/// Where a handler sends what happens. Clones send to the same job.
#[derive(Debug, Clone, Default)]
pub struct EventSink(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Backlog>,
    arrived: Notify,
}

#[derive(Debug)]
struct Backlog {
    events: VecDeque<EventKind>,
    progress: Option<EventKind>,
    left_out: u64,
    closed: bool,
    /// When there was last something that counts as getting on, and how many bytes were done then.
    moved: (Instant, u64),
}

impl Default for Backlog {
    fn default() -> Self {
        Self {
            events: VecDeque::new(),
            progress: None,
            left_out: 0,
            closed: false,
            moved: (Instant::now(), 0),
        }
    }
}

impl EventSink {
    /// Sends an event. Progress replaces progress that was not written yet, others are kept in
    /// order; states of the job itself (`started`, final events, ...) are not a handler's to send
    /// and are left out.
    pub fn send(&self, kind: EventKind) {
        let mut waiting = self.lock();
        match kind {
            _ if waiting.closed => return,
            EventKind::Progress { bytes_done, .. } => {
                let (_, before) = waiting.moved;
                // Fewer than before: another reading of the image has begun.
                if bytes_done < before || bytes_done - before >= FLOOR {
                    waiting.moved = (Instant::now(), bytes_done);
                }
                waiting.progress = Some(kind);
            }
            EventKind::Phase { .. }
            | EventKind::Resolved { .. }
            | EventKind::Warning { .. }
            | EventKind::FellBack(_)
            | EventKind::Republished { .. } => {
                waiting.moved.0 = Instant::now();
                if waiting.events.len() < WAITING {
                    waiting.events.push_back(kind);
                } else {
                    waiting.left_out += 1;
                }
            }
            _ => return,
        }
        drop(waiting);
        self.0.arrived.notify_one();
    }

    /// The attempt waits for others, which counts as getting on.
    pub(in crate::jobs) fn waits(&self) {
        self.lock().moved.0 = Instant::now();
    }

    /// When there was last something that counts as getting on.
    pub(in crate::jobs) fn moved_at(&self) -> Instant {
        self.lock().moved.0
    }

    /// Nothing is taken any more; the writer ends when it has written the rest.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.0.arrived.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Backlog> {
        // Nothing panics while it holds the lock, and what is inside is whole at any time.
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next event to write, and whether the sink is closed. Progress waits for its time, but
    /// not after the close.
    fn take(&self, progress_due: bool) -> (Option<EventKind>, bool) {
        let mut waiting = self.lock();
        let next = waiting.events.pop_front().or_else(|| {
            let left_out = std::mem::take(&mut waiting.left_out);
            (left_out > 0).then(|| EventKind::Warning {
                message: format!("{left_out} more warnings came too fast and were left out"),
            })
        });
        let progress_due = progress_due || waiting.closed;
        let next = next.or_else(|| progress_due.then(|| waiting.progress.take()).flatten());
        (next, waiting.closed)
    }
}

/// Writes what is sent until the sink is closed and empty, or the lease lost.
pub(super) async fn write(
    sink: EventSink,
    queue: Queue,
    lease: Arc<Lease>,
) -> Result<(), QueueError> {
    let started = Instant::now();
    let mut progress_at = started;
    let mut number = 0;
    loop {
        let (next, closed) = sink.take(Instant::now() >= progress_at);
        match next {
            Some(event) => {
                if matches!(event, EventKind::Progress { .. }) {
                    let (least, most) = PROGRESS_EVERY;
                    progress_at = Instant::now() + (started.elapsed() / 60).clamp(least, most);
                }
                number += 1;
                match insist(|| queue.append(&lease, number, &event)).await {
                    // One event that the database doesn't take must not cost the others.
                    Err(error @ QueueError::Refused { .. }) => {
                        tracing::error!(job = %lease.job.id, %error, "an event was left out");
                    }
                    written => written?,
                }
            }
            None if closed => return Ok(()),
            None => {
                tokio::select! {
                    () = sink.0.arrived.notified() => {}
                    () = tokio::time::sleep_until(progress_at), if sink.lock().progress.is_some() => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(bytes_done: u64) -> EventKind {
        EventKind::Progress {
            layers_done: 0,
            layers_cached: 0,
            layers_total: 1,
            bytes_done,
            bytes_total: 9,
        }
    }

    fn warning(n: usize) -> EventKind {
        EventKind::Warning { message: n.to_string() }
    }

    #[test]
    fn the_newest_progress_stands_and_waits_for_its_time() {
        let sink = EventSink::default();
        sink.send(progress(1));
        sink.send(progress(2));
        sink.send(warning(0));
        assert_eq!(sink.take(false), (Some(warning(0)), false));
        assert_eq!(sink.take(false), (None, false));
        assert_eq!(sink.take(true), (Some(progress(2)), false));
        assert_eq!(sink.take(true), (None, false));
    }

    #[test]
    fn the_close_lets_the_rest_through_and_nothing_new() {
        let sink = EventSink::default();
        sink.send(progress(1));
        sink.close();
        sink.send(warning(0));
        assert_eq!(sink.take(false), (Some(progress(1)), true));
        assert_eq!(sink.take(false), (None, true));
    }

    #[test]
    fn what_waits_is_bounded_and_the_rest_counted() {
        let sink = EventSink::default();
        for n in 0..WAITING + 3 {
            sink.send(warning(n));
        }
        for n in 0..WAITING {
            assert_eq!(sink.take(false).0, Some(warning(n)));
        }
        let message = "3 more warnings came too fast and were left out".to_owned();
        assert_eq!(sink.take(false).0, Some(EventKind::Warning { message }));
        assert_eq!(sink.take(false).0, None);
    }

    #[test]
    fn the_jobs_own_states_are_not_a_handlers_to_send() {
        let sink = EventSink::default();
        sink.send(EventKind::Cancelled);
        sink.send(EventKind::Queued);
        assert_eq!(sink.take(true), (None, false));
    }
}
