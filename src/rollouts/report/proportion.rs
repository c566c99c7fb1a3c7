//! Proportions, and how far they can be trusted: E. B. Wilson's score interval, and for the difference of two
//! the one that R. G. Newcombe makes of them ("Interval estimation for the difference between
//! independent proportions", Statistics in Medicine 17 (1998), method 10). Neither goes beyond what is
//! possible, nor claims that what was not seen can't be.

use super::Estimate;

/// What a normal variable exceeds in 2.5 %.
const Z: f64 = 1.959_963_984_540_054;
/// With fewer of either version nothing is said of a difference.
const MIN: u64 = 20;

/// So many of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proportion {
    pub(super) some: u64,
    pub(super) all: u64,
}

impl Proportion {
    /// What it is, between what it may be; `None` of none.
    pub(super) fn estimate(self) -> Option<Estimate> {
        if self.all == 0 {
            return None;
        }
        #[allow(clippy::cast_precision_loss, reason = "numbers of jobs and starts")]
        let (some, n) = (self.some as f64, self.all as f64);
        let p = some / n;
        let middle = (some + Z * Z / 2.0) / (n + Z * Z);
        let width = Z / (n + Z * Z) * (n * p * (1.0 - p) + Z * Z / 4.0).sqrt();
        // What is exact is not to be lost by rounding.
        let (low, high) = ((middle - width).clamp(0.0, p), (middle + width).clamp(p, 1.0));
        Some(Estimate::new(p, Some((low, high))))
    }

    /// How much greater it is than `other`; `None` if there are too few.
    pub(super) fn more_than(self, other: Self) -> Option<Estimate> {
        if self.all.min(other.all) < MIN {
            return None;
        }
        let (one, other) = (self.estimate()?, other.estimate()?);
        let (one_low, one_high) = (one.low?, one.high?);
        let (other_low, other_high) = (other.low?, other.high?);
        let difference = one.value - other.value;
        let low = difference - (one.value - one_low).hypot(other_high - other.value);
        let high = difference + (one_high - one.value).hypot(other.value - other_low);
        Some(Estimate::new(difference, Some((low.max(-1.0), high.min(1.0)))))
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        clippy::needless_for_each,
        reason = "numbers of a test are small"
    )]

    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    fn of(some: u64, all: u64) -> Proportion {
        Proportion { some, all }
    }

    #[track_caller]
    fn is(estimate: Option<Estimate>, value: f64, low: f64, high: f64) {
        let found = estimate.unwrap();
        for (found, expected) in [(Some(found.value), value), (found.low, low), (found.high, high)]
        {
            assert!((found.unwrap() - expected).abs() < 6e-5, "{estimate:?}");
        }
    }

    /// The examples of the two papers of Newcombe's of 1998.
    #[test]
    fn known_values() {
        is(of(81, 263).estimate(), 0.3080, 0.2553, 0.3662);
        is(of(15, 148).estimate(), 0.1014, 0.0624, 0.1605);
        is(of(0, 20).estimate(), 0.0, 0.0, 0.1611);
        is(of(1, 29).estimate(), 0.0345, 0.0061, 0.1718);
        is(of(56, 70).more_than(of(48, 80)), 0.2, 0.0524, 0.3339);
        is(of(29, 29).estimate(), 1.0, 0.8830, 1.0);
        assert_eq!((of(0, 0).estimate(), of(3, 19).more_than(of(1, 100))), (None, None));
    }

    #[test]
    fn the_difference_is_covered_as_often_as_it_says() {
        let mut rng = StdRng::seed_from_u64(7);
        let draw = |rng: &mut StdRng, n: u64, p: f64| {
            of((0..n).filter(|_| rng.random_bool(p)).count() as u64, n)
        };
        let runs = 1000;
        let held = (0..runs).filter(|_| {
            let (v2, v1) = (draw(&mut rng, 60, 0.08), draw(&mut rng, 300, 0.03));
            let found = v2.more_than(v1).unwrap();
            found.low.unwrap() <= 0.05 && 0.05 <= found.high.unwrap()
        });
        let held = held.count();
        assert!((925..=985).contains(&held), "{held} of {runs}");
    }

    proptest! {
        #[test]
        fn bounds_are_in_order(a in 0_u64..500, n in 20_u64..500, b in 0_u64..500, m in 20_u64..500) {
            let (one, other) = (of(a.min(n), n), of(b.min(m), m));
            let (forth, back) = (one.more_than(other).unwrap(), other.more_than(one).unwrap());
            prop_assert!(forth.low.unwrap() <= forth.value && forth.value <= forth.high.unwrap());
            prop_assert!((forth.low.unwrap() + back.high.unwrap()).abs() < 1e-9);
        }
    }
}
