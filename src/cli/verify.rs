//! `clipwright verify`.

use clap::Args;

/// Check an archive.
#[derive(Debug, Args)]
pub(super) struct Verify {}
impl Verify {
    pub(super) fn run(self) -> anyhow::Result<()> {
        Ok(())
    }
}
