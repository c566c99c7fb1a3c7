//! `clipwright inspect`: what an archive is, and where its content lives.

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use indicatif::HumanBytes;
use serde::Serialize;

use super::content::ArchiveArgs;
use super::place::ArchivePlace;
use super::printable;
use super::say;
use crate::clip::node::NodeKind;
use crate::clip::reader::Archive;
use crate::clip::storage_info::{OciStorageInfo, StorageInfo};
use crate::digest::Digest;

/// Show what an archive is and where its content lives.
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The archive: a file, `s3://BUCKET/KEY`, or `docker://REFERENCE` of an archive or of an image that has one
    #[arg(value_parser = OsStringValueParser::new().try_map(ArchivePlace::parse))]
    archive: ArchivePlace,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    from: ArchiveArgs,
}

#[derive(Serialize)]
struct Report {
    clip_version: u8,
    archive_bytes: u64,
    index_bytes: u64,
    nodes: usize,
    directories: usize,
    files: usize,
    symlinks: usize,
    special_files: usize,
    file_bytes: u64,
    storage: Storage,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Storage {
    Local,
    S3 { bucket: String, region: String, key: String, endpoint: String, force_path_style: bool },
    Oci(Box<Oci>),
}

#[derive(Serialize)]
struct Oci {
    registry: String,
    repository: String,
    reference: String,
    layers: Vec<Layer>,
    image: Option<Image>,
}

#[derive(Serialize)]
struct Layer {
    digest: Digest,
    diff_id: Option<Digest>,
    compressed_bytes: Option<i64>,
    media_type: Option<String>,
    checkpoints: usize,
}

#[derive(Serialize)]
struct Image {
    name: String,
    manifest_digest: String,
    created: Option<String>,
    os: String,
    architecture: String,
    variant: String,
    env: Vec<String>,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    user: String,
    working_dir: String,
    labels: std::collections::BTreeMap<String, String>,
    exposed_ports: Vec<String>,
    volumes: Vec<String>,
    stop_signal: String,
}

impl Inspect {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let local = self.from.fetch(&self.archive)?;
        let archive = super::open_archive(local.path())?;
        let report = Report::of(&archive, std::fs::metadata(local.path())?.len());
        if self.json {
            say!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            report.print();
        }
        Ok(())
    }
}

impl Report {
    fn of(archive: &Archive, archive_bytes: u64) -> Self {
        let count = |says: fn(&NodeKind) -> bool| {
            archive.tree.iter().filter(|node| says(&node.kind)).count()
        };
        Self {
            clip_version: if matches!(archive.storage, StorageInfo::Oci(_)) { 2 } else { 1 },
            archive_bytes,
            index_bytes: archive.header.index.end - archive.header.index.start,
            nodes: archive.tree.len(),
            directories: count(|kind| matches!(kind, NodeKind::Directory)),
            files: count(|kind| matches!(kind, NodeKind::File(_))),
            symlinks: count(|kind| matches!(kind, NodeKind::Symlink { .. })),
            special_files: count(|kind| matches!(kind, NodeKind::Special(_))),
            file_bytes: archive
                .tree
                .iter()
                .map(|node| match &node.kind {
                    NodeKind::File(content) => content.len(),
                    _ => 0,
                })
                .fold(0, u64::saturating_add),
            storage: Storage::of(&archive.storage),
        }
    }

    fn print(&self) {
        say!("version   {}", self.clip_version);
        let (archive, index) = (HumanBytes(self.archive_bytes), HumanBytes(self.index_bytes));
        say!("archive   {archive}, of which the index is {index}");
        say!(
            "nodes     {}: {} files ({}), {} directories, {} symlinks, {} special files",
            self.nodes,
            self.files,
            HumanBytes(self.file_bytes),
            self.directories,
            self.symlinks,
            self.special_files
        );
        match &self.storage {
            Storage::Local => say!("storage   in the archive itself"),
            Storage::S3 { bucket, key, endpoint, .. } => {
                let [key, bucket, endpoint] =
                    [key, bucket, endpoint].map(|text| printable(text.as_bytes()));
                say!("storage   S3 object {key} in bucket {bucket} {endpoint}");
            }
            Storage::Oci(oci) => {
                let [registry, repository, reference] =
                    [&oci.registry, &oci.repository, &oci.reference]
                        .map(|text| printable(text.as_bytes()));
                say!("storage   {registry}/{repository} {reference}");
                for layer in &oci.layers {
                    let size = layer.compressed_bytes.and_then(|size| u64::try_from(size).ok());
                    let size = size.map_or_else(String::new, |size| HumanBytes(size).to_string());
                    say!("layer     {} {size}", layer.digest);
                }
                if let Some(image) = &oci.image {
                    let [os, architecture] =
                        [&image.os, &image.architecture].map(|text| printable(text.as_bytes()));
                    say!("platform  {os}/{architecture}");
                    say!("runs      {:?} {:?}", image.entrypoint, image.cmd);
                }
            }
        }
    }
}

impl Storage {
    fn of(storage: &StorageInfo) -> Self {
        match storage {
            StorageInfo::Local => Self::Local,
            StorageInfo::S3(object) => Self::S3 {
                bucket: object.bucket.clone(),
                region: object.region.clone(),
                key: object.key.clone(),
                endpoint: object.endpoint.clone(),
                force_path_style: object.force_path_style,
            },
            StorageInfo::Oci(image) => Self::Oci(Box::new(Oci::of(image))),
        }
    }
}

impl Oci {
    fn of(storage: &OciStorageInfo) -> Self {
        let metadata = storage.image_metadata.as_ref();
        let layer = |digest: &Digest| {
            let descriptor = metadata
                .and_then(|m| m.layers_data.iter().find(|d| d.digest == digest.to_string()));
            Layer {
                digest: *digest,
                diff_id: storage.plain_digests.get(digest).copied(),
                compressed_bytes: descriptor.map(|descriptor| descriptor.size),
                media_type: descriptor.map(|descriptor| descriptor.media_type.clone()),
                checkpoints: storage.gzip_checkpoints.get(digest).map_or(0, Vec::len),
            }
        };
        let image = metadata.map(|metadata| Image {
            name: metadata.name.clone(),
            manifest_digest: metadata.digest.clone(),
            created: metadata.created.map(|at| at.to_rfc3339()),
            os: metadata.os.clone(),
            architecture: metadata.architecture.clone(),
            variant: metadata.variant.clone(),
            env: metadata.env.clone(),
            entrypoint: metadata.entrypoint.clone(),
            cmd: metadata.cmd.clone(),
            user: metadata.user.clone(),
            working_dir: metadata.working_dir.clone(),
            labels: metadata.labels.clone(),
            exposed_ports: metadata.exposed_ports.clone(),
            volumes: metadata.volumes.clone(),
            stop_signal: metadata.stop_signal.clone(),
        });
        Self {
            registry: storage.registry_url.clone(),
            repository: storage.repository.clone(),
            reference: storage.reference.clone(),
            layers: storage.layers.iter().map(layer).collect(),
            image,
        }
    }
}
