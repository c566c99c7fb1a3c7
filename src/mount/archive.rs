//! An archive as a mount takes it: of its index, the tree that the kernel is shown.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::tree::FileTree;
use crate::clip::ClipError;
use crate::clip::header::Header;
use crate::clip::reader::{Archive, RawParts};
use crate::clip::storage_info::StorageInfo;
use crate::content::SpanCache;
use crate::digest::Digest;

/// An archive that was opened to be mounted.
#[derive(Debug)]
pub struct MountArchive {
    /// Where its parts are.
    pub header: Header,
    /// Where the content lives.
    pub storage: StorageInfo,
    /// The files.
    pub tree: FileTree,
}

impl From<Archive> for MountArchive {
    fn from(Archive { header, tree, storage }: Archive) -> Self {
        Self { header, storage, tree: FileTree::new(tree) }
    }
}

impl MountArchive {
    /// Opens an archive file. Its tree is taken from the cache if it was mounted before, and kept there. Blocks.
    pub fn open(file: &Path, cache: Option<&SpanCache>) -> Result<Self, ClipError> {
        let RawParts { header, index, storage, .. } = RawParts::open(file)?;
        let Some(cache) = cache else {
            return Ok(Archive::decode(header, &index, storage.as_deref())?.into());
        };
        let key = tree_key(&index, storage.as_deref());
        if let Some(tree) = cache.tree(&key).and_then(FileTree::read) {
            let storage = match storage {
                Some(storage) => StorageInfo::decode(&storage)?,
                None => StorageInfo::Local,
            };
            return Ok(Self { header, storage, tree });
        }
        let archive = Self::from(Archive::decode(header, &index, storage.as_deref())?);
        cache.put_tree(&key, archive.tree.written_length(), |out| archive.tree.write(out));
        Ok(archive)
    }
}

/// A digest of all that a tree follows from.
fn tree_key(index: &[u8], storage: Option<&[u8]>) -> Digest {
    let mut hasher = Sha256::new();
    hasher.update(b"clipwright tree\0");
    hasher.update((index.len() as u64).to_le_bytes());
    hasher.update(index);
    hasher.update(storage.unwrap_or_default());
    Digest::from_hasher(hasher)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::mount::tree::Ino;

    fn golden() -> PathBuf {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let is_archive = |path: &PathBuf| path.extension().is_some_and(|end| end == "clip");
        let paths = fs::read_dir(fixtures).unwrap().map(|entry| entry.unwrap().path());
        paths.filter(is_archive).min().unwrap()
    }

    fn names(archive: &MountArchive) -> Vec<Vec<u8>> {
        let entries = archive.tree.entries(Ino::ROOT, 0).unwrap();
        entries.map(|(name, _)| name.to_vec()).collect()
    }

    /// Found in the cache, and not found there, and found torn.
    #[test]
    fn an_archive_is_the_same_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = golden();
        let alone = MountArchive::open(&file, None).unwrap();
        assert!(!names(&alone).is_empty());
        for torn in [false, true] {
            for _ in 0..2 {
                let cache = SpanCache::open(dir.path(), 1 << 30);
                let archive = MountArchive::open(&file, Some(&cache)).unwrap();
                assert_eq!(names(&archive), names(&alone));
                assert_eq!((&archive.storage, &archive.header), (&alone.storage, &alone.header));
            }
            let trees = dir.path().join("v1/trees");
            let kept = fs::read_dir(trees).unwrap().map(|entry| entry.unwrap().path());
            let kept: Vec<_> = kept.flat_map(|path| fs::read_dir(path).unwrap()).collect();
            assert_eq!(kept.len(), 1);
            if !torn {
                let path = kept[0].as_ref().unwrap().path();
                let mut bytes = fs::read(&path).unwrap();
                bytes[100] ^= 1;
                fs::write(path, bytes).unwrap();
            }
        }
    }
}
