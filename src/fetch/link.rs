//! How many connections to a registry are open at a time: as many as pay.
//!
//! A connection to an object store gives some tens of MB/s, however fast the link is, so that
//! several together are faster, up to where the link or the registry is full. Where that is can
//! only be tried: while readers wait for a connection, one more step is taken as long as the last
//! one brought more bytes a second, and taken back when it did not. A registry that says it has
//! had enough (429, or `Retry-After`) gets half as many. What it gave is forgotten with the last
//! reader.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::error::Classify as _;
use crate::oci::{Admission, Gate, OciError};

/// Connections to begin with; browsers open as many to a host.
const START: usize = 6;
/// More are never opened to one registry by one process.
const MOST: usize = 24;
/// How long bytes are counted before they are judged.
const EPOCH: Duration = Duration::from_millis(150);
/// A step pays when it brings so many times the bytes.
const PAYS: f64 = 1.08;
/// Epochs until another step is tried after one that did not pay, or after a refusal.
const REST: u32 = 30;

/// The links of a process, by registry.
#[derive(Debug, Default)]
pub(crate) struct Links(Mutex<HashMap<String, Weak<Link>>>);

impl Links {
    /// The link to `registry`, which all who read from it share.
    pub(crate) fn to(&self, registry: &str) -> Arc<Link> {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get(registry).and_then(Weak::upgrade) {
            return link;
        }
        links.retain(|_, link| link.strong_count() > 0);
        let link = Arc::new(Link::new());
        links.insert(registry.to_owned(), Arc::downgrade(&link));
        link
    }
}

/// The connections to one registry.
#[derive(Debug)]
pub(crate) struct Link {
    connections: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pace: Pace,
    /// Connections in use that are to go when they are given back.
    surplus: usize,
    since: Instant,
    bytes: u64,
    /// Whether somebody had to wait for a connection since then.
    wanted: bool,
}

impl Link {
    fn new() -> Self {
        let pace = Pace::new();
        let connections = Arc::new(Semaphore::new(pace.limit));
        let since = Instant::now();
        let state = State { pace, surplus: 0, since, bytes: 0, wanted: false };
        Self { connections, state: Mutex::new(state) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many connections there may be.
    #[cfg(test)]
    pub(crate) fn limit(&self) -> usize {
        self.state().pace.limit
    }

    fn received(&self, bytes: usize) {
        let mut state = self.state();
        state.bytes += bytes as u64;
        let elapsed = state.since.elapsed();
        if elapsed < EPOCH {
            return;
        }
        let before = state.pace.limit;
        let (bytes, wanted) = (state.bytes, state.wanted);
        #[expect(clippy::cast_precision_loss, reason = "a rate, compared roughly")]
        state.pace.judge(bytes as f64 / elapsed.as_secs_f64(), wanted);
        (state.since, state.bytes, state.wanted) = (Instant::now(), 0, false);
        self.adjust(&mut state, before);
    }

    fn refused(&self) {
        let mut state = self.state();
        let before = state.pace.limit;
        state.pace.refuse();
        self.adjust(&mut state, before);
    }

    /// Brings the connections there are to what they should be now.
    fn adjust(&self, state: &mut State, before: usize) {
        let now = state.pace.limit;
        if now > before {
            let kept = state.surplus.min(now - before);
            state.surplus -= kept;
            self.connections.add_permits(now - before - kept);
            tracing::debug!(connections = now, "more connections");
        } else if now < before {
            let gone = self.connections.forget_permits(before - now);
            state.surplus += before - now - gone;
            tracing::debug!(connections = now, "fewer connections");
        }
    }
}

#[async_trait]
impl Gate for Link {
    async fn admit(self: Arc<Self>) -> Box<dyn Admission> {
        let mut connection = self.connections.clone().try_acquire_owned().ok();
        if connection.is_none() {
            self.state().wanted = true;
            connection = self.connections.clone().acquire_owned().await.ok(); // never closed
        }
        Box::new(Connection { link: self.clone(), connection })
    }
}

/// One connection's turn.
struct Connection {
    link: Arc<Link>,
    connection: Option<OwnedSemaphorePermit>,
}

impl Admission for Connection {
    fn received(&self, bytes: usize) {
        self.link.received(bytes);
    }

    fn failed(&self, error: &OciError) {
        if matches!(error, OciError::RateLimited { .. }) || error.retry_after().is_some() {
            self.link.refused();
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut state = self.link.state();
        if state.surplus > 0
            && let Some(connection) = self.connection.take()
        {
            state.surplus -= 1;
            connection.forget();
        }
    }
}

/// How many connections there should be, judged from what they brought.
#[derive(Debug)]
struct Pace {
    limit: usize,
    /// What there were before the last step, and bytes a second with them.
    before: Option<(usize, f64)>,
    rest: u32,
}

impl Pace {
    fn new() -> Self {
        Self { limit: START, before: None, rest: 0 }
    }

    /// Takes note of the bytes a second of one epoch. `wanted` says whether more connections would
    /// have been used.
    fn judge(&mut self, rate: f64, wanted: bool) {
        if self.rest > 0 {
            self.rest -= 1;
            return;
        }
        if let Some((limit, slower)) = self.before.take()
            && rate < slower * PAYS
        {
            self.limit = limit;
            self.rest = REST;
        } else if wanted && self.limit < MOST {
            self.before = Some((self.limit, rate));
            self.limit = (self.limit + self.limit.div_ceil(2)).min(MOST);
        }
    }

    /// The registry has had enough. That several connections hear of it at once counts once.
    fn refuse(&mut self) {
        if self.rest < REST {
            self.limit = (self.limit / 2).max(1);
            self.rest = REST;
        }
        self.before = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets the pace run against a link that gives `each` a connection and `all` at most.
    fn settle(pace: &mut Pace, each: f64, all: f64, epochs: usize) -> usize {
        for _ in 0..epochs {
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let rate = (pace.limit as f64 * each).min(all);
            pace.judge(rate, true);
        }
        pace.limit
    }

    #[test]
    fn grows_while_it_pays() {
        assert_eq!(settle(&mut Pace::new(), 25.0, 1e9, 10), MOST);
        assert_eq!(settle(&mut Pace::new(), 25.0, 150.0, 10), START);
        let some = settle(&mut Pace::new(), 25.0, 250.0, 10);
        assert!((9..=14).contains(&some), "{some}");
    }

    #[test]
    fn does_not_grow_for_nobody() {
        let mut pace = Pace::new();
        (0..10).for_each(|_| pace.judge(1.0, false));
        assert_eq!(pace.limit, START);
    }

    #[test]
    fn refusals_halve_once_and_it_recovers() {
        let mut pace = Pace::new();
        (0..5).for_each(|_| pace.refuse());
        assert_eq!(pace.limit, START / 2);
        assert!(settle(&mut pace, 25.0, 1e9, REST as usize + 10) > START);
        for _ in 0..20 {
            pace.refuse();
            pace.rest = 0;
        }
        assert_eq!(pace.limit, 1);
    }

    #[tokio::test]
    async fn connections_follow() {
        let link = Links::default().to("r");
        let mut held = Vec::new();
        for _ in 0..START {
            held.push(link.clone().admit().await);
        }
        assert_eq!(link.connections.available_permits(), 0);
        link.refused();
        held.truncate(START - 1);
        assert_eq!(link.connections.available_permits(), 0, "one too many is gone");
        drop(held);
        assert_eq!(link.connections.available_permits(), START / 2);
    }

    #[test]
    fn links_are_shared_and_forgotten() {
        let links = Links::default();
        let (one, same) = (links.to("r"), links.to("r"));
        assert!(Arc::ptr_eq(&one, &same));
        drop((one, same));
        links.to("other");
        assert_eq!(links.0.lock().unwrap().len(), 1);
    }
}
