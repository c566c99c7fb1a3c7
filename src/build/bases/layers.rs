//! Layers of a base image on their way to this machine: each is written to a file, and indexed from the same
//! bytes as they come, so that whoever archives what is built on it need not read it again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, Read, Write as _};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio_util::sync::CancellationToken;

use crate::archive::{IndexOptions, keep_index};
use crate::build::BuildError;
use crate::build::export::ExportError;
use crate::digest::Digest;
use crate::fetch::FetchError;
use crate::fetch::download::with_layer;
use crate::layer::{LayerError, LayerRead, NoContents, read_layer};
use crate::local::io_error;
use crate::oci::{LayerDescriptor, ResolvedImage, Source};
use crate::progress::Progress;

/// Layers of an image that are fetched at a time.
const AT_ONCE: usize = 4;
/// What a directory of this kind says of itself.
const VERSION: &str = "Directory Transport Version: 1.1\n";

/// What layers are indexed for as they come, and who is told of it.
#[derive(Clone, Copy)]
pub(super) struct OnTheWay<'a> {
    pub(super) options: &'a IndexOptions,
    pub(super) progress: &'a Arc<dyn Progress>,
}

/// Writes an image as a directory of blobs, but for the layers that are `known`.
pub(super) async fn fetch_into(
    source: &Source,
    image: &ResolvedImage,
    directory: &Path,
    known: &[Digest],
    on_the_way: OnTheWay<'_>,
    cancel: &CancellationToken,
) -> Result<(), BuildError> {
    let failed = || io_error(format!("can't write {}", directory.display()));
    tokio::fs::create_dir_all(directory).await.map_err(failed())?;
    let config = Digest::of(&image.raw_config).hex();
    for (name, bytes) in [
        ("version", Bytes::from_static(VERSION.as_bytes())),
        ("manifest.json", image.raw_manifest.clone()),
        (&config, image.raw_config.clone()),
    ] {
        tokio::fs::write(directory.join(name), bytes).await.map_err(failed())?;
    }
    let layers: BTreeMap<Digest, (&LayerDescriptor, Digest)> = image
        .layers
        .iter()
        .zip(&image.diff_ids)
        .map(|(layer, diff_id)| (layer.digest, (layer, *diff_id)))
        .collect();
    let missing = layers
        .into_iter()
        .filter(|(digest, _)| !known.contains(digest) && !directory.join(digest.hex()).exists());
    let fetches: Vec<_> = missing
        .map(|(_, layer)| fetch_layer(source, layer, directory, on_the_way, cancel))
        .collect();
    stream::iter(fetches).buffer_unordered(AT_ONCE).try_collect::<()>().await
}

async fn fetch_layer(
    source: &Source,
    (descriptor, diff_id): (&LayerDescriptor, Digest),
    directory: &Path,
    on_the_way: OnTheWay<'_>,
    cancel: &CancellationToken,
) -> Result<(), BuildError> {
    let OnTheWay { options, progress } = on_the_way;
    let LayerDescriptor { digest, size, .. } = *descriptor;
    let failed = || io_error(format!("can't write {}", directory.display()));
    let part = directory.join(format!("{}.part", digest.hex()));
    let file = File::create(&part).map_err(failed())?;
    let read = LayerRead { digest, limits: options.limits, span: options.span };
    // What the index takes is given back when it is kept.
    let (account, wants_index) = (options.account.part(), options.cache.is_some());
    let work = move |bytes| {
        let mut copy = Copy { bytes, file, left: 0 };
        let index =
            wants_index.then(|| read_layer(read, &account, &mut copy, &mut NoContents).ok());
        // Where it could not be indexed, whoever makes the archive says why.
        let detail =
            |error: io::Error| LayerError::Copy { layer: digest, detail: error.to_string() };
        io::copy(&mut copy, &mut io::sink()).map_err(detail)?;
        copy.file.flush().map_err(detail)?;
        Ok((index.flatten(), account))
    };
    let (progress, budget) = (progress.clone(), &options.budget);
    let fetched = with_layer(source, digest, size, progress, budget, cancel, work).await;
    let (index, _account) = fetched.map_err(|error| match error {
        FetchError::Cancelled => BuildError::Cancelled,
        FetchError::Oci(error) => BuildError::from(error),
        FetchError::Layer(error) => BuildError::from(ExportError::from(error)),
    })?;
    tokio::fs::rename(&part, directory.join(digest.hex())).await.map_err(failed())?;
    if let Some(index) = index.filter(|index| index.diff_id == diff_id) {
        keep_index(options, Arc::new(index), cancel).await.map_err(ExportError::from)?;
    }
    Ok(())
}

/// Writes each piece into a file as it comes, and hands it on.
struct Copy<R> {
    bytes: R,
    file: File,
    /// Of the piece at hand, bytes that nobody has taken yet; all of them are written.
    left: usize,
}

impl<R: BufRead> BufRead for Copy<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let piece = self.bytes.fill_buf()?;
        if self.left == 0 {
            self.file.write_all(piece)?;
            self.left = piece.len();
        }
        Ok(piece)
    }

    fn consume(&mut self, length: usize) {
        self.left = self.left.saturating_sub(length);
        self.bytes.consume(length);
    }
}

impl<R: BufRead> Read for Copy<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.fill_buf()?;
        let length = piece.len().min(buffer.len());
        buffer[..length].copy_from_slice(&piece[..length]);
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    #[test]
    fn the_file_gets_every_byte_once_however_it_is_read() {
        let content: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
        let path = tempfile::NamedTempFile::new().unwrap();
        let file = File::create(path.path()).unwrap();
        let mut copy = Copy { bytes: BufReader::with_capacity(777, &content[..]), file, left: 0 };
        let mut first = vec![0; 1000];
        copy.read_exact(&mut first).unwrap();
        let seen = copy.fill_buf().unwrap().len();
        copy.consume(seen / 2);
        copy.fill_buf().unwrap();
        io::copy(&mut copy, &mut io::sink()).unwrap();
        assert!(std::fs::read(path.path()).unwrap() == content);
        assert!(first == content[..1000]);
    }
}
