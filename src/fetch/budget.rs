//! What reading layers may take of the machine, shared by everything in the process that reads any.
//!
//! A layer being read costs a core and a few MiB of buffers, whatever its size, so that the number
//! of layers at a time bounds both. Turns are given in the order in which they were asked for, and
//! an image asks for few at a time: a big one can't keep a small one waiting for long.

use std::cmp::Reverse;
use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::fetch::FetchError;
use crate::fetch::link::{Link, Links};
use crate::fetch::stream::SHARED;
use crate::oci::Source;

/// Layers that are begun with before their turn.
const AHEAD: usize = 2;

/// How many layers are read at a time.
#[derive(Debug)]
pub struct Budget {
    layers: usize,
    turns: Semaphore,
    links: Links,
    room: Arc<Semaphore>,
}

impl Budget {
    /// Lets so many layers be read at a time, at least one.
    pub fn new(layers: usize) -> Self {
        let layers = layers.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            layers,
            turns: Semaphore::new(layers),
            links: Links::default(),
            room: Arc::new(Semaphore::new(SHARED)),
        }
    }

    /// How many layers may be read at a time.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// How many layers of one image to begin with at a time: a few more than are read, so that the
    /// first bytes of the next one are there when its turn comes.
    pub(crate) fn begun(&self) -> usize {
        self.layers.saturating_add(AHEAD)
    }

    /// The connections to where `source` is.
    pub(crate) fn link(&self, source: &Source) -> Arc<Link> {
        self.links.to(source.host())
    }

    /// Room for bytes on their way that all blobs share.
    pub(crate) fn room(&self) -> &Arc<Semaphore> {
        &self.room
    }

    /// Waits for a turn, which lasts until it is dropped.
    pub(crate) async fn turn(
        &self,
        cancel: &CancellationToken,
    ) -> Result<SemaphorePermit<'_>, FetchError> {
        match cancel.run_until_cancelled(self.turns.acquire()).await {
            Some(Ok(turn)) => Ok(turn),
            // Never closed.
            Some(Err(_)) | None => Err(FetchError::Cancelled),
        }
    }
}

/// Puts layers into the order in which all of them are read soonest: a big one that comes last is
/// read alone. Those of one size stay in their order.
pub(crate) fn largest_first<T>(layers: &mut [T], size: impl Fn(&T) -> u64) {
    layers.sort_by_key(|layer| Reverse(size(layer)));
}

impl Default for Budget {
    /// One layer a core.
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, usize::from))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn turns_come_in_order_and_waiting_can_be_cancelled() {
        let (budget, cancel) = (Budget::new(2), CancellationToken::new());
        let first = budget.turn(&cancel).await.unwrap();
        let _second = budget.turn(&cancel).await.unwrap();
        let given_up = CancellationToken::new();
        let mut impatient = pin!(budget.turn(&given_up));
        let (mut third, mut fourth) = (pin!(budget.turn(&cancel)), pin!(budget.turn(&cancel)));
        assert!(poll!(&mut impatient).is_pending());
        assert!(poll!(&mut third).is_pending() && poll!(&mut fourth).is_pending());
        given_up.cancel();
        assert!(matches!(impatient.await, Err(FetchError::Cancelled)));
        drop(first);
        assert!(poll!(&mut fourth).is_pending());
        let third = third.await.unwrap();
        assert!(poll!(&mut fourth).is_pending());
        drop(third);
        drop(fourth.await.unwrap());
    }
}
