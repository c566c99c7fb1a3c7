//! `clipwright unmount`: the end of a mount.

use std::path::PathBuf;

use clap::Args;

use crate::mount::points;

/// Unmount an archive; whoever serves it ends.
#[derive(Debug, Args)]
pub(super) struct Unmount {
    /// Where it is mounted
    mountpoint: PathBuf,
    /// Take it away though it is in use: who has something open there may finish
    #[arg(long)]
    lazy: bool,
}

impl Unmount {
    pub(super) fn run(self) -> anyhow::Result<()> {
        Ok(points::unmount(&self.mountpoint, self.lazy)?)
    }
}
