//! Spans in memory that could not be kept on disk, so that the next read of one of them does not
//! fetch it again.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::digest::Digest;

/// Bytes that are held; a larger span is held alone.
const MOST: usize = 32 << 20;

#[derive(Debug, Default)]
pub(super) struct RecentSpans(Mutex<VecDeque<(Digest, Bytes)>>);

impl RecentSpans {
    pub(super) fn get(&self, key: &Digest) -> Option<Bytes> {
        let spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spans.iter().find(|(known, _)| known == key).map(|(_, plain)| plain.clone())
    }

    pub(super) fn remove(&self, key: &Digest) {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spans.retain(|(known, _)| known != key);
    }

    pub(super) fn insert(&self, key: Digest, plain: Bytes) {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spans.retain(|(known, _)| *known != key);
        spans.push_back((key, plain));
        let mut held: usize = spans.iter().map(|(_, plain)| plain.len()).sum();
        while held > MOST
            && spans.len() > 1
            && let Some((_, plain)) = spans.pop_front()
        {
            held -= plain.len();
        }
    }
}
