//! What happens to a job that the service does: a bar on a terminal, a line an event elsewhere; of a build, what
//! it says.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use super::admin::Output;
use super::follow::Lines;

/// Shows a job's events, or its log, on standard error.
pub(super) struct JobProgress<'a> {
    output: &'a Output,
    lines: Lines,
    /// Absent where nobody looks.
    bar: Option<ProgressBar>,
}

impl<'a> JobProgress<'a> {
    /// Without a bar for those who want JSON.
    pub(super) fn on_stderr(output: &'a Output, lines: Lines) -> Self {
        let has_bar = matches!(lines, Lines::Events) && !output.json;
        let bar = (has_bar && std::io::stderr().is_terminal()).then(ProgressBar::hidden);
        Self { output, lines, bar }
    }

    /// Shows one thing that happened.
    pub(super) fn show(&self, event: &Value) {
        let say = || eprintln!("{}", self.lines.text(event, self.output));
        let Some(bar) = &self.bar else { return say() };
        if event["event"] != "progress" {
            return bar.suspend(say);
        }
        let number = |field: &str| event["data"][field].as_u64().unwrap_or_default();
        if bar.length().is_none() {
            let style = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg}";
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style);
            }
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        bar.set_length(number("bytes_total"));
        bar.set_position(number("bytes_done"));
        bar.set_message(format!("{} of {} layers", number("layers_done"), number("layers_total")));
    }
}

impl Drop for JobProgress<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
