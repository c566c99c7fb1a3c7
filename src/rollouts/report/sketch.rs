//! What was measured, as counts in buckets that grow by the same factor, as DDSketch has them: C. Masson,
//! J. E. Rim, H. K. Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
//! guarantees", PVLDB 12 (2019). Which bucket a value is in is said in the schema (`rollout_bucket`).

use std::collections::BTreeMap;

/// Each bucket ends so many times as high as the one before.
const GROWTH: f64 = 1.02;
/// The bucket of zeros.
const ZERO: i16 = i16::MIN;
/// How far what is told of a value is from it at most, as a part of it.
pub(super) const RELATIVE_ERROR: f64 = (GROWTH - 1.0) / (GROWTH + 1.0);

/// How many values were in each bucket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Sketch(BTreeMap<i16, u64>);

impl Sketch {
    /// So many more values in a bucket.
    pub(super) fn add(&mut self, bucket: i16, count: u64) {
        *self.0.entry(bucket).or_default() += count;
    }

    /// How many values.
    pub(super) fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The buckets that there are.
    pub(super) fn buckets(&self) -> impl Iterator<Item = i16> + '_ {
        self.0.keys().copied()
    }

    /// How many values are in a bucket.
    pub(super) fn of(&self, bucket: i16) -> u64 {
        self.0.get(&bucket).copied().unwrap_or_default()
    }
}

/// What a bucket stands for: no value in it is further away than [`RELATIVE_ERROR`].
pub(super) fn middle(bucket: i16) -> f64 {
    if bucket == ZERO { 0.0 } else { 2.0 * GROWTH.powi(bucket.into()) / (GROWTH + 1.0) }
}

/// Where the smallest value is that at least the share `q` of all does not exceed, as the place among
/// `counts`, which are those of buckets in their order.
pub(super) fn quantile(counts: &[u64], q: f64) -> Option<usize> {
    let all: u64 = counts.iter().sum();
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts are far below 2^52, shares from 0 to 1"
    )]
    let rank = ((all as f64 * q).ceil() as u64).max(1);
    let mut seen = 0;
    counts.iter().position(|count| {
        seen += count;
        seen >= rank
    })
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

    use super::*;

    /// As the schema has it; a test against the database is with the service.
    fn bucket(value: f64) -> i16 {
        if value <= 1e-9 { ZERO } else { (value.ln() / GROWTH.ln()).ceil() as i16 }
    }

    proptest! {
        #[test]
        fn quantiles_are_within_the_error_of_the_exact_ones(values in prop::collection::vec(0_u64..10_000_000, 1..300), q in 0.0..1.0_f64) {
            let mut values: Vec<f64> = values.into_iter().map(|value| value as f64 / 1000.0).collect();
            let mut sketch = Sketch::default();
            values.iter().for_each(|value| sketch.add(bucket(*value), 1));
            let buckets: Vec<i16> = sketch.buckets().collect();
            let counts: Vec<u64> = buckets.iter().map(|bucket| sketch.of(*bucket)).collect();
            let found = middle(buckets[quantile(&counts, q).unwrap()]);
            values.sort_by(f64::total_cmp);
            let rank = ((values.len() as f64 * q).ceil() as usize).max(1);
            let exact = values[rank - 1];
            prop_assert!((found - exact).abs() <= exact * RELATIVE_ERROR * 1.000_001, "{found} {exact}");
        }
    }

    #[test]
    fn nothing_has_no_quantile() {
        assert_eq!(
            (quantile(&[], 0.5), quantile(&[0, 0], 0.5), quantile(&[0, 1], 0.0)),
            (None, None, Some(1))
        );
        assert_eq!((middle(ZERO), middle(0)), (0.0, 2.0 / 2.02));
    }
}
