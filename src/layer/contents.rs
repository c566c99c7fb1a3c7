//! Who takes the content of files as a layer goes by, so that one pass both indexes a layer and
//! brings its content to wherever that is wanted.

use std::io;

use crate::clip::node::NodePath;

/// Takes the content of regular files, in the order of the tar.
///
/// Nothing of it is verified before the layer was read to its end: only then may what was made of
/// it be used. An error ends the reading.
pub trait Contents {
    /// A file begins, at `offset` of the uncompressed stream: `true` if its `length` bytes are
    /// wanted. Then [`Self::bytes`] is called until all have come, and [`Self::end`] after that;
    /// otherwise neither is.
    fn begin(&mut self, path: &NodePath, offset: u64, length: u64) -> io::Result<bool>;

    /// The next bytes of the file.
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// The file is complete.
    fn end(&mut self) -> io::Result<()>;
}

/// Wants nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoContents;

impl Contents for NoContents {
    fn begin(&mut self, _path: &NodePath, _offset: u64, _length: u64) -> io::Result<bool> {
        Ok(false)
    }

    fn bytes(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}
