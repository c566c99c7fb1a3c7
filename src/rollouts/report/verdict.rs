//! A report in words.

use super::{Comparison, Estimate, Measure, Outcomes};

/// Whether there is enough to compare what matters most, and what it comes to.
pub(super) fn of(
    jobs: &Outcomes,
    starts: &Outcomes,
    measures: &[Comparison],
) -> (bool, Vec<String>) {
    let mut words = vec![failures("pulls", jobs), failures("starts", starts)];
    let mut cold_is_known = false;
    for comparison in measures {
        let (what, better, worse) = match comparison.measure {
            Measure::ColdStartSeconds => ("cold starts", "starts", "starts"),
            Measure::FirstExecMs => ("first reads", "reads first", "reads first"),
            Measure::PullSeconds => ("pulls", "is pulled", "is pulled"),
            _ => continue,
        };
        let speed = speed(what, better, worse, comparison);
        cold_is_known |= comparison.measure == Measure::ColdStartSeconds && speed.is_ok();
        words.push(speed.unwrap_or_else(|few| few));
    }
    (jobs.more_failures.is_some() && cold_is_known, words)
}

fn failures(what: &str, outcomes: &Outcomes) -> String {
    let Outcomes { v1, v2, more_failures } = outcomes;
    let Some((low, high)) = more_failures.and_then(Estimate::bounds) else {
        let ended = |tries: &super::Tries| tries.succeeded + tries.failed;
        return format!(
            "too few {what} to compare failures: {} of v1 and {} of v2, 20 of each are needed",
            ended(v1),
            ended(v2)
        );
    };
    let points = |rate: f64| format!("{:.1}", rate * 100.0);
    if low > 0.0 {
        let (low, high) = (points(low), points(high));
        format!("more {what} of v2 fail than of v1, by {low} to {high} percentage points")
    } else if high < 0.0 {
        let (low, high) = (points(-high), points(-low));
        format!("fewer {what} of v2 fail than of v1, by {low} to {high} percentage points")
    } else {
        let high = points(high);
        format!("no more {what} of v2 fail than of v1, within {high} percentage points")
    }
}

/// `Err`: there are too few.
fn speed(what: &str, better: &str, worse: &str, comparison: &Comparison) -> Result<String, String> {
    let Some((low, high)) = comparison.ratio.median.and_then(Estimate::bounds) else {
        return Err(format!(
            "too few {what} to compare: {} of v1 and {} of v2, 30 of each are needed, of a dozen images or \
             more",
            comparison.v1.count, comparison.v2.count
        ));
    };
    Ok(if low > 1.0 {
        format!("v2 {better} {low:.1} to {high:.1} times as fast as v1 (median of {what})")
    } else if high < 1.0 {
        let (low, high) = (1.0 / high, 1.0 / low);
        format!("v2 {worse} {low:.1} to {high:.1} times as slowly as v1 (median of {what})")
    } else {
        format!(
            "no difference is seen in {what}: v2 is {low:.2} to {high:.2} times as fast as v1 (median)"
        )
    })
}
