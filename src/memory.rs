//! What all the work of a process may take of its memory together.
//!
//! Images are of any size, and how much memory one takes is found out on the way. So each piece of
//! work has an account (`MemoryAccount`) and pays as it goes; what it has taken it gives back in the
//! end. One that finds nothing left is given up, and done again when it is alone: only what is too
//! large for the whole process fails.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// The memory that is shared. Clones are the same.
#[derive(Debug, Clone)]
pub struct MemoryBudget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: u64,
    taken: AtomicU64,
    /// Held by all who work: together, or alone. Those who ask for it come in their order.
    work: Arc<RwLock<()>>,
}

/// What one piece of work has taken. Clones are the same; it is given back when the last one goes.
/// Without a budget it has no bound.
#[derive(Debug, Clone, Default)]
pub struct MemoryAccount(Option<Arc<Open>>);

#[derive(Debug)]
struct Open {
    shared: Arc<Shared>,
    taken: AtomicU64,
    _turn: Turn,
}

enum Turn {
    Together(#[expect(dead_code, reason = "it is held")] OwnedRwLockReadGuard<()>),
    Alone(#[expect(dead_code, reason = "it is held")] OwnedRwLockWriteGuard<()>),
    /// That of another account.
    Of(#[expect(dead_code, reason = "it is held")] Arc<Open>),
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Together(_) => "Together",
            Self::Alone(_) => "Alone",
            Self::Of(_) => "Of",
        })
    }
}

/// There is not so much left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryShortage {
    /// Bytes that would be taken by all together.
    pub wanted: u64,
    /// Bytes that there are.
    pub limit: u64,
}

impl MemoryBudget {
    /// So many bytes in all.
    pub fn new(limit: u64) -> Self {
        let work = Arc::new(RwLock::new(()));
        Self(Arc::new(Shared { limit, taken: AtomicU64::new(0), work }))
    }

    /// Opens an account for work that goes on beside others. Waits while somebody is alone.
    pub async fn together(&self) -> MemoryAccount {
        self.open(Turn::Together(self.0.work.clone().read_owned().await))
    }

    /// Opens an account for work that needs all there is. Waits until nobody else has one.
    pub async fn alone(&self) -> MemoryAccount {
        self.open(Turn::Alone(self.0.work.clone().write_owned().await))
    }

    /// Bytes that are taken now.
    pub fn taken(&self) -> u64 {
        self.0.taken.load(Ordering::Relaxed)
    }

    fn open(&self, turn: Turn) -> MemoryAccount {
        MemoryAccount(Some(Arc::new(Open {
            shared: self.0.clone(),
            taken: AtomicU64::new(0),
            _turn: turn,
        })))
    }
}

impl MemoryAccount {
    /// An account for a part of the work, which gives back what it has taken before the whole is done.
    #[must_use]
    pub fn part(&self) -> Self {
        let Some(open) = &self.0 else { return Self(None) };
        let (shared, taken) = (open.shared.clone(), AtomicU64::new(0));
        Self(Some(Arc::new(Open { shared, taken, _turn: Turn::Of(open.clone()) })))
    }

    /// Takes more, or nothing.
    pub fn take(&self, bytes: u64) -> Result<(), MemoryShortage> {
        let Some(open) = &self.0 else { return Ok(()) };
        let Shared { limit, taken, .. } = &*open.shared;
        let more = |taken: u64| taken.checked_add(bytes).filter(|taken| taken <= limit);
        match taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => {
                open.taken.fetch_add(bytes, Ordering::Relaxed);
                Ok(())
            }
            Err(taken) => {
                Err(MemoryShortage { wanted: taken.saturating_add(bytes), limit: *limit })
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.taken.fetch_sub(*self.taken.get_mut(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn what_is_taken_is_shared_and_given_back() {
        let budget = MemoryBudget::new(100);
        let (one, other) = (budget.together().await, budget.together().await);
        one.take(60).unwrap();
        assert_eq!(other.take(50), Err(MemoryShortage { wanted: 110, limit: 100 }));
        assert_eq!(other.take(u64::MAX), Err(MemoryShortage { wanted: u64::MAX, limit: 100 }));
        other.take(40).unwrap();
        assert_eq!(budget.taken(), 100);
        let clone = one.clone();
        drop(one);
        assert_eq!(budget.taken(), 100, "a clone is the same account");
        drop(clone);
        assert_eq!(budget.taken(), 40);
        let part = other.part();
        part.take(60).unwrap();
        assert_eq!(part.part().take(1), Err(MemoryShortage { wanted: 101, limit: 100 }));
        drop(part);
        assert_eq!(budget.taken(), 40, "a part gives back its own");
        MemoryAccount::default().take(u64::MAX).unwrap();
    }

    #[tokio::test]
    async fn who_is_alone_has_all_and_others_wait_behind() {
        let budget = MemoryBudget::new(100);
        let together = budget.together().await;
        together.take(60).unwrap();
        let mut alone = pin!(budget.alone());
        assert!(poll!(&mut alone).is_pending());
        let mut later = pin!(budget.together());
        assert!(poll!(&mut later).is_pending(), "who comes later waits");
        drop(together);
        let alone = alone.await;
        assert_eq!(budget.taken(), 0);
        alone.take(100).unwrap();
        assert!(poll!(&mut later).is_pending());
        drop(alone);
        later.await.take(100).unwrap();
    }
}
