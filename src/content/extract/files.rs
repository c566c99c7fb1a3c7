//! Regular files as their content comes along, from a layer or from a v1 archive's data.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use super::plan::{InodeId, Plan, WantedFiles};
use super::target::{Target, Trail};
use crate::clip::node::{Node, NodePath};
use crate::content::ContentError;
use crate::digest::Digest;
use crate::layer::Contents;
use crate::local::io_error;

/// Makes one file after the other.
pub(super) struct Files {
    plan: Arc<Plan>,
    trail: Trail,
    /// The file in the making, and which inodes have its content.
    open: Option<(File, Vec<InodeId>)>,
}

impl Files {
    pub(super) fn new(plan: Arc<Plan>, target: Arc<Target>) -> Self {
        Self { plan, trail: Trail::new(target), open: None }
    }

    /// Begins a file; all `inodes`, of which there is at least one, get what comes.
    pub(super) fn begin(&mut self, inodes: Vec<InodeId>) -> Result<(), ContentError> {
        let file = self.trail.file(self.plan.first(inodes[0]))?;
        self.open = Some((file, inodes));
        Ok(())
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ContentError> {
        match &mut self.open {
            Some((file, inodes)) => {
                let node = self.plan.first(inodes[0]);
                Ok(file.write_all(bytes).map_err(io_error(format!("can't write {}", node.path)))?)
            }
            None => Ok(()),
        }
    }

    pub(super) fn end(&mut self) -> Result<(), ContentError> {
        let Some((mut file, inodes)) = self.open.take() else { return Ok(()) };
        let plan = self.plan.clone();
        for inode in &inodes[1..] {
            let node = plan.first(*inode);
            let mut copy = self.trail.file(node)?;
            file.rewind()
                .and_then(|()| io::copy(&mut file, &mut copy))
                .map_err(io_error(format!("can't write {}", node.path)))?;
            self.trail.finish_file(&copy, node)?;
        }
        self.trail.finish_file(&file, plan.first(inodes[0]))
    }

    /// Makes a file that has no content.
    pub(super) fn empty(&mut self, inode: InodeId) -> Result<(), ContentError> {
        self.begin(vec![inode])?;
        self.end()
    }
}

/// Makes the files whose content a layer has, as it goes by.
pub(super) struct LayerFiles {
    pub(super) files: Files,
    pub(super) layer: Digest,
    /// What has not come yet.
    pub(super) wanted: WantedFiles,
    pub(super) failure: Failure,
}

/// Why files could not be made, for whoever only learns that they could not.
#[derive(Debug, Clone, Default)]
pub(super) struct Failure(Arc<Mutex<Option<ContentError>>>);

impl Failure {
    pub(super) fn take(&self) -> Option<ContentError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn keep<T>(&self, result: Result<T, ContentError>) -> io::Result<T> {
        result.map_err(|error| {
            let told = io::Error::other(error.to_string());
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            told
        })
    }
}

impl LayerFiles {
    /// Everything that was wanted has come: otherwise the archive claims what the layer has not.
    pub(super) fn complete(&self) -> Result<(), ContentError> {
        match self.wanted.first_key_value() {
            None => Ok(()),
            Some((offset, inodes)) => {
                let node = self.files.plan.first(inodes[0]);
                let detail = format!("no file begins at {offset} of layer {}", self.layer);
                Err(ContentError::Claim { path: node.path.to_string(), detail })
            }
        }
    }
}

/// Whether a file of the layer is as long as the archive says of `node`.
fn fits(node: &Node, layer: Digest, offset: u64, length: u64) -> Result<(), ContentError> {
    if node.attr.size == length && node.content_length() == length {
        return Ok(());
    }
    let (path, claimed) = (node.path.to_string(), node.content_length());
    let detail = format!(
        "expected {claimed} bytes at {offset} of layer {layer} and a size of {}, found {length}",
        node.attr.size
    );
    Err(ContentError::Claim { path, detail })
}

impl Contents for LayerFiles {
    fn begin(&mut self, _path: &NodePath, offset: u64, length: u64) -> io::Result<bool> {
        let Some(inodes) = self.wanted.remove(&offset) else { return Ok(false) };
        let begun = inodes
            .iter()
            .try_for_each(|inode| fits(self.files.plan.first(*inode), self.layer, offset, length))
            .and_then(|()| self.files.begin(inodes));
        self.failure.keep(begun).map(|()| true)
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.files.write(bytes);
        self.failure.keep(written)
    }

    fn end(&mut self) -> io::Result<()> {
        let ended = self.files.end();
        self.failure.keep(ended)
    }
}
