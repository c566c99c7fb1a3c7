//! The progress of work on an image, as events of its job.

use std::sync::{Mutex, PoisonError};

use super::job::EventKind;
use super::worker::EventSink;
use crate::progress::{Progress, Step};

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
            Step::LayerBytes { bytes, .. } => {
                counts.bytes_done += bytes;
                counts.progress()
            }
            Step::LayerDone { compressed_bytes, cached, .. } => {
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
