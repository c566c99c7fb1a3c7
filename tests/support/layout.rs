//! OCI image layouts made of layers that a test wrote itself.

use std::io::Write;
use std::path::{Path, PathBuf};

use clipwright::digest::Digest;
use serde_json::{Value, json};

/// An OCI image layout in a temporary directory, removed when dropped.
pub(crate) struct Layout {
    dir: tempfile::TempDir,
}

/// One layer as it stands in a layout.
#[derive(Clone)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) diff_id: Digest,
    pub(crate) bytes: Vec<u8>,
    pub(crate) media_type: &'static str,
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

impl Blob {
    /// A gzip layer of this tar.
    pub(crate) fn gzip(tar: &[u8]) -> Self {
        // Not the fastest level: that one makes a single block of any length.
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(tar).unwrap();
        let bytes = encoder.finish().unwrap();
        Self { digest: Digest::of(&bytes), diff_id: Digest::of(tar), bytes, media_type: GZIP }
    }

    /// A gzip layer of one file.
    pub(crate) fn file(name: &str, content: &[u8]) -> Self {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content).unwrap();
        Self::gzip(&builder.into_inner().unwrap())
    }

    /// A zstd layer of this tar.
    pub(crate) fn zstd(tar: &[u8]) -> Self {
        let bytes = zstd::encode_all(tar, 0).unwrap();
        Self { digest: Digest::of(&bytes), diff_id: Digest::of(tar), bytes, media_type: ZSTD }
    }

    /// The tar itself, or anything else, under this media type.
    pub(crate) fn plain(bytes: &[u8], media_type: &'static str) -> Self {
        let digest = Digest::of(bytes);
        Self { digest, diff_id: digest, bytes: bytes.to_vec(), media_type }
    }
}

impl Layout {
    /// An image of these layers under the tag `latest`, for linux on this machine's architecture.
    pub(crate) fn of(layers: &[Blob]) -> Self {
        Self::with_config(layers, json!({ "config": { "Env": ["A=b"], "Cmd": ["/bin/sh"] } }))
    }

    /// The same, with what else the image's config says.
    pub(crate) fn with_config(layers: &[Blob], mut config: Value) -> Self {
        let layout = Self { dir: tempfile::tempdir().unwrap() };
        config["architecture"] = json!(architecture());
        config["os"] = json!("linux");
        let image = layout.image(layers, config);
        layout.finish(MANIFEST, image);
        layout
    }

    /// An index of images under the tag `latest`: the platform that the index says, the layers, and
    /// all that the config says beside them.
    pub(crate) fn several(images: &[(Value, &[Blob], Value)]) -> Self {
        let layout = Self { dir: tempfile::tempdir().unwrap() };
        let entries: Vec<_> = images
            .iter()
            .map(|(platform, layers, config)| {
                let (digest, size) = layout.image(layers, config.clone());
                json!({ "mediaType": MANIFEST, "digest": digest, "size": size, "platform": platform })
            })
            .collect();
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
        let index = layout.put(&index);
        layout.finish(INDEX, index);
        layout
    }

    /// Writes an image: its manifest's digest and size.
    fn image(&self, layers: &[Blob], mut config: Value) -> (Digest, usize) {
        for layer in layers {
            self.write_blob(layer.digest, &layer.bytes);
        }
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id).collect();
        config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        let config = self.put(&config);
        let descriptors: Vec<_> = layers
            .iter()
            .map(|layer| {
                let (media_type, size) = (layer.media_type, layer.bytes.len());
                json!({ "mediaType": media_type, "digest": layer.digest, "size": size })
            })
            .collect();
        self.put(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config.0,
                "size": config.1,
            },
            "layers": descriptors,
        }))
    }

    /// Writes what makes it a layout, of one manifest or index.
    fn finish(&self, media_type: &str, (digest, size): (Digest, usize)) {
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": media_type,
                "digest": digest,
                "size": size,
                "annotations": { "org.opencontainers.image.ref.name": "latest" },
            }],
        });
        std::fs::write(self.path().join("index.json"), index.to_string()).unwrap();
        let version = json!({ "imageLayoutVersion": "1.0.0" }).to_string();
        std::fs::write(self.path().join("oci-layout"), version).unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Where a blob lies.
    pub(crate) fn blob(&self, digest: Digest) -> PathBuf {
        self.path().join("blobs/sha256").join(digest.hex())
    }

    fn put(&self, value: &Value) -> (Digest, usize) {
        let bytes = value.to_string().into_bytes();
        let digest = Digest::of(&bytes);
        self.write_blob(digest, &bytes);
        (digest, bytes.len())
    }

    fn write_blob(&self, digest: Digest, bytes: &[u8]) {
        let path = self.blob(digest);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// This machine's architecture in OCI's words.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A tar of these files.
pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        // By hand: the builder refuses names that tests want.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Bytes that don't compress; other bytes for another seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = 0x0139_408d_cbbf_7a44_u64 ^ seed;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(length)
    .collect()
}
