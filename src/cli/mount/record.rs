//! Options for what a mount writes of itself, and for what earlier ones have written.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use crate::clip::atomic;
use crate::mount::MountHandle;
use crate::trace::Trace;

/// What a mount writes, and which traces it is given.
#[derive(Debug, Args)]
pub(super) struct RecordArgs {
    /// Write what was done, as JSON, when the mount ends and on SIGUSR1
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Fetch what this trace says ahead of its readers (may be repeated; the traces of several starts are merged)
    #[arg(long = "trace", value_name = "FILE")]
    traces: Vec<PathBuf>,
    /// Write a trace of what the start reads, when the mount ends and on SIGUSR1
    #[arg(long, value_name = "FILE")]
    trace_out: Option<PathBuf>,
}

impl RecordArgs {
    /// Makes the paths independent of where this process is.
    pub(super) fn make_absolute(&mut self) -> anyhow::Result<()> {
        for path in [&mut self.report, &mut self.trace_out].into_iter().flatten() {
            *path = std::path::absolute(&*path)?;
        }
        Ok(())
    }

    /// The traces that were given, as one.
    pub(super) fn trace(&self) -> anyhow::Result<Option<Trace>> {
        let mut merged: Option<Trace> = None;
        for file in &self.traces {
            let name = file.display();
            let text = std::fs::read(file).with_context(|| format!("can't read {name}"))?;
            let trace = Trace::parse(&text).with_context(|| name.to_string())?;
            match &mut merged {
                Some(merged) => merged.merge(&trace),
                None => merged = Some(trace),
            }
        }
        Ok(merged)
    }

    /// Whether to note what is read.
    pub(super) fn notes(&self) -> bool {
        self.trace_out.is_some()
    }

    /// Writes what is to be written of a mount.
    pub(super) fn write(&self, handle: &MountHandle) -> anyhow::Result<()> {
        if let Some(file) = &self.report {
            write(file, &serde_json::to_string(&handle.report())?)?;
        }
        if let Some(file) = &self.trace_out {
            write(file, &handle.trace().to_json())?;
        }
        Ok(())
    }
}

fn write(file: &Path, line: &str) -> anyhow::Result<()> {
    let written = atomic::write(file, format!("{line}\n").as_bytes());
    written.with_context(|| format!("can't write {}", file.display()))
}
