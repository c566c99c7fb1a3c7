//! Storage info: where the content of an archive's files lives (CONTRACT A.9).

use std::collections::BTreeMap;

use chrono::{DateTime, FixedOffset};

use crate::digest::Digest;

/// Where file content lives.
#[derive(Debug, Clone, PartialEq)]
pub enum StorageInfo {
    /// In the archive itself (v1, local).
    Local,
    /// In a local archive that was uploaded whole as an S3 object (v1, remote).
    S3(S3StorageInfo),
    /// In the layers of an OCI image (v2).
    Oci(Box<OciStorageInfo>),
}

/// The S3 object that holds a v1 archive's data. Never credentials.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct S3StorageInfo {
    /// Bucket.
    pub bucket: String,
    /// Region.
    pub region: String,
    /// Object key, `<image_id>.clip`.
    pub key: String,
    /// Base address; empty for AWS.
    pub endpoint: String,
    /// Path-style addresses.
    pub force_path_style: bool,
}

/// The image whose layers hold the data.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OciStorageInfo {
    /// `host[:port]` without a scheme; Docker Hub is `index.docker.io`.
    pub registry_url: String,
    /// Repository, such as `library/alpine`.
    pub repository: String,
    /// `sha256:...`, a tag, or `tag@sha256:...` (CONTRACT K).
    pub reference: String,
    /// Compressed digests, bottom to top; a layer used twice stands here twice.
    pub layers: Vec<Digest>,
    /// Upstream's checkpoints by layer; ours stay empty (CONTRACT B.4).
    pub gzip_checkpoints: BTreeMap<Digest, Vec<GzipCheckpoint>>,
    /// Compressed digest to the SHA-256 of the whole uncompressed stream (the diff id).
    pub plain_digests: BTreeMap<Digest, Digest>,
    /// The image's metadata; beta9 rejects archives without.
    pub image_metadata: Option<ImageMetadata>,
}

/// One of upstream's checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GzipCheckpoint {
    /// Compressed bytes read so far.
    pub compressed_offset: i64,
    /// Uncompressed offset.
    pub plain_offset: i64,
}

/// What the image's config and manifest say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ImageMetadata {
    /// The reference it was made from.
    pub name: String,
    /// Manifest digest.
    pub digest: String,
    /// Tags.
    pub repo_tags: Vec<String>,
    /// Creation time; `None` is Go's zero time.
    pub created: Option<DateTime<FixedOffset>>,
    /// Docker version.
    pub docker_version: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Architecture, such as `amd64`.
    pub architecture: String,
    /// Operating system, `linux`.
    pub os: String,
    /// Architecture variant.
    pub variant: String,
    /// Author.
    pub author: String,
    /// Environment, `NAME=value`.
    pub env: Vec<String>,
    /// Default command.
    pub cmd: Vec<String>,
    /// Entry point.
    pub entrypoint: Vec<String>,
    /// User.
    pub user: String,
    /// Working directory.
    pub working_dir: String,
    /// Exposed ports, such as `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// Volumes.
    pub volumes: Vec<String>,
    /// Stop signal.
    pub stop_signal: String,
    /// Compressed digests, bottom to top.
    pub layers: Vec<String>,
    /// Descriptors of the layers, bottom to top.
    pub layers_data: Vec<LayerMetadata>,
}

/// Descriptor of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LayerMetadata {
    /// Media type.
    pub media_type: String,
    /// Compressed digest.
    pub digest: String,
    /// Compressed size in bytes.
    pub size: i64,
    /// Annotations of the descriptor.
    pub annotations: BTreeMap<String, String>,
}
