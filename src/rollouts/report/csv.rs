//! A report as a table (RFC 4180): one line a figure, so that whatever reads tables can choose among them.

use super::{Distribution, Estimate, Outcomes, Report, Tries};

const HEAD: &str = "what,version,figure,value,low,high\r\n";

impl Report {
    /// As CSV, `low` and `high` empty where there are too few data.
    pub fn to_csv(&self) -> String {
        let mut table = Table(HEAD.to_owned());
        for (what, outcomes) in [("jobs", &self.jobs), ("starts", &self.starts)] {
            table.outcomes(what, outcomes);
        }
        for comparison in &self.measures {
            let what = comparison.measure.as_str();
            table.distribution(what, "v1", &comparison.v1);
            table.distribution(what, "v2", &comparison.v2);
            table.estimate(what, "v1/v2", "median", comparison.ratio.median);
            table.estimate(what, "v1/v2", "p95", comparison.ratio.p95);
        }
        for sentence in &self.verdict {
            table.line(&format!("verdict,,{},,,", quoted(sentence)));
        }
        table.0
    }
}

/// Our own sentences have commas.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

struct Table(String);

impl Table {
    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push_str("\r\n");
    }

    fn count(&mut self, what: &str, version: &str, figure: &str, count: u64) {
        self.line(&format!("{what},{version},{figure},{count},,"));
    }

    fn estimate(&mut self, what: &str, version: &str, figure: &str, estimate: Option<Estimate>) {
        let Some(Estimate { value, low, high }) = estimate else { return };
        let text = |bound: Option<f64>| bound.map_or_else(String::new, |bound| bound.to_string());
        let (low, high) = (text(low), text(high));
        self.line(&format!("{what},{version},{figure},{value},{low},{high}"));
    }

    fn outcomes(&mut self, what: &str, outcomes: &Outcomes) {
        for (version, tries) in [("v1", &outcomes.v1), ("v2", &outcomes.v2)] {
            let Tries { count, succeeded, failed, refused, cancelled, fell_back, .. } = *tries;
            for (figure, count) in [
                ("count", count),
                ("succeeded", succeeded),
                ("failed", failed),
                ("refused", refused),
                ("cancelled", cancelled),
                ("fell_back", fell_back),
            ] {
                self.count(what, version, figure, count);
            }
            self.estimate(what, version, "failure_rate", tries.failure_rate);
            self.estimate(what, version, "fallback_rate", tries.fallback_rate);
        }
        self.estimate(what, "v2-v1", "failure_rate", outcomes.more_failures);
    }

    fn distribution(&mut self, what: &str, version: &str, distribution: &Distribution) {
        self.count(what, version, "count", distribution.count);
        self.estimate(what, version, "median", distribution.median);
        self.estimate(what, version, "p95", distribution.p95);
    }
}
