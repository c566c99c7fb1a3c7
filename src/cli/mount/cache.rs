//! Options for where what is fetched is kept.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use crate::content::SpanCache;

/// What was fetched is kept under `$XDG_CACHE_HOME/clipwright`, or `~/.cache/clipwright`, for all
/// mounts of the user.
#[derive(Debug, Args)]
pub(in crate::cli) struct SpanCacheArgs {
    /// Directory for what was fetched, for all mounts that are given it; by default in the user's cache directory
    #[arg(long, value_name = "DIR", env = "CLIPWRIGHT_SPAN_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
    /// MiB that it may take; what was used longest ago goes first. With 0 nothing is kept
    #[arg(long, value_name = "MIB", env = "CLIPWRIGHT_SPAN_CACHE_MIB", default_value_t = 16_384)]
    cache_mib: u32,
}

impl SpanCacheArgs {
    /// The cache; `None` if it isn't wanted.
    pub(in crate::cli) fn open(&self) -> anyhow::Result<Option<SpanCache>> {
        if self.cache_mib == 0 {
            return Ok(None);
        }
        Ok(Some(SpanCache::open(&self.directory()?, u64::from(self.cache_mib) << 20)))
    }

    /// Where it is.
    pub(in crate::cli) fn directory(&self) -> anyhow::Result<PathBuf> {
        if let Some(directory) = &self.cache_dir {
            return Ok(std::path::absolute(directory)?);
        }
        // The XDG base directory specification says to ignore relative paths.
        let base = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let caches = base("XDG_CACHE_HOME").or_else(|| Some(base("HOME")?.join(".cache")));
        let caches = caches.context("there is no HOME to keep a cache in: give --cache-dir")?;
        Ok(caches.join("clipwright/spans"))
    }
}
