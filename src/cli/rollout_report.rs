//! `clipwright rollout report`: v1 against v2, as a table for people.

use chrono::NaiveDate;
use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::{printable, run_async, say};

/// Which report, and how to print it.
#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// The rollout's name
    name: String,
    /// The first day (UTC), such as 2026-11-01
    #[arg(long, value_name = "DAY", value_parser = day)]
    since: Option<NaiveDate>,
    /// The last day (UTC), which is a part of it
    #[arg(long, value_name = "DAY", value_parser = day)]
    until: Option<NaiveDate>,
    /// Print CSV
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

fn day(text: &str) -> Result<NaiveDate, String> {
    text.parse().map_err(|_| "expected a day such as 2026-11-01".to_owned())
}

impl ReportArgs {
    /// The rollout's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Prints the report of the rollout at `path`: with `json` as the service answered.
    pub(super) fn run(&self, client: &Client, path: &str, json: bool) -> anyhow::Result<()> {
        if let (Some(since), Some(until)) = (self.since, self.until) {
            anyhow::ensure!(since <= until, "--since {since} is after --until {until}");
        }
        let format = if self.csv { "csv" } else { "json" };
        let mut path = format!("{path}/report?format={format}");
        for (name, day) in [("since", self.since), ("until", self.until)] {
            if let Some(day) = day {
                path = format!("{path}&{name}={day}");
            }
        }
        let text = run_async(async |cancel| Ok(client.text(&path, &cancel).await?))?;
        if self.csv {
            // Lines of CSV have their own ends.
            say!("{}", text.strip_suffix('\n').unwrap_or(&text));
        } else if json {
            say!("{text}");
        } else {
            print(&serde_json::from_str(&text)?);
        }
        Ok(())
    }
}

/// A value as people write it.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), |text| printable(text.as_bytes()))
}

/// How jobs end, in words and by name.
const COUNTS: [(&str, &str); 5] = [
    ("succeeded", "succeeded"),
    ("failed", "failed"),
    ("refused (the user's fault)", "refused"),
    ("cancelled or expired", "cancelled"),
    ("fell back to v1", "fell_back"),
];

fn print(report: &Value) {
    let state = shown(&report["state"]);
    let reason = report["reason"].as_str().map(|reason| printable(reason.as_bytes()));
    let reason = reason.map_or_else(String::new, |reason| format!(", {reason}"));
    say!("{}: {state}{reason}", shown(&report["rollout"]));
    line("", "v1", "v2", "");
    for what in ["jobs", "starts"] {
        let outcomes = &report[what];
        let of = |field: &str| (shown(&outcomes["v1"][field]), shown(&outcomes["v2"][field]));
        let (v1, v2) = of("count");
        line(what, &v1, &v2, "");
        for (name, field) in COUNTS {
            let (v1, v2) = of(field);
            if (v1.as_str(), v2.as_str()) != ("0", "0") {
                line(&format!("  {name}"), &v1, &v2, "");
            }
        }
        for (name, field) in
            [("  failure rate", "failure_rate"), ("  fallback rate", "fallback_rate")]
        {
            let rate = |version: &str| estimate(&outcomes[version][field], percent);
            line(name, &rate("v1"), &rate("v2"), "");
        }
    }
    for comparison in report["measures"].as_array().into_iter().flatten() {
        let of = |version: &str, field: &str| &comparison[version][field];
        if (of("v1", "count"), of("v2", "count")) == (&0.into(), &0.into()) {
            continue;
        }
        let (v1, v2) = (shown(of("v1", "count")), shown(of("v2", "count")));
        line(&shown(&comparison["measure"]), &v1, &v2, "v1/v2");
        for figure in ["median", "p95"] {
            let [v1, v2, ratio] =
                ["v1", "v2", "ratio"].map(|version| estimate(of(version, figure), number));
            line(&format!("  {figure}"), &v1, &v2, &ratio);
        }
    }
    say!("");
    for sentence in report["verdict"].as_array().into_iter().flatten() {
        say!("{}", shown(sentence));
    }
    for seen in report["guard"].as_array().into_iter().flatten() {
        let Some(threshold) = seen["threshold"].as_f64() else { continue };
        let evidence = seen["evidence"].as_f64().unwrap_or_default();
        say!(
            "guard of {}s: {} of {} images failed with v2, {} of {} with v1; evidence {}, rolls back at {}",
            shown(&seen["stage"]),
            shown(&seen["v2"]["failed"]),
            shown(&seen["v2"]["images"]),
            shown(&seen["v1"]["failed"]),
            shown(&seen["v1"]["images"]),
            number(evidence),
            number(threshold),
        );
    }
}

fn line(name: &str, v1: &str, v2: &str, ratio: &str) {
    let text = format!("{name:28} {v1:>26} {v2:>26} {ratio:>22}");
    // Lines of CSV have their own ends.
    say!("{}", text.strip_suffix('\n').unwrap_or(&text));
}

/// A figure and its interval, such as `3.2 (3.1 to 3.4)`; `-` if it was not measured.
fn estimate(estimate: &Value, written: fn(f64) -> String) -> String {
    let field = |name: &str| estimate[name].as_f64().map(written);
    match (field("value"), field("low"), field("high")) {
        (Some(value), Some(low), Some(high)) => format!("{value} ({low} to {high})"),
        (Some(value), ..) => value,
        _ => "-".to_owned(),
    }
}

fn percent(rate: f64) -> String {
    format!("{:.1} %", rate * 100.0)
}

/// With about three digits.
fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 1e5 {
        format!("{value:.2e}")
    } else if size >= 100.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 1.0 || size == 0.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn figures_are_short() {
        for (value, text) in [
            (0.0, "0.00"),
            (0.01234, "0.012"),
            (3.256, "3.26"),
            (31.26, "31.3"),
            (312.6, "313"),
            (3.0e9, "3.00e9"),
        ] {
            assert_eq!(number(value), text);
        }
        let whole = json!({ "value": 0.5, "low": 0.25, "high": 0.75 });
        assert_eq!(estimate(&whole, percent), "50.0 % (25.0 % to 75.0 %)");
        assert_eq!(estimate(&json!({ "value": 0.5 }), percent), "50.0 %");
        assert_eq!(estimate(&Value::Null, percent), "-");
    }
}
