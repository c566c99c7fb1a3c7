//! What the answers of a mount take: the tree, the content, and what is known of those who read.

use std::io;
use std::ops::Range;
use std::time::Duration;

use super::content::MountContent;
use super::large_files::LargeFiles;
use super::sequence::Sequences;
use super::tree::{FileTree, Ino};
use crate::content::ContentError;
use crate::local::io_error;

/// What answers take.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) tree: FileTree,
    pub(super) content: MountContent,
    /// The archive, for people.
    pub(super) name: String,
    pub(super) sequences: Sequences,
    /// `None`: every file is read through us.
    pub(super) large: Option<LargeFiles>,
}

impl Shared {
    /// The bytes of a file in `range`, which is within its size, if they come within `patience`.
    pub(super) async fn read(
        &self,
        ino: Ino,
        range: Range<u64>,
        patience: Duration,
    ) -> Result<Vec<u8>, ContentError> {
        let reading = self.content.read(&self.tree, ino, range);
        if let Ok(read) = tokio::time::timeout(patience, reading).await {
            return read;
        }
        let what = format!("nothing came for {} s", patience.as_secs());
        Err(io_error(what)(io::ErrorKind::TimedOut.into()).into())
    }
}
