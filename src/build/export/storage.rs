//! An image in containers-storage, as buildah leaves it: which layers it has, and where their files and
//! the rest of their tars are. Read as it lies there, by its files alone (containers/storage, `images.go`,
//! `layers.go`); whoever builds in it must not change it meanwhile, which its layers' being immutable sees to.
//! Builders can write there, so that no link in it is followed.

use std::collections::HashMap;
use std::io::{BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use super::ExportError;
use super::beneath::{open_directory, open_file, open_root};
use super::tar_split::TarSplit;
use crate::digest::Digest;
use crate::local::io_error;

/// The largest of the storage's own files that is read.
const MAX_FILE: u64 = 64 << 20;
/// More layers than images have.
const MAX_LAYERS: usize = 1024;

/// An image in containers-storage.
#[derive(Debug, Clone)]
pub struct StoredImage {
    /// Its config, as it lies there. Layers may be known by other digests after it was changed, but not by
    /// other diff ids.
    pub config: Bytes,
    /// Bottom to top.
    pub layers: Vec<StoredLayer>,
}

/// A layer in containers-storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLayer {
    /// Digest of its tar.
    pub diff_id: Digest,
    /// Bytes of its tar.
    pub plain_size: u64,
    /// The storage.
    root: PathBuf,
    /// Where in it its files are.
    files: PathBuf,
    /// What of its tar is not in its files.
    split: PathBuf,
}

#[derive(Deserialize)]
struct NamedImage {
    id: String,
    layer: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct NamedLayer {
    id: String,
    #[serde(default)]
    parent: String,
    #[serde(default)]
    diff_digest: String,
    #[serde(default)]
    diff_size: i64,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

impl StoredImage {
    /// Finds the image whose config has this digest in the storage at `root`, whose driver is `overlay` or
    /// `vfs`. Blocks.
    pub fn open(root: &Path, driver: &str, config: Digest) -> Result<Self, ExportError> {
        let storage =
            open_root(root).map_err(io_error(format!("can't open {}", root.display())))?;
        let images = PathBuf::from(format!("{driver}-images"));
        let layers = PathBuf::from(format!("{driver}-layers"));
        let id = config.hex();
        let list = images.join("images.json");
        let named: Vec<NamedImage> = parse(&list, &read(&storage, &list)?)?;
        let top = named.into_iter().find(|image| image.id == id).map(|image| image.layer);
        let top = top.ok_or_else(|| wrong(&list, format!("there is no image {id}")))?;
        let file = images.join(&id).join(big_data(&config));
        let bytes = read(&storage, &file)?;
        if Digest::of(&bytes) != config {
            return Err(wrong(
                &file,
                format!("expected digest {config}, found {}", Digest::of(&bytes)),
            ));
        }
        let Config { rootfs: RootFs { diff_ids } } = parse(&file, &bytes)?;
        let list = layers.join("layers.json");
        let mut named: HashMap<String, NamedLayer> =
            parse::<Vec<NamedLayer>>(&list, &read(&storage, &list)?)?
                .into_iter()
                .map(|layer| (layer.id.clone(), layer))
                .collect();
        let (mut chain, mut next) = (Vec::new(), top);
        while !next.is_empty() && chain.len() < MAX_LAYERS {
            // Taken out, so that a circle ends.
            let found = named.remove(&next);
            let layer = found.ok_or_else(|| wrong(&list, format!("there is no layer {next}")))?;
            next.clone_from(&layer.parent);
            chain.push(layer);
        }
        chain.reverse();
        let told: Vec<_> = chain.iter().map(|layer| layer.diff_digest.parse().ok()).collect();
        if !told.iter().copied().eq(diff_ids.iter().map(|id| Some(*id))) {
            let expected = diff_ids.len();
            let reason =
                format!("image {id} has {expected} layers, and those of the storage are others");
            return Err(wrong(&list, reason));
        }
        let stored = chain.into_iter().zip(diff_ids).map(|(layer, diff_id)| {
            plain_name(&list, &layer.id)?;
            let files = match driver {
                "overlay" => Path::new("overlay").join(&layer.id).join("diff"),
                _ => Path::new(driver).join("dir").join(&layer.id),
            };
            let split = layers.join(format!("{}.tar-split.gz", layer.id));
            let plain_size = u64::try_from(layer.diff_size).unwrap_or(0);
            Ok(StoredLayer { diff_id, plain_size, root: root.to_owned(), files, split })
        });
        Ok(Self { config: bytes.into(), layers: stored.collect::<Result<_, ExportError>>()? })
    }
}

impl StoredLayer {
    /// Its tar, byte by byte as it was.
    pub fn tar(&self) -> Result<impl Read + Send + use<>, ExportError> {
        let failed = |path: &Path| io_error(format!("can't read {}", path.display()));
        let storage = open_root(&self.root).map_err(failed(&self.root))?;
        let split = open_file(&storage, &self.split).map_err(failed(&self.split))?;
        let split = BufReader::new(MultiGzDecoder::new(BufReader::new(split)));
        let files = open_directory(&storage, &self.files).map_err(failed(&self.files))?;
        Ok(TarSplit::new(split, files))
    }
}

/// The name of the file that holds what an image has under a digest (containers/storage,
/// `makeBigDataBaseName`).
fn big_data(digest: &Digest) -> String {
    format!("={}", BASE64.encode(digest.to_string()))
}

/// A name that stays where it is put.
fn plain_name(list: &Path, id: &str) -> Result<(), ExportError> {
    let plain = !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit());
    if plain { Ok(()) } else { Err(wrong(list, format!("{id:?} is no layer's id"))) }
}

fn read(storage: &OwnedFd, path: &Path) -> Result<Vec<u8>, ExportError> {
    let failed = || io_error(format!("can't read {}", path.display()));
    let file = open_file(storage, path).map_err(failed())?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed())?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(wrong(path, format!("it has more than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

fn parse<'a, T: Deserialize<'a>>(path: &Path, bytes: &'a [u8]) -> Result<T, ExportError> {
    serde_json::from_slice(bytes).map_err(|error| wrong(path, error.to_string()))
}

fn wrong(path: &Path, reason: String) -> ExportError {
    ExportError::Storage { path: path.to_owned(), reason }
}
