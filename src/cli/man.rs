//! `clipwright man`: writes a manual page for each command.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory};

/// Write a manual page for each command into a directory.
#[derive(Debug, Args)]
pub(super) struct ManPages {
    /// Where to; it must be there
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

impl ManPages {
    pub(super) fn run<C: CommandFactory>(self) -> anyhow::Result<()> {
        clap_mangen::generate_to(C::command(), &self.directory)
            .with_context(|| format!("can't write into {}", self.directory.display()))
    }
}
