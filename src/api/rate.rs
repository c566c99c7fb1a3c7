//! How often a token may ask: so many requests a minute, spent as it likes and coming back evenly. Each
//! process counts for itself.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use uuid::Uuid;

/// Tokens that are counted at a time; beyond that counting begins anew.
const MAX_TOKENS: usize = 10_000;

/// Counts the requests of each token.
#[derive(Debug, Clone, Default)]
pub(super) struct RateLimits {
    /// For tokens without a limit of their own.
    default: Option<NonZeroU32>,
    tokens: Arc<Mutex<HashMap<Uuid, Counter>>>,
}

#[derive(Debug, Clone)]
struct Counter {
    limit: NonZeroU32,
    limiter: Arc<DefaultDirectRateLimiter>,
}

impl RateLimits {
    pub(super) fn new(default: Option<NonZeroU32>) -> Self {
        Self { default, ..Self::default() }
    }

    /// Counts a request: how long the token has to wait if it is one too many.
    pub(super) fn count(&self, token: Uuid, own: Option<NonZeroU32>) -> Result<(), Duration> {
        let Some(limit) = own.or(self.default) else { return Ok(()) };
        let limiter = {
            // Nothing panics while it holds the lock.
            let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            if tokens.len() >= MAX_TOKENS && !tokens.contains_key(&token) {
                tokens.clear();
            }
            let fresh = || Counter {
                limit,
                limiter: Arc::new(RateLimiter::direct(Quota::per_minute(limit))),
            };
            let counter = tokens.entry(token).or_insert_with(fresh);
            if counter.limit != limit {
                *counter = fresh();
            }
            counter.limiter.clone()
        };
        limiter.check().map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_has_its_own_count() {
        let limits = RateLimits::new(NonZeroU32::new(2));
        let [one, other] = [Uuid::now_v7(), Uuid::now_v7()];
        assert_eq!([(); 2].map(|()| limits.count(one, None)), [Ok(()); 2]);
        let wait = limits.count(one, None).unwrap_err();
        assert!(wait > Duration::ZERO && wait <= Duration::from_secs(30), "{wait:?}");
        assert_eq!(limits.count(other, None), Ok(()));
        // A limit of its own counts instead, and from the beginning.
        let own = NonZeroU32::new(1);
        assert_eq!(limits.count(one, own), Ok(()));
        assert!(limits.count(one, own).is_err());
        assert_eq!(RateLimits::default().count(one, None), Ok(()));
    }

    #[test]
    fn memory_is_bounded() {
        let limits = RateLimits::new(NonZeroU32::new(1));
        for _ in 0..MAX_TOKENS + 5 {
            limits.count(Uuid::now_v7(), None).unwrap();
        }
        assert!(limits.tokens.lock().unwrap().len() <= MAX_TOKENS);
    }
}
