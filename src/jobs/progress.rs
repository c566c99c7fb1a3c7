//! The progress of work on an image, as events of its job.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use super::job::EventKind;
use super::worker::EventSink;
use crate::digest::Digest;
use crate::progress::{Progress, Step};
use crate::telemetry::metrics::{layer_done, layer_inflated};

/// Progress of a job, as events.
pub(super) struct JobProgress {
    events: EventSink,
    counts: Mutex<Counts>,
}

impl JobProgress {
    pub(super) fn new(events: EventSink) -> Self {
        Self { events, counts: Mutex::default() }
    }
}

#[derive(Default)]
struct Counts {
    layers_done: u64,
    layers_cached: u64,
    layers_total: u64,
    bytes_done: u64,
    bytes_total: u64,
    /// Layers of which bytes came last, rather than that they wait.
    read: HashSet<Digest>,
}

impl Progress for JobProgress {
    fn step(&self, step: Step) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let event = match step {
            Step::Resolved { manifest, layers, compressed_bytes } => {
                let layers = layers as u64;
                // Of an image that is read again, the count begins again.
                *counts = Counts {
                    layers_total: layers,
                    bytes_total: compressed_bytes,
                    ..Counts::default()
                };
                EventKind::Resolved { manifest_digest: manifest, layers, compressed_bytes }
            }
            Step::Warning(message) => EventKind::Warning { message },
            Step::Waiting { layer } => {
                counts.read.remove(&layer);
                // One that waits must not hide another that doesn't get on: others may wait for that.
                if counts.read.is_empty() {
                    self.events.waits();
                }
                return;
            }
            Step::LayerBytes { layer, bytes } => {
                counts.read.insert(layer);
                counts.bytes_done += bytes;
                counts.progress()
            }
            Step::Inflated { processor, .. } => {
                layer_inflated(processor);
                return;
            }
            Step::LayerDone { layer, compressed_bytes, cached, .. } => {
                layer_done(cached);
                counts.read.remove(&layer);
                counts.layers_done += 1;
                if cached {
                    counts.layers_cached += 1;
                    counts.bytes_done += compressed_bytes;
                }
                counts.progress()
            }
        };
        self.events.send(event);
    }
}

impl Counts {
    fn progress(&self) -> EventKind {
        EventKind::Progress {
            layers_done: self.layers_done,
            layers_cached: self.layers_cached,
            layers_total: self.layers_total,
            bytes_done: self.bytes_done,
            bytes_total: self.bytes_total,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, advance};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waiting_counts_as_getting_on_unless_something_is_being_read() {
        let events = EventSink::default();
        let progress = JobProgress::new(events.clone());
        let [one, two] = [b"1", b"2"].map(|bytes| Digest::of(bytes));
        let moves = async |step| {
            advance(Duration::from_mins(1)).await;
            progress.step(step);
            events.moved_at() == Instant::now()
        };
        assert!(moves(Step::Waiting { layer: one }).await);
        assert!(!moves(Step::LayerBytes { layer: one, bytes: 1 }).await, "a trickle");
        assert!(!moves(Step::Waiting { layer: two }).await, "perhaps for the trickle");
        assert!(moves(Step::Waiting { layer: one }).await, "its turn is another's now");
        assert!(!moves(Step::LayerBytes { layer: one, bytes: 1 }).await);
        let done = Step::LayerDone {
            layer: one,
            compressed_bytes: 2,
            plain_bytes: 2,
            entries: 0,
            cached: false,
        };
        assert!(!moves(done).await);
        assert!(moves(Step::Waiting { layer: two }).await);
    }
}
