//! Everything after the last `RUN`: what buildah has built goes to a real registry out of its storage.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use clipwright::archive::{IndexOptions, LayerCache, index_image};
use clipwright::build::export::{
    Base, Export, ExportError, ExportStyle, ExportedImage, ExportedLayers, MANIFEST, Origin,
    StoredImage,
};
use clipwright::digest::Digest;
use clipwright::layer::{LayerRead, NoContents, read_layer};
use clipwright::memory::MemoryAccount;
use clipwright::oci::{ImageSource, OciSettings, Platform, Publisher, ResolvedImage, Source};
use clipwright::progress::Silent;
use flate2::read::MultiGzDecoder;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::push::open_uploads;
use crate::support::layout::noise;
use crate::support::registry::Registry;
use crate::support::upstream::{run, skip};

/// A storage in which a base was pulled and an image of some new layers built.
struct Built {
    dir: TempDir,
    registry: Registry,
    /// Digest of the image's config.
    image: Digest,
}

const BUSYBOX: &str = "/bin/busybox";

impl Built {
    /// `None` (and said so) where nothing can be built.
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            skip("building takes root");
            return None;
        }
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let registry = Registry::start(dir.path());
        let context = dir.path().join("context");
        std::fs::create_dir(&context).unwrap();
        std::fs::copy(BUSYBOX, context.join("busybox")).unwrap();
        std::fs::write(context.join("large"), noise(3, 9 << 20)).unwrap();
        let mut built = Self { dir, registry, image: Digest::of(b"") };
        let base = format!("{}/base/image:latest", built.registry.address);
        let from_scratch = "FROM scratch\nCOPY busybox /bin/busybox\n";
        let id = built.build(from_scratch, "base");
        built.buildah(&["push", "--quiet", "--tls-verify=false", &id, &format!("docker://{base}")]);
        // As whoever has pulled it finds it.
        built.buildah(&["rmi", "--all", "--force"]);
        let id = built.build(&built.dockerfile(), "image");
        built.image = id.parse().unwrap();
        Some(built)
    }

    fn dockerfile(&self) -> String {
        let base = format!("{}/base/image:latest", self.registry.address);
        format!(
            "FROM {base}\n\
             COPY large /opt/large\n\
             RUN [\"/bin/busybox\", \"sh\", \"-c\", \"cd /opt; /bin/busybox mkdir -p a/b; echo text > a/b/file; \
             /bin/busybox ln a/b/file a/hard; /bin/busybox ln -s b/file a/soft; /bin/busybox chmod 4755 a/b/file\"]\n\
             RUN [\"/bin/busybox\", \"rm\", \"/opt/a/soft\"]\n"
        )
    }

    fn storage(&self) -> PathBuf {
        self.dir.path().join("storage")
    }

    fn buildah(&self, arguments: &[&str]) {
        run(Command::new("buildah")
            .arg("--root")
            .arg(self.storage())
            .arg("--runroot")
            .arg(self.dir.path().join("run"))
            .args(["--storage-driver", "overlay"])
            .args(arguments));
    }

    /// The digest of the config of what was built.
    fn build(&self, dockerfile: &str, name: &str) -> String {
        let (file, id) = (self.dir.path().join(name), self.dir.path().join("id"));
        std::fs::write(&file, dockerfile).unwrap();
        let shown = |path: &Path| path.display().to_string();
        let arguments =
            ["bud", "--quiet", "--layers", "--tls-verify=false", "--isolation", "chroot"];
        let rest = ["--format", "docker", "--iidfile", &shown(&id), "--file", &shown(&file)];
        let context = shown(&self.dir.path().join("context"));
        self.buildah(&[&arguments[..], &rest[..], &[&context]].concat());
        std::fs::read_to_string(id).unwrap()
    }

    fn stored(&self) -> StoredImage {
        StoredImage::open(&self.storage(), "overlay", self.image).unwrap()
    }

    /// An image in the registry.
    async fn resolve(&self, name: &str) -> (Source, ResolvedImage) {
        let image = format!("{}/{name}", self.registry.address).parse().unwrap();
        let (image, settings) = (ImageSource::Registry(image), OciSettings::default());
        let source = Source::open(&image, &settings, None).await.unwrap();
        let resolved = source.resolve(&Platform::host(), &CancellationToken::new()).await.unwrap();
        (source, resolved)
    }

    /// Exports the image to a repository, as a service does.
    async fn export(
        &self,
        repository: &str,
        options: &IndexOptions,
        cancel: &CancellationToken,
    ) -> Result<ExportedImage, ExportError> {
        self.export_as_of(None, repository, options, cancel).await
    }

    async fn export_as_of(
        &self,
        epoch: Option<u64>,
        repository: &str,
        options: &IndexOptions,
        cancel: &CancellationToken,
    ) -> Result<ExportedImage, ExportError> {
        let (source, base) = self.resolve("base/image").await;
        let (address, settings) = (&self.registry.address, OciSettings::default());
        let publisher = Publisher::open(address, repository, Some("base/image"), &settings, None);
        let publisher = publisher.await.unwrap();
        let known = ExportedLayers::new(self.dir.path().join("exported"));
        let exported = Export {
            image: &self.stored(),
            bases: &[Base { image: &base, source: &source }],
            publisher: &publisher,
            options,
            style: ExportStyle { epoch, ..ExportStyle::default() },
            known: Some(&known),
            progress: Arc::new(Silent),
        }
        .push(cancel)
        .await?;
        let tagging = publisher.manifest(&exported.manifest, MANIFEST, Some("tag"), cancel);
        tagging.await?;
        Ok(exported)
    }

    fn options(&self) -> IndexOptions {
        let cache = LayerCache::default().with_local(self.dir.path().join("cache"), 1 << 30);
        IndexOptions { cache: Some(Arc::new(cache)), ..IndexOptions::default() }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_layers_are_read_once_and_the_rest_not_at_all() {
    let Some(built) = Built::new() else { return };
    let (options, never) = (built.options(), CancellationToken::new());
    let exported = built.export("team/images", &options, &never).await.unwrap();
    let (_, base) = built.resolve("base/image").await;

    // The base's layer is the base's; of the new ones, the index that came about on the way is the one
    // that reading them gives.
    assert_eq!(exported.layers.len(), 4);
    assert!(matches!(exported.layers[0].origin, Origin::Base));
    assert_eq!(exported.layers[0].digest, base.layers[0].digest);
    for layer in &exported.layers[1..] {
        let Origin::New(index) = &layer.origin else { panic!("{:?}", layer.origin) };
        let file = built.registry.blob(layer.digest);
        run(Command::new("gzip").arg("-t").stdin(std::fs::File::open(&file).unwrap()));
        let bytes = std::fs::read(&file).unwrap();
        assert_eq!(bytes.len() as u64, layer.size);
        let (limits, span) = (options.limits, options.span);
        let read = LayerRead { digest: layer.digest, limits, span };
        let account = MemoryAccount::default();
        assert_eq!(**index, read_layer(read, &account, &bytes[..], &mut NoContents).unwrap());
        let mut plain = Vec::new();
        MultiGzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
        assert_eq!(Digest::of(&plain), layer.diff_id);
    }

    // The image is there by its digest, and nobody reads a new layer to index it: the registry has lost them.
    let (source, image) = built.resolve("team/images:tag").await;
    assert_eq!(image.manifest_digest, exported.manifest_digest);
    let unpacked = unpack(&built, "team/images:tag");
    let expected = [("opt/large", noise(3, 9 << 20)), ("opt/a/hard", b"text\n".to_vec())];
    for (name, content) in &expected {
        assert!(std::fs::read(unpacked.join(name)).unwrap() == *content, "{name}");
    }
    assert!(!unpacked.join("opt/a/soft").exists());
    let blobs: Vec<_> =
        exported.layers[1..].iter().map(|layer| built.registry.blob(layer.digest)).collect();
    for blob in &blobs {
        std::fs::rename(blob, blob.with_extension("aside")).unwrap();
    }
    let indexed = index_image(&source, &image, &options, Arc::new(Silent), &never).await.unwrap();
    for blob in &blobs {
        std::fs::rename(blob.with_extension("aside"), blob).unwrap();
    }
    assert_eq!(indexed.cached.len(), 3);
    let archive = built.dir.path().join("image.clip");
    indexed.write(&archive).unwrap();
    let clipwright = env!("CARGO_BIN_EXE_clipwright");
    run(Command::new(clipwright).args(["verify", "--deep"]).arg(&archive));

    // Once more: nothing is read, and so it need not be there.
    let layers = built.storage().join("overlay");
    std::fs::rename(&layers, layers.with_extension("aside")).unwrap();
    let again = built.export("team/images", &options, &never).await.unwrap();
    assert_eq!(again.manifest, exported.manifest);
    assert!(again.layers[1..].iter().all(|layer| matches!(layer.origin, Origin::Known)));
    // To another repository too, where the layers are mounted.
    let error = built.export("other/images", &built.options(), &never).await.unwrap_err();
    assert!(error.to_string().contains("overlay"), "{error}");
    std::fs::rename(layers.with_extension("aside"), &layers).unwrap();

    // Who has forgotten everything makes the same bytes.
    std::fs::remove_dir_all(built.dir.path().join("exported")).unwrap();
    let anew = built.export("anew/images", &built.options(), &never).await.unwrap();
    assert_eq!(anew.manifest, exported.manifest);
    assert!(anew.layers[1..].iter().all(|layer| matches!(layer.origin, Origin::New(_))));
}

/// `umoci unpack` of an image in the registry; the root.
fn unpack(built: &Built, image: &str) -> PathBuf {
    let layout = built.dir.path().join("layout");
    run(Command::new("skopeo")
        .args(["copy", "--quiet", "--src-tls-verify=false"])
        .arg(format!("docker://{}/{image}", built.registry.address))
        .arg(format!("oci:{}:latest", layout.display())));
    crate::support::upstream::unpack(&layout, &built.dir.path().join("bundle"))
}

/// Two builds of the same make the same layers, if nothing is to be younger than a moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_makes_builds_the_same() {
    const EPOCH: u64 = 1_700_000_000;
    let Some(mut built) = Built::new() else { return };
    let (options, never) = (built.options(), CancellationToken::new());
    let first = built.export_as_of(Some(EPOCH), "first/images", &options, &never).await.unwrap();
    let (_, image) = built.resolve("first/images:tag").await;
    assert_eq!(image.raw_config, first.config);
    assert_eq!(image.config.created.unwrap().timestamp(), i64::try_from(EPOCH).unwrap());
    let again = built.export_as_of(Some(EPOCH), "first/images", &options, &never).await.unwrap();
    assert_eq!(again.manifest, first.manifest);
    assert!(matches!(again.layers[3].origin, Origin::Known));

    // Another storage, some seconds later.
    let text = built.dockerfile();
    let name = "RUN [\"/bin/busybox\", \"rm\"";
    let text = text.replace(name, "RUN [\"/bin/busybox\", \"rm\", \"-f\"");
    built.image = built
        .build(&text.replace("COPY large", "COPY --chown=0:0 large"), "image")
        .parse()
        .unwrap();
    let second = built.export_as_of(Some(EPOCH), "second/images", &options, &never).await.unwrap();
    let digests = |image: &ExportedImage| image.layers.iter().map(|l| l.digest).collect::<Vec<_>>();
    assert_eq!(digests(&first), digests(&second));
    // Without it they differ.
    let late = built.export("third/images", &options, &never).await.unwrap();
    assert_ne!(digests(&late)[2], digests(&second)[2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_leaves_no_image() {
    let Some(built) = Built::new() else { return };
    let (options, cancelled) = (built.options(), CancellationToken::new());
    cancelled.cancel();
    let error = built.export("cancelled/images", &options, &cancelled).await.unwrap_err();
    assert_eq!(error.to_string(), "cancelled");
    let tags = |repository: &str| built.registry.repository(repository).join("_manifests/tags");
    assert!(!tags("cancelled/images").exists());

    // A file of a layer that is not what it was when the layer was made.
    let large = |entry: std::fs::DirEntry| entry.path().join("diff/opt/large");
    let layers = std::fs::read_dir(built.storage().join("overlay")).unwrap();
    let file = layers.map(|entry| large(entry.unwrap())).find(|file| file.exists()).unwrap();
    let mut content = std::fs::read(&file).unwrap();
    content[5 << 20] ^= 1;
    std::fs::write(&file, &content).unwrap();
    let never = CancellationToken::new();
    let error = built.export("changed/images", &options, &never).await.unwrap_err();
    assert!(error.to_string().contains("the image config says"), "{error}");
    content.pop();
    std::fs::write(&file, &content).unwrap();
    let error = built.export("changed/images", &options, &never).await.unwrap_err();
    assert!(error.to_string().contains("opt/large: expected a file of"), "{error}");
    assert!(!tags("changed/images").exists());
    // Nor what was on its way: uploads are cancelled when their future is dropped, a moment later.
    while open_uploads(built.dir.path(), "changed/images") > 0 {
        tokio::task::yield_now().await;
    }

    let other = StoredImage::open(&built.storage(), "overlay", Digest::of(b"other"));
    assert!(other.unwrap_err().to_string().contains("there is no image"));
}
