//! A tree as a file of the cache: the records as they lie in memory, one kind after the other. Who mounts the
//! same archive again maps it, and all mounts of the archive share the pages.
//!
//! ```text
//! "CWTREE01" | numbers of records, by kind, and of unreachable nodes (8 x u64) | inodes | entries | sets of extended
//! attributes | extended attributes | layers | SHA-256s | text
//! ```
//!
//! The numbers are in this machine's byte order: nobody else sees them. Whether the bytes are those that were
//! written is the cache's to see to.

use std::io::{self, Write};
use std::marker::PhantomData;
use std::ops::{Deref, Range};
use std::sync::Arc;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::FileTree;
use crate::content::span_cache::EntryMap;

const MAGIC: [u8; 8] = *b"CWTREE01";
/// Numbers that the file begins with.
const NUMBERS: usize = 8;
const HEADER: usize = MAGIC.len() + NUMBERS * 8;

/// Records of one kind: made in this process, or in a file.
pub(super) enum Records<T> {
    Own(Box<[T]>),
    Mapped { map: Arc<EntryMap>, bytes: Range<usize>, of: PhantomData<T> },
}

impl<T: FromBytes + Immutable> Deref for Records<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Own(records) => records,
            Self::Mapped { map, bytes, .. } => {
                let bytes = map.get(bytes.clone()).unwrap_or_default();
                <[T]>::ref_from_bytes(bytes).unwrap_or_default()
            }
        }
    }
}

impl<T> From<Vec<T>> for Records<T> {
    fn from(records: Vec<T>) -> Self {
        Self::Own(records.into())
    }
}

impl<T> std::fmt::Debug for Records<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Records")
    }
}

impl FileTree {
    /// Bytes that [`write`](Self::write) writes.
    pub(in crate::mount) fn written_length(&self) -> u64 {
        (HEADER + self.sections().iter().map(|section| section.len()).sum::<usize>()) as u64
    }

    /// Writes the tree.
    pub(in crate::mount) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let numbers: [u64; NUMBERS] = [
            self.inodes.len(),
            self.entries.len(),
            self.xattr_sets.len(),
            self.xattrs.len(),
            self.layers.len(),
            self.sha256s.len(),
            self.text.len(),
            self.unreachable,
        ]
        .map(|number| number as u64);
        out.write_all(&MAGIC)?;
        out.write_all(numbers.as_bytes())?;
        self.sections().iter().try_for_each(|section| out.write_all(section))
    }

    fn sections(&self) -> [&[u8]; NUMBERS - 1] {
        [
            self.inodes.as_bytes(),
            self.entries.as_bytes(),
            self.xattr_sets.as_bytes(),
            self.xattrs.as_bytes(),
            self.layers.as_bytes(),
            self.sha256s.as_bytes(),
            self.text.as_bytes(),
        ]
    }

    /// The tree that was written into what is mapped; `None` if it was written by a version that lays it out
    /// in another way.
    pub(in crate::mount) fn read(map: EntryMap) -> Option<Self> {
        let numbers = map.get(MAGIC.len()..HEADER)?;
        if map[..MAGIC.len()] != MAGIC {
            return None;
        }
        let mut next = HEADER;
        let mut counts = [0_usize; NUMBERS];
        for (count, bytes) in counts.iter_mut().zip(numbers.chunks_exact(8)) {
            *count = usize::try_from(u64::from_ne_bytes(bytes.try_into().ok()?)).ok()?;
        }
        let map = Arc::new(map);
        let [inodes, entries, xattr_sets, xattrs, layers, sha256s, text, unreachable] = counts;
        let tree = Self {
            inodes: section(&map, &mut next, inodes)?,
            entries: section(&map, &mut next, entries)?,
            xattr_sets: section(&map, &mut next, xattr_sets)?,
            xattrs: section(&map, &mut next, xattrs)?,
            layers: section(&map, &mut next, layers)?,
            sha256s: section(&map, &mut next, sha256s)?,
            text: section(&map, &mut next, text)?,
            unreachable,
        };
        (next == map.len() && inodes > 0).then_some(tree)
    }
}

/// The next `count` records of a file.
fn section<T>(map: &Arc<EntryMap>, next: &mut usize, count: usize) -> Option<Records<T>> {
    let end = next.checked_add(count.checked_mul(size_of::<T>())?)?;
    let bytes = *next..end;
    map.get(bytes.clone())?;
    *next = end;
    Some(Records::Mapped { map: map.clone(), bytes, of: PhantomData })
}
