//! Quantiles and how far they can be trusted, by the bootstrap. What is drawn anew are not single starts but
//! the parts that a rollout falls into: all starts of an image are in one of them, since the version
//! was chosen for the image, and a thousand starts of one image are no thousand witnesses.
//!
//! With so few parts the percentile interval is too narrow by a known amount, and is taken wider by it:
//! T. C. Hesterberg, "What teachers should know about the bootstrap", The American Statistician 69
//! (2015), section 3.3 (the expanded percentile interval). Draws come from a fixed seed: the same
//! counts always give the same answer.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::sketch::{RELATIVE_ERROR, Sketch, middle, quantile};
use super::{Estimate, PARTS};

/// How often parts are drawn.
const DRAWS: usize = 1000;
/// With fewer parts that hold anything nothing is said of how far a figure can be trusted.
const MIN_PARTS: usize = 8;
/// What lies below a 95 % interval and above it, of the draws from 8, 9, ... 16 parts:
/// `F(-sqrt(n / (n - 1)) * t)`, where `F` is the normal distribution and `t` what Student's with `n - 1`
/// degrees exceeds in 2.5 %.
const TAILS: [f64; PARTS - MIN_PARTS + 1] = [
    0.005_738, 0.007_225, 0.008_551, 0.009_722, 0.010_757, 0.011_671, 0.012_483, 0.013_207,
    0.013_856,
];
const SEED: u64 = 0x636c_6970;

/// Which quantiles are told, and how many values each needs to be trusted.
const QUANTILES: [(f64, u64); 2] = [(0.5, 30), (0.95, 100)];

/// What was measured of one version.
pub(super) struct Sample {
    buckets: Vec<i16>,
    /// Of each part that holds anything the counts of `buckets`.
    parts: Vec<Vec<u64>>,
    count: u64,
}

/// Quantiles of one version.
pub(super) struct Quantiles {
    /// Each of [`QUANTILES`]; `None` if nothing was measured.
    pub(super) estimates: [Option<Estimate>; QUANTILES.len()],
    draws: Vec<[f64; QUANTILES.len()]>,
    parts: usize,
    pub(super) count: u64,
}

impl Sample {
    /// Of the parts as they were counted.
    pub(super) fn new(parts: &[Sketch]) -> Self {
        let buckets: BTreeSet<i16> = parts.iter().flat_map(Sketch::buckets).collect();
        let buckets: Vec<i16> = buckets.into_iter().collect();
        let held = parts.iter().filter(|part| part.count() > 0);
        let parts: Vec<Vec<u64>> =
            held.map(|part| buckets.iter().map(|bucket| part.of(*bucket)).collect()).collect();
        let count = parts.iter().flatten().sum();
        Self { buckets, parts, count }
    }

    /// Its quantiles. Samples that are compared have different `series`, so that what is drawn of the one
    /// says nothing of the other.
    pub(super) fn quantiles(&self, series: u64) -> Quantiles {
        let mut rng = StdRng::seed_from_u64(SEED + series);
        let parts = self.parts.len();
        let whole = self.values(&vec![1; parts]);
        let draws: Vec<_> = if parts < MIN_PARTS {
            Vec::new()
        } else {
            let drawn = (0..DRAWS).filter_map(|_| {
                let mut times = vec![0; parts];
                (0..parts).for_each(|_| times[rng.random_range(0..parts)] += 1);
                self.values(&times)
            });
            drawn.collect()
        };
        let mut quantiles =
            Quantiles { estimates: [None; QUANTILES.len()], draws, parts, count: self.count };
        for (n, (_, enough)) in QUANTILES.into_iter().enumerate() {
            quantiles.estimates[n] = whole.map(|whole| {
                let draws = quantiles.draws.iter().map(|draw| draw[n]).collect();
                let bounds = (self.count >= enough).then(|| bounds(draws, parts)).flatten();
                // The buckets' own error comes on top.
                let bounds = bounds.map(|(low, high)| {
                    (low * (1.0 - RELATIVE_ERROR), high * (1.0 + RELATIVE_ERROR))
                });
                Estimate::new(whole[n], bounds)
            });
        }
        quantiles
    }

    /// The quantiles if each part had been there so many times.
    fn values(&self, times: &[u64]) -> Option<[f64; QUANTILES.len()]> {
        let mut counts = vec![0; self.buckets.len()];
        for (part, times) in self.parts.iter().zip(times).filter(|(_, times)| **times > 0) {
            counts.iter_mut().zip(part).for_each(|(sum, count)| *sum += count * times);
        }
        let mut values = [0.0; QUANTILES.len()];
        for (value, (q, _)) in values.iter_mut().zip(QUANTILES) {
            *value = middle(self.buckets[quantile(&counts, q)?]);
        }
        Some(values)
    }
}

/// How many times as much the quantiles of `v1` are as those of `v2`.
pub(super) fn ratios(v1: &Quantiles, v2: &Quantiles) -> [Option<Estimate>; QUANTILES.len()] {
    let mut ratios = [None; QUANTILES.len()];
    for (n, (_, enough)) in QUANTILES.into_iter().enumerate() {
        let (Some(one), Some(other)) = (v1.estimates[n], v2.estimates[n]) else { continue };
        if other.value <= 0.0 {
            continue;
        }
        let draws = v1.draws.iter().zip(&v2.draws).map(|(one, other)| one[n] / other[n]);
        let trusted = v1.count.min(v2.count) >= enough;
        let parts = v1.parts.min(v2.parts);
        let bounds = trusted.then(|| bounds(draws.collect(), parts)).flatten();
        let error = (1.0 + RELATIVE_ERROR) / (1.0 - RELATIVE_ERROR);
        let bounds = bounds.map(|(low, high)| (low / error, high * error));
        let bounds = bounds.filter(|(low, high)| low.is_finite() && high.is_finite());
        ratios[n] = Some(Estimate::new(one.value / other.value, bounds));
    }
    ratios
}

/// Between which two values 95 % lie, as far as draws from so many parts can tell.
fn bounds(mut draws: Vec<f64>, parts: usize) -> Option<(f64, f64)> {
    let tail = *TAILS.get(parts.checked_sub(MIN_PARTS)?)?;
    draws.sort_by(f64::total_cmp);
    let last = draws.len().checked_sub(1)?;
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "there are DRAWS at most"
    )]
    let low = (last as f64 * tail).floor() as usize;
    Some((draws[low], draws[last - low]))
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

    use super::*;

    fn bucket(value: f64) -> i16 {
        (value.ln() / 1.02_f64.ln()).ceil() as i16
    }

    fn normal(rng: &mut StdRng) -> f64 {
        let (one, other): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
        (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos()
    }

    /// Starts of images that differ, some of which start much more often than others; their median is
    /// `median` by construction.
    fn fleet(rng: &mut StdRng, images: usize, median: f64) -> Vec<Sketch> {
        let mut parts = vec![Sketch::default(); PARTS];
        for _ in 0..images {
            let (part, own) = (rng.random_range(0..PARTS), 0.6 * normal(rng));
            for _ in 0..rng.random_range(1..40) {
                parts[part].add(bucket(median * (own + 0.2 * normal(rng)).exp()), 1);
            }
        }
        parts
    }

    /// The interval holds the true value about as often as it says, though starts of one image are alike.
    #[test]
    fn intervals_cover_what_they_should() {
        let mut rng = StdRng::seed_from_u64(5);
        let (runs, mut medians, mut compared) = (200, 0, 0);
        for _ in 0..runs {
            let [v1, v2] = [(1, 6.0), (2, 2.0)].map(|(series, median)| {
                Sample::new(&fleet(&mut rng, 150, median)).quantiles(series)
            });
            let holds = |estimate: Option<Estimate>, value: f64| {
                let estimate = estimate.unwrap();
                usize::from(estimate.low.unwrap() <= value && value <= estimate.high.unwrap())
            };
            medians += holds(v1.estimates[0], 6.0);
            compared += holds(ratios(&v1, &v2)[0], 3.0);
        }
        for (name, held) in [("median", medians), ("ratio", compared)] {
            // 190 are expected; 178 is four standard deviations less.
            assert!((178..200).contains(&held), "{name}: {held} of {runs}");
        }
    }

    #[test]
    fn the_same_counts_give_the_same_answer_and_few_give_no_interval() {
        let parts = fleet(&mut StdRng::seed_from_u64(6), 100, 3.0);
        let twice = [(); 2].map(|()| Sample::new(&parts).quantiles(1).estimates);
        assert_eq!(twice[0], twice[1]);
        assert!(twice[0].iter().all(|estimate| estimate.unwrap().low.is_some()));
        // As many starts, of one image.
        let mut one = vec![Sketch::default(); PARTS];
        one[3].add(bucket(2.0), 5000);
        let one = Sample::new(&one).quantiles(1);
        let median = one.estimates[0].unwrap();
        assert!((median.value - 2.0).abs() < 0.04 && median.low.is_none(), "{median:?}");
        assert!(ratios(&one, &one)[0].unwrap().low.is_none());
        let none = Sample::new(&vec![Sketch::default(); PARTS]).quantiles(1);
        assert_eq!((none.estimates, ratios(&none, &one)), ([None; 2], [None; 2]));
    }
}
