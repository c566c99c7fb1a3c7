//! Images on disk, packed into v1 archives in memory.

use std::io::{Cursor, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use clipwright::archive::{ArchiveError, PackOptions, PackedImage, pack_image};
use clipwright::clip::node::{FileContent, NodeKind};
use clipwright::clip::reader::Archive;
use clipwright::oci::{ImageSource, OciSettings, Platform, ResolvedImage, Source};
use clipwright::progress::Silent;
use tokio_util::sync::CancellationToken;

/// An image in an OCI layout.
pub(crate) struct Image {
    pub(crate) source: Source,
    pub(crate) image: ResolvedImage,
}

/// A v1 archive, whole.
pub(crate) struct V1 {
    pub(crate) bytes: Vec<u8>,
    pub(crate) packed: PackedImage,
}

impl Image {
    pub(crate) async fn open(layout: &Path) -> Self {
        let (dir, tag, published_as) = (layout.to_owned(), Some("latest".to_owned()), None);
        let source = ImageSource::Layout { dir, tag, published_as };
        let source = Source::open(&source, &OciSettings::default(), None).await.unwrap();
        let image = source.resolve(&Platform::host(), &CancellationToken::new()).await.unwrap();
        Self { source, image }
    }

    pub(crate) async fn pack(&self, options: &PackOptions) -> Result<V1, ArchiveError> {
        let memory = Memory::default();
        let (sink, never) = (Box::new(memory.clone()), CancellationToken::new());
        let packed =
            pack_image(&self.source, &self.image, options, sink, Arc::new(Silent), &never).await?;
        let mut bytes = std::mem::take(&mut *memory.0.lock().unwrap());
        assert_eq!(bytes.len() as u64, packed.size);
        bytes[..packed.head.len()].copy_from_slice(&packed.head);
        Ok(V1 { bytes, packed })
    }
}

impl V1 {
    /// The content of the file at a path.
    pub(crate) fn file(&self, path: &str) -> &[u8] {
        let archive = self.archive();
        let node = archive.tree.resolve(path.as_bytes()).unwrap();
        let NodeKind::File(content) = &node.kind else { panic!("{node:?}") };
        self.content(content)
    }

    /// What a reader finds in it.
    pub(crate) fn archive(&self) -> Archive {
        Archive::read(&mut Cursor::new(&self.bytes)).unwrap()
    }

    /// A file's content.
    pub(crate) fn content(&self, content: &FileContent) -> &[u8] {
        let FileContent::Embedded { offset, length, .. } = content else { panic!("{content:?}") };
        let start = usize::try_from(*offset).unwrap();
        &self.bytes[start..start + usize::try_from(*length).unwrap()]
    }
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
