//! An image becomes a v1 archive, straight from its layers: nothing is unpacked, and the archive
//! goes out in one piece from its first byte to its last.
//!
//! Layers are read from the top down, each once. A file's content is written as it goes by, unless
//! the layers above hide it as far as their literal paths tell (`cover`). When all layers were
//! read, their indexes are merged, and the merge is the truth: what symlinks and hard links brought
//! back is fetched by reading those layers once more; what was written in vain stays, unreferred
//! to, and is counted. Both are rare. So the bytes depend on the image alone, and not on what
//! somebody happened to know of it before.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Write;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::archive::layers::verify_diff_id;
use crate::archive::policy::LayerPolicy;
use crate::archive::runtime_spec::runtime_spec;
use crate::archive::{ArchiveError, resolved, warnings};
use crate::clip::tree::Tree;
use crate::clip::writer::FinishedArchive;
use crate::digest::Digest;
use crate::fetch::Budget;
use crate::fetch::download::with_layer;
use crate::layer::{LayerIndex, LayerRead, Limits, merge_whole, read_layer};
use crate::local::{blocking, io_error, processor_time};
use crate::memory::MemoryAccount;
use crate::oci::{LayerDescriptor, ResolvedImage, Source};
use crate::progress::{Progress, Step};

/// Content on its way into the archive.
mod blocks;
/// The tree that workers expect in a v1 archive.
mod bundle;
/// What layers hide of those below.
mod cover;

use blocks::{Blocks, Pick};

/// Where the bytes of an archive go.
pub type Sink = Box<dyn Write + Send>;

/// How an image is packed.
#[derive(Debug, Clone, Default)]
pub struct PackOptions {
    /// What a layer may cost.
    pub limits: Limits,
    /// How many layers are read at a time, by all who share it.
    pub budget: Arc<Budget>,
    /// Pays for the memory that layers and tree take.
    pub account: MemoryAccount,
}

/// A v1 archive that is whole but for its header, which belongs in place of its first bytes.
#[derive(Debug)]
pub struct PackedImage {
    /// The archive's tree, content embedded.
    pub tree: Tree,
    /// What the first bytes must become.
    pub head: Vec<u8>,
    /// Bytes of the archive, the header included.
    pub size: u64,
    /// SHA-256 of the header and the index; the index holds the SHA-256 of each file.
    pub digest: Digest,
    /// Bottom to top; a layer used twice stands here twice.
    pub layers: Vec<Arc<LayerIndex>>,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
    /// Bytes in the archive that nothing refers to.
    pub waste: u64,
    /// Layers that had to be read a second time.
    pub read_again: usize,
}

/// The accounts that the image's user is looked up in.
const ACCOUNTS: [&[u8]; 2] = [b"/etc/passwd", b"/etc/group"];

/// Reads the layers of `image` and writes the archive to `out`, 54 zero bytes in place of its
/// header.
pub async fn pack_image(
    source: &Source,
    image: &ResolvedImage,
    options: &PackOptions,
    out: Sink,
    progress: Arc<dyn Progress>,
    cancel: &CancellationToken,
) -> Result<PackedImage, ArchiveError> {
    // The archive carries the content, so that nobody has to read the layers again.
    LayerPolicy::AsIs.check(source, &image.layers, cancel).await?;
    progress.step(resolved(image));
    let reading = PackRun { source, options, progress: &progress, cancel };

    let mut blocks = blocking(|| Blocks::new(out)).await?.map_err(write_error)?;
    let mut read: BTreeMap<Digest, Arc<LayerIndex>> = BTreeMap::new();
    for (layer, diff_id) in image.layers.iter().zip(&image.diff_ids).rev() {
        // The lower of two equal layers has no content of its own.
        if let Entry::Vacant(unread) = read.entry(layer.digest) {
            let index;
            (blocks, index) = reading.layer(layer, blocks, Pick::Uncovered).await?;
            progress.step(Step::LayerDone {
                layer: layer.digest,
                compressed_bytes: index.compressed_size,
                plain_bytes: index.plain_size,
                entries: index.entries.len(),
                cached: false,
            });
            blocks.cover(&index.entries);
            unread.insert(Arc::new(index));
        }
        verify_diff_id(&read[&layer.digest], *diff_id)?;
    }
    let layers: Vec<Arc<LayerIndex>> =
        image.layers.iter().filter_map(|layer| read.get(&layer.digest).cloned()).collect();

    let (stack, limits, account) = (layers.clone(), options.limits, options.account.clone());
    let mut warnings = image.warnings.clone();
    let (tree, mut warnings) = blocking(move || {
        let tree = Tree::new(merge_whole(stack.iter().map(AsRef::as_ref), &limits, &account)?)?;
        warnings.extend(warnings::of_packed(&tree, &stack));
        Ok::<_, ArchiveError>((tree, warnings))
    })
    .await??;

    let accounts = ACCOUNTS.map(|path| blocks::account(&tree, path));
    let mut missing = blocks.missing(&tree, &accounts);
    let read_again = missing.len();
    for layer in image.layers.iter().rev() {
        // Once, however often it stands in the image.
        if let Some(pick) = missing.remove(&layer.digest) {
            (blocks, _) = reading.layer(layer, blocks, Pick::Only(pick)).await?;
        }
    }

    let [passwd, group] = accounts.map(|account| account.and_then(|file| blocks.kept(file)));
    let (spec, more) = runtime_spec(&image.config, passwd.as_deref(), group.as_deref());
    warnings.extend(more);
    for warning in &warnings {
        progress.step(Step::Warning(warning.clone()));
    }
    blocking(move || {
        let config = blocks.write(&spec).map_err(write_error)?;
        let waste = blocks.waste(&tree);
        let tree = bundle::tree(tree, |file| blocks.content(file), &config)?;
        let FinishedArchive { mut out, head, size, digest } = blocks.finish(&tree)?;
        out.flush().map_err(write_error)?;
        Ok(PackedImage { tree, head, size, digest, layers, warnings, waste, read_again })
    })
    .await?
}

struct PackRun<'a> {
    source: &'a Source,
    options: &'a PackOptions,
    progress: &'a Arc<dyn Progress>,
    cancel: &'a CancellationToken,
}

impl PackRun<'_> {
    /// Reads a layer once, what `pick` chooses of it going into the archive.
    async fn layer(
        &self,
        layer: &LayerDescriptor,
        mut blocks: Blocks,
        pick: Pick,
    ) -> Result<(Blocks, LayerIndex), ArchiveError> {
        let read = LayerRead { digest: layer.digest, limits: self.options.limits, span: None };
        let (progress, budget) = (self.progress.clone(), &self.options.budget);
        let (account, told) = (self.options.account.clone(), progress.clone());
        let work = move |bytes| {
            let started = processor_time();
            let index = read_layer(read, &account, bytes, &mut blocks.of(read.digest, pick))?;
            let processor = processor_time().saturating_sub(started);
            told.step(Step::Inflated { layer: read.digest, processor });
            Ok((blocks, index))
        };
        let (digest, size) = (layer.digest, layer.size);
        let packed = with_layer(self.source, digest, size, progress, budget, self.cancel, work);
        Ok(packed.await?)
    }
}

fn write_error(source: std::io::Error) -> ArchiveError {
    io_error("can't write the archive")(source).into()
}
