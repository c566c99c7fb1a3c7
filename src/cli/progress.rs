//! Progress on standard error: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::progress::{Progress, Step};

/// Plain lines are at least this far apart.
const EVERY: Duration = Duration::from_secs(5);

/// The progress of one command.
pub(super) fn on_stderr() -> std::sync::Arc<dyn Progress> {
    if std::io::stderr().is_terminal() {
        std::sync::Arc::new(Bar(ProgressBar::hidden()))
    } else {
        std::sync::Arc::new(Lines(Mutex::new(Counts::default())))
    }
}

struct Bar(ProgressBar);

impl Progress for Bar {
    fn step(&self, step: Step) {
        match step {
            Step::Resolved { layers, compressed_bytes, .. } => {
                let style = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg}";
                if let Ok(style) = ProgressStyle::with_template(style) {
                    self.0.set_style(style);
                }
                self.0.set_length(compressed_bytes);
                self.0.set_message(format!("{layers} layers"));
                self.0.set_draw_target(indicatif::ProgressDrawTarget::stderr());
            }
            Step::LayerBytes { bytes, .. } => self.0.inc(bytes),
            Step::LayerDone { compressed_bytes, cached: true, .. } => self.0.inc(compressed_bytes),
            Step::LayerDone { .. } | Step::Waiting { .. } | Step::Inflated { .. } => {}
            Step::Warning(text) => self.0.suspend(|| eprintln!("warning: {text}")),
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

struct Lines(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    layers: usize,
    layers_done: usize,
    bytes: u64,
    bytes_done: u64,
    last: Option<Instant>,
}

impl Progress for Lines {
    fn step(&self, step: Step) {
        // A poisoned lock only means that another thread's line was cut short.
        let mut counts = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match step {
            Step::Resolved { manifest, layers, compressed_bytes } => {
                (counts.layers, counts.bytes) = (layers, compressed_bytes);
                counts.last = Some(Instant::now());
                eprintln!("found {manifest}: {layers} layers, {}", HumanBytes(compressed_bytes));
            }
            Step::LayerBytes { bytes, .. } => counts.bytes_done += bytes,
            Step::LayerDone { compressed_bytes, cached, .. } => {
                counts.layers_done += 1;
                counts.bytes_done += if cached { compressed_bytes } else { 0 };
            }
            Step::Warning(text) => eprintln!("warning: {text}"),
            Step::Waiting { .. } | Step::Inflated { .. } => {}
        }
        if counts.last.is_some_and(|last| last.elapsed() >= EVERY) {
            counts.last = Some(Instant::now());
            let (done, all) = (HumanBytes(counts.bytes_done), HumanBytes(counts.bytes));
            eprintln!("read {done} of {all}, {}/{} layers", counts.layers_done, counts.layers);
        }
    }
}
