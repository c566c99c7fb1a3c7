//! `clipwright mounts`: the archives that are mounted on this machine.

use clap::Args;
use serde_json::json;

use super::printable;
use super::say;
use crate::mount::points;

/// List the archives that are mounted on this machine.
#[derive(Debug, Args)]
pub(super) struct Mounts {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

impl Mounts {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mounts = points::mounts()?;
        if self.json {
            let mounts = mounts.iter().map(|mount| {
                let (point, archive) =
                    (mount.path.to_string_lossy(), mount.archive.to_string_lossy());
                json!({ "mountpoint": point, "archive": archive, "served": mount.served })
            });
            say!("{}", mounts.collect::<serde_json::Value>());
            return Ok(());
        }
        for mount in mounts {
            let state = if mount.served { "served" } else { "stale" };
            let text = |path: &std::path::Path| printable(path.as_os_str().as_encoded_bytes());
            say!("{state}  {}  {}", text(&mount.path), text(&mount.archive));
        }
        Ok(())
    }
}
