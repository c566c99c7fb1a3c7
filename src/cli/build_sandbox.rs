//! The process that a builder runs in, which the service and `clipwright build` start.

use clap::Args;

use crate::build::sandbox;

/// Run a program in a sandbox. What it is to be is read from standard input.
#[derive(Debug, Args)]
pub(super) struct BuildSandbox {
    /// The inner of its two stages
    #[arg(long)]
    inner: bool,
}

impl BuildSandbox {
    pub(super) fn run(self) -> anyhow::Result<()> {
        std::process::exit(sandbox::run(self.inner))
    }
}
