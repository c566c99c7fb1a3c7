//! Inode numbers of v2 archives (CONTRACT A.5): stable from build to build, and never one of those
//! that go-fuse keeps for itself.

use super::node::NodePath;
use crate::digest::Digest;

/// The root's number.
pub const ROOT: u64 = 1;

/// The numbers of what a layer brought: FNV-1a (64 bits) over its digest's text and the path.
#[derive(Debug, Clone, Copy)]
pub struct LayerNumbers {
    /// The hash of the digest's text.
    state: u64,
}

impl From<Digest> for LayerNumbers {
    fn from(layer: Digest) -> Self {
        Self { state: hash(EMPTY, &layer.text()) }
    }
}

impl LayerNumbers {
    /// The numbers of what the layer brought to a directory.
    pub fn below(self, directory: &NodePath) -> DirectoryNumbers {
        let state =
            if directory.is_root() { self.state } else { hash(self.state, directory.as_bytes()) };
        DirectoryNumbers { state: hash(state, b"/") }
    }
}

/// The numbers of what a layer brought to one directory.
#[derive(Debug, Clone, Copy)]
pub struct DirectoryNumbers {
    /// The hash of the digest's text and of the paths' beginning, the last slash included.
    state: u64,
}

impl DirectoryNumbers {
    /// The number of the inode that has this name there.
    pub fn of(self, name: &[u8]) -> u64 {
        valid(hash(self.state, name))
    }
}

/// The number to try when `number` is taken.
pub fn next(number: u64) -> u64 {
    valid(number.wrapping_add(1))
}

/// The hash of nothing.
const EMPTY: u64 = 0xcbf2_9ce4_8422_2325;

/// Goes on from the hash of what came before.
fn hash(before: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(before, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// 0 means "none", 1 is the root's, the largest is reserved by go-fuse.
fn valid(number: u64) -> u64 {
    match number {
        0 | 1 | u64::MAX => 2,
        number => number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_upstream() {
        assert_eq!(hash(EMPTY, b"sha256:aa/a"), 4_641_675_121_235_287_950);
    }

    #[test]
    fn directories_save_hashing_and_change_nothing() {
        let layer = Digest::of(b"layer");
        for (directory, name) in [("/", "a"), ("/a", "b"), ("/a/b", "c-d")] {
            let path = NodePath::new(directory.as_bytes()).unwrap();
            let whole = path.join(name.as_bytes()).unwrap();
            let text = [&layer.text()[..], whole.as_bytes()].concat();
            let number = LayerNumbers::from(layer).below(&path).of(name.as_bytes());
            assert_eq!(number, valid(hash(EMPTY, &text)), "{whole}");
        }
    }

    #[test]
    fn stays_clear_of_reserved_numbers() {
        assert_eq!([0, 1, 2, u64::MAX - 1, u64::MAX].map(valid), [2, 2, 2, u64::MAX - 1, 2]);
        assert_eq!(next(u64::MAX - 1), 2);
    }
}
