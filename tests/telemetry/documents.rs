//! `docs/metrics.md` says what the catalogue says.

use std::collections::BTreeSet;
use std::path::Path;

use clipwright::telemetry::catalogue::CATALOGUE;

#[test]
fn every_metric_is_documented_as_it_is() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let page = std::fs::read_to_string(page).unwrap();
    // Rows of six columns are of metrics.
    let found: BTreeSet<&str> = page
        .lines()
        .filter(|line| line.matches(" |").count() == 6 && line.contains("`clip"))
        .collect();
    let rows: BTreeSet<String> = CATALOGUE
        .iter()
        .map(|metric| {
            let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            format!(
                "| `{}` | {} | {} | {} | {} | {} |",
                metric.name,
                metric.kind.as_str(),
                metric.unit.as_str(),
                labels.join(", "),
                metric.place.as_str(),
                metric.help,
            )
        })
        .collect();
    let rows: BTreeSet<&str> = rows.iter().map(String::as_str).collect();
    let missing: Vec<_> = rows.difference(&found).collect();
    let unknown: Vec<_> = found.difference(&rows).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "missing: {missing:#?}\nnot so: {unknown:#?}"
    );
}
