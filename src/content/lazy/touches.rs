//! What the readers of a mount touched first, in what order and when.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::digest::Digest;

/// Touches that are noted; a start that touches more is no start.
const MOST: usize = 65_536;

/// A part of the content that was read for the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touch {
    /// The layer; `None` for the data of a v1 archive.
    pub layer: Option<Digest>,
    /// Which bytes of its plain stream, or of the data: those that are fetched together.
    pub bytes: Range<u64>,
    /// How long after the beginning of the mount.
    pub at: Duration,
}

/// Notes touches for as long as it is told to.
#[derive(Debug)]
pub(super) struct Touches {
    began: Instant,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    until: Option<Instant>,
    touches: Vec<Touch>,
}

impl Default for Touches {
    fn default() -> Self {
        Self { began: Instant::now(), noted: Mutex::default() }
    }
}

impl Touches {
    /// Begins; what was touched before is not known.
    pub(super) fn note_for(&self, time: Duration) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.until = Instant::now().checked_add(time);
    }

    /// Something was touched for the first time.
    pub(super) fn note(&self, layer: Option<Digest>, bytes: Range<u64>) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if noted.until.is_some_and(|until| now <= until) && noted.touches.len() < MOST {
            noted.touches.push(Touch { layer, bytes, at: now.duration_since(self.began) });
        }
    }

    /// Whether it notes at this moment.
    pub(super) fn is_noting(&self) -> bool {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.until.is_some_and(|until| Instant::now() <= until)
    }

    /// For how long nothing was.
    pub(super) fn quiet_for(&self) -> Option<Duration> {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        Some(self.began.elapsed().saturating_sub(noted.touches.last()?.at))
    }

    /// What was touched so far.
    pub(super) fn so_far(&self) -> Vec<Touch> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).touches.clone()
    }
}
