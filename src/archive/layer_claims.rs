//! Who computes a layer index that several want at once: one does, the others wait for it.
//!
//! Inside a process that is decided here. Among processes it is decided behind [`LayerClaims`],
//! which a higher floor brings along; what agrees there must not be known here.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tokio::sync::OwnedMutexGuard;

use crate::store::Key;

/// Held while a layer index is computed; dropping it lets others try.
pub type Claim = Box<dyn Send>;

/// Agreement among processes about who computes which layer index.
///
/// It saves work and nothing else: two that both compute one come to the same bytes. So whoever
/// can't ask the others simply gets the claim, and the claim of one that died ends by itself.
#[async_trait]
pub trait LayerClaims: Send + Sync + Debug {
    /// Takes the claim, unless somebody holds it.
    async fn try_claim(&self, key: &Key) -> Option<Claim>;

    /// Resolves when the claim may have become free, or after a while. Listens from the moment of
    /// the call: call it before [`Self::try_claim`].
    fn freed(&self, key: &Key) -> BoxFuture<'static, ()>;
}

/// One at a time for each key, inside this process.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Key, Weak<tokio::sync::Mutex<()>>>>);

impl Flights {
    /// Waits until no other has this key. Cancel-safe.
    pub(super) async fn board(&self, key: &Key) -> OwnedMutexGuard<()> {
        let flight = {
            let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            flights.retain(|_, flight| flight.strong_count() > 0);
            let flying = flights.get(key).and_then(Weak::upgrade);
            flying.unwrap_or_else(|| {
                let flight = Arc::default();
                flights.insert(key.clone(), Arc::downgrade(&flight));
                flight
            })
        };
        flight.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_for_each_key() {
        let flights = Flights::default();
        let [one, two]: [Key; 2] = ["a", "b"].map(|key| key.parse().unwrap());
        let first = flights.board(&one).await;
        let mut second = pin!(flights.board(&one));
        assert!(poll!(&mut second).is_pending());
        drop(flights.board(&two).await);
        drop(first);
        drop(second.await);
        drop(flights.board(&two).await);
        assert_eq!(flights.0.lock().unwrap().len(), 1, "what is over is forgotten");
    }
}
