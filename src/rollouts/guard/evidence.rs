//! How much speaks against "v2 fails no more often than v1", so that one may look as often as one likes.
//!
//! Outcomes come in blocks: one ends when it has [`BLOCK`] images of either version, whatever became of
//! them. If v2 fails no more often, then, given how many of a block's images failed, those of v2 among
//! them are at most hypergeometric (Fisher's exact test). For an odds ratio of failures that is looked for,
//! the ratio of Fisher's noncentral hypergeometric probability to that one is then 1 or less on average,
//! and so are the products of such ratios over blocks and the mean of these over several odds ratios: an
//! e-process. By Ville's inequality it ever comes to `1/alpha` with a probability of at most `alpha`.
//! Compared is only what came at about the same time, so that neither a bad day of a registry nor a
//! ramp of the rollout is held against v2.
//!
//! See A. Ramdas, P. Grünwald, V. Vovk, G. Shafer, "Game-theoretic statistics and safe anytime-valid
//! inference", Statistical Science 38 (2023); for two proportions by blocks R. Turner, A. Ly,
//! P. Grünwald, "Generic E-variables for exact sequential k-sample tests that allow for optional
//! stopping" (2021).

/// Images of either version that a block has at least.
const BLOCK: u64 = 4;
/// The odds ratios of failures that are looked for, all of them equally.
const ODDS: [f64; 5] = [1.5, 2.0, 4.0, 12.0, 60.0];

/// Images of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::rollouts) struct Tried {
    /// How many were tried.
    pub(in crate::rollouts) all: u64,
    /// How many of them failed.
    pub(in crate::rollouts) failed: u64,
}

impl Tried {
    fn add(&mut self, failed: bool) {
        self.all += 1;
        self.failed += u64::from(failed);
    }
}

/// Images of both versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::rollouts) struct Pair {
    /// Of v1.
    pub(in crate::rollouts) v1: Tried,
    /// Of v2.
    pub(in crate::rollouts) v2: Tried,
}

/// What has been seen, and what speaks for it.
#[derive(Debug, Clone, PartialEq, Default)]
pub(in crate::rollouts) struct Evidence {
    /// All outcomes.
    pub(in crate::rollouts) totals: Pair,
    /// Those of the block that has not ended.
    pub(in crate::rollouts) block: Pair,
    /// Logarithm of the product for each of [`ODDS`].
    pub(in crate::rollouts) logs: [f64; ODDS.len()],
}

impl Evidence {
    /// Takes the outcome of one more image.
    pub(in crate::rollouts) fn add(&mut self, is_v2: bool, failed: bool) {
        for pair in [&mut self.totals, &mut self.block] {
            if is_v2 { &mut pair.v2 } else { &mut pair.v1 }.add(failed);
        }
        if self.block.v1.all.min(self.block.v2.all) >= BLOCK {
            let block = std::mem::take(&mut self.block);
            for (log, odds) in self.logs.iter_mut().zip(ODDS) {
                *log += log_ratio(block, odds);
            }
        }
    }

    /// How many times as likely as by chance what was seen is, at least: it may reach `1/alpha` by chance
    /// with a probability of `alpha` at most.
    pub(in crate::rollouts) fn value(&self) -> f64 {
        let greatest = self.logs.into_iter().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = self.logs.iter().map(|log| (log - greatest).exp()).sum();
        (greatest + (sum / count(ODDS.len() as u64)).ln()).exp()
    }
}

/// The logarithm of how many times as likely a block is if the odds of failing are so many times as high
/// with v2 as with v1, given how many failed.
fn log_ratio(block: Pair, odds: f64) -> f64 {
    let Pair { v1, v2 } = block;
    let failed = v1.failed + v2.failed;
    let first = failed.saturating_sub(v1.all);
    let last = failed.min(v2.all);
    // Logarithms of the ways in which n of those that failed are of v2, as multiples of the first.
    let (mut ways, mut all, mut weighted) = (0.0, Vec::new(), Vec::new());
    for n in first..=last {
        all.push(ways);
        weighted.push(ways + count(n) * odds.ln());
        if n < last {
            ways += (count((v2.all - n) * (failed - n))
                / count((n + 1) * (v1.all + n + 1 - failed)))
            .ln();
        }
    }
    count(v2.failed) * odds.ln() + log_sum(&all) - log_sum(&weighted)
}

/// The logarithm of the sum of what these are logarithms of.
fn log_sum(logs: &[f64]) -> f64 {
    let greatest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    greatest + logs.iter().map(|log| (log - greatest).exp()).sum::<f64>().ln()
}

/// Numbers of images are far below where this would be wrong.
#[allow(clippy::cast_precision_loss, reason = "see above")]
fn count(number: u64) -> f64 {
    number as f64
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

    fn pair(v1: (u64, u64), v2: (u64, u64)) -> Pair {
        let tried = |(all, failed)| Tried { all, failed };
        Pair { v1: tried(v1), v2: tried(v2) }
    }

    fn choose(n: u64, k: u64) -> f64 {
        (0..k).map(|i| count(n - i) / count(i + 1)).product()
    }

    /// Looks after each outcome until `looks` of them have come; how many there were when it was sure.
    fn alarm(
        rng: &mut StdRng,
        alpha: f64,
        looks: u64,
        share: f64,
        p: impl Fn(u64, bool) -> f64,
    ) -> Option<u64> {
        let mut evidence = Evidence::default();
        (0..looks).find(|look| {
            let is_v2 = rng.random_bool(share);
            let failed = rng.random_bool(p(*look, is_v2));
            evidence.add(is_v2, failed);
            evidence.value() >= 1.0 / alpha
        })
    }

    #[test]
    fn a_block_is_worth_what_the_formula_says() {
        // 4 of 4 against 0 of 4: one way of 70.
        let odds = 60.0_f64;
        let all: f64 = (0..=4).map(|k| choose(4, k) * choose(4, 4 - k) * odds.powf(count(k))).sum();
        let expected = (odds.powi(4) / all * 70.0).ln();
        assert!((log_ratio(pair((4, 0), (4, 4)), odds) - expected).abs() < 1e-9);
        for none in [pair((4, 0), (9, 0)), pair((7, 7), (4, 4))] {
            assert!(log_ratio(none, odds).abs() < 1e-12, "nothing differs: {none:?}");
        }
        assert!((Evidence::default().value() - 1.0).abs() < 1e-12);
    }

    /// Continuous looking over a long time, with equal rates, with unequal shares and with outages that
    /// hit both versions: alarms are as rare as is promised.
    #[test]
    fn false_alarms_stay_under_alpha() {
        let mut rng = StdRng::seed_from_u64(11);
        let (alpha, runs) = (0.05, 400);
        let outage = |look: u64, _: bool| if look % 500 < 60 { 0.6 } else { 0.01 };
        let even = |_: u64, _: bool| 0.1;
        let better = |_: u64, is_v2: bool| if is_v2 { 0.05 } else { 0.1 };
        for (name, share, p) in [
            ("equal", 0.5, &even as &dyn Fn(u64, bool) -> f64),
            ("few", 0.1, &even),
            ("most", 0.9, &even),
            ("outages", 0.3, &outage),
            ("better", 0.5, &better),
        ] {
            let alarms = (0..runs).filter(|_| alarm(&mut rng, alpha, 2000, share, p).is_some());
            let alarms = alarms.count();
            // 20 are expected at most; three standard deviations more would be 33.
            assert!(alarms <= 33, "{name}: {alarms} false alarms of {runs}");
        }
    }

    #[test]
    fn what_is_worse_is_found_soon() {
        let mut rng = StdRng::seed_from_u64(12);
        let broken = |_: u64, is_v2: bool| if is_v2 { 1.0 } else { 0.02 };
        let worse = |_: u64, is_v2: bool| if is_v2 { 0.2 } else { 0.05 };
        for (name, share, p, within) in [
            ("broken", 0.5, &broken as &dyn Fn(u64, bool) -> f64, 30),
            ("broken, few", 0.1, &broken, 160),
            ("worse", 0.5, &worse, 1200),
            ("worse, few", 0.1, &worse, 3500),
        ] {
            let found = (0..100).filter(|_| alarm(&mut rng, 0.01, within, share, p).is_some());
            let found = found.count();
            assert!(found >= 90, "{name}: {found} of 100 within {within} images");
        }
    }

    #[test]
    fn without_one_of_the_versions_nothing_is_said() {
        for is_v2 in [false, true] {
            let mut evidence = Evidence::default();
            (0..10_000).for_each(|_| evidence.add(is_v2, true));
            assert!((evidence.value() - 1.0).abs() < 1e-12);
        }
        let mut evidence = Evidence::default();
        (0..3).for_each(|_| {
            evidence.add(false, false);
            evidence.add(true, true);
        });
        assert!((evidence.value() - 1.0).abs() < 1e-12, "three of each are too few");
    }

    proptest! {
        /// On average a block is worth 1 if nothing differs, and less if v2 is better.
        #[test]
        fn the_mean_is_one(v1 in 4_u64..30, v2 in 4_u64..30, failed in 0_u64..40, which in 0..ODDS.len()) {
            let failed = failed.min(v1 + v2);
            let mean: f64 = (failed.saturating_sub(v1)..=failed.min(v2)).map(|n| {
                let likely = choose(v2, n) * choose(v1, failed - n) / choose(v1 + v2, failed);
                likely * log_ratio(pair((v1, failed - n), (v2, n)), ODDS[which]).exp()
            }).sum();
            prop_assert!((mean - 1.0).abs() < 1e-6, "{mean}");
        }

        #[test]
        fn more_failures_of_v2_are_more_evidence(v1 in 4_u64..200, v2 in 4_u64..200, failed in 1_u64..100, which in 0..ODDS.len()) {
            let failed = failed.min(v1 + v2);
            let ratios: Vec<f64> = (failed.saturating_sub(v1)..=failed.min(v2))
                .map(|n| log_ratio(pair((v1, failed - n), (v2, n)), ODDS[which])).collect();
            prop_assert!(ratios.is_sorted(), "{ratios:?}");
        }
    }
}
