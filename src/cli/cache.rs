//! Options for commands that keep layer indexes for the next time.

use std::path::PathBuf;

use clap::Args;

use crate::archive::LayerCache;

/// What was learnt of layers is kept under `$XDG_CACHE_HOME/clipwright`, or `~/.cache/clipwright`.
#[derive(Debug, Args)]
pub(super) struct CacheArgs {
    /// Read every layer, and keep nothing of it for the next time
    #[arg(long)]
    no_cache: bool,
    /// MiB that layer indexes may take in the user's cache directory; those used longest ago go first
    #[arg(long, value_name = "MIB", env = "CLIPWRIGHT_CACHE_MIB", default_value_t = 1024)]
    cache_mib: u32,
}

impl CacheArgs {
    /// The user's cache; `None` if it isn't wanted, or nobody knows where it could be.
    pub(super) fn open(&self) -> Option<LayerCache> {
        if self.no_cache || self.cache_mib == 0 {
            return None;
        }
        // The XDG base directory specification says to ignore relative paths.
        let base = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let caches = base("XDG_CACHE_HOME").or_else(|| Some(base("HOME")?.join(".cache")))?;
        let directory = caches.join("clipwright/layer-index");
        Some(LayerCache::default().with_local(directory, u64::from(self.cache_mib) << 20))
    }
}
