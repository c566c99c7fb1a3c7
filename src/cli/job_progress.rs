//! What happens to a job that the service does: a bar on a terminal, a line an event elsewhere.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use super::admin::Output;

/// Shows a job's events on standard error.
pub(super) struct JobProgress {
    /// Absent where nobody looks.
    bar: Option<ProgressBar>,
}

impl JobProgress {
    /// Without a bar for those who want JSON.
    pub(super) fn on_stderr(json: bool) -> Self {
        let bar = (!json && std::io::stderr().is_terminal()).then(ProgressBar::hidden);
        Self { bar }
    }

    /// Shows one thing that happened.
    pub(super) fn show(&self, event: &Value, output: &Output) {
        let Some(bar) = &self.bar else { return eprintln!("{}", output.event(event)) };
        if event["event"] != "progress" {
            return bar.suspend(|| eprintln!("{}", output.event(event)));
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

impl Drop for JobProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
