//! How many event streams may be open at a time: each costs a place in memory and asks the database now
//! and then. One client may not have all of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::workspaces::Actor;

/// Streams of all clients.
const ALL: usize = 1024;
/// Streams of one client.
const EACH: usize = 768;

/// The streams that are open.
#[derive(Debug, Clone, Default)]
pub(super) struct Streams(Arc<Mutex<HashMap<Actor, usize>>>);

impl Streams {
    /// A place for one more stream, unless the client or all together have too many.
    pub(super) fn open(&self, client: Actor) -> Option<StreamPlace> {
        let mut open = self.lock();
        let (all, own) = (open.values().sum::<usize>(), open.get(&client).copied().unwrap_or(0));
        if all >= ALL || own >= EACH {
            return None;
        }
        open.insert(client, own + 1);
        drop(open);
        Some(StreamPlace { streams: self.clone(), client })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Actor, usize>> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held as long as a stream is open.
#[derive(Debug)]
pub(super) struct StreamPlace {
    streams: Streams,
    client: Actor,
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        match open.get_mut(&self.client) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                open.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn nobody_has_them_all_and_places_come_back() {
        let streams = Streams::default();
        let [one, other] = [(); 2].map(|()| Actor::Token(Uuid::now_v7()));
        let mut held: Vec<_> = (0..EACH).map(|_| streams.open(one).unwrap()).collect();
        assert!(streams.open(one).is_none());
        held.extend((EACH..ALL).map(|_| streams.open(other).unwrap()));
        assert!(streams.open(other).is_none() && streams.open(Actor::Operator).is_none());
        held.truncate(1);
        assert!(streams.open(one).is_some());
        drop(held);
        assert!(streams.lock().is_empty());
    }
}
