//! Options for commands that read what an archive points to: an image's layers, or the S3 object
//! that holds a v1 archive's data.

use clap::Args;

use super::place::{ArchivePlace, LocalArchive};
use super::registry::RegistryArgs;
use crate::clip::storage_info::StorageInfo;
use crate::content::{ReadSettings, S3Override, image_source};
use crate::oci::ImageSource;

/// Where content comes from, if not from where the archive says, and as whom to ask for it.
#[derive(Debug, Args)]
pub(super) struct ContentArgs {
    /// Read layers from this image reference or oci:DIR[:TAG] instead of where the archive points, whose registry is given only credentials that name it: JSON with `registry`, or docker's config file
    #[arg(long, value_name = "SOURCE")]
    source: Option<ImageSource>,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    s3: S3Args,
}

/// Where an archive is fetched from of which nothing but its index is read, and as whom.
#[derive(Debug, Args)]
pub(super) struct ArchiveArgs {
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    s3: S3Args,
}

impl ArchiveArgs {
    /// The archive, which is fetched first if it is not on this machine.
    pub(super) fn fetch(&self, archive: &ArchivePlace) -> anyhow::Result<LocalArchive> {
        archive.fetch(&self.s3.settings()?, &self.registry)
    }
}

/// What takes the place of a v1 archive's S3 storage info. Keys come from `CLIPWRIGHT_S3_ACCESS_KEY`
/// and `CLIPWRIGHT_S3_SECRET_KEY`, or from the ambient AWS chain.
#[derive(Debug, Args)]
#[expect(clippy::struct_field_names, reason = "they are the names of the flags")]
struct S3Args {
    /// Bucket with a v1 archive's data, instead of the archive's own
    #[arg(long, value_name = "NAME", env = "CLIPWRIGHT_S3_BUCKET", hide_env_values = true)]
    s3_bucket: Option<String>,
    /// Region of that bucket
    #[arg(long, value_name = "NAME", env = "CLIPWRIGHT_S3_REGION", hide_env_values = true)]
    s3_region: Option<String>,
    /// Base address of an S3-compatible server. Keys come from the variables `CLIPWRIGHT_S3_ACCESS_KEY` and `CLIPWRIGHT_S3_SECRET_KEY`, or from the ambient AWS chain
    #[arg(long, value_name = "URL", env = "CLIPWRIGHT_S3_ENDPOINT", hide_env_values = true)]
    s3_endpoint: Option<String>,
    /// Put the bucket into the path rather than into the host name
    #[arg(
        long,
        value_name = "true|false",
        env = "CLIPWRIGHT_S3_FORCE_PATH_STYLE",
        hide_env_values = true
    )]
    s3_force_path_style: Option<bool>,
}

impl ContentArgs {
    /// How to reach registries.
    pub(super) fn registry(&self) -> &RegistryArgs {
        &self.registry
    }

    /// The archive, which is fetched first if it is not on this machine.
    pub(super) fn fetch(&self, archive: &ArchivePlace) -> anyhow::Result<LocalArchive> {
        archive.fetch(&self.bucket()?, &self.registry)
    }

    /// How to reach a bucket.
    pub(super) fn bucket(&self) -> anyhow::Result<S3Override> {
        self.s3.settings()
    }

    /// How to read the content of an archive with this storage info.
    pub(super) fn settings(
        &self,
        archive: &ArchivePlace,
        storage: &StorageInfo,
    ) -> anyhow::Result<ReadSettings> {
        let (source, credentials) = match (&self.source, storage) {
            (Some(source), _) => (Some(source.clone()), self.registry.credentials(source)?),
            // A reference that is none is found when it is needed.
            (None, StorageInfo::Oci(image)) => match image_source(image).ok() {
                // An archive may name any registry, which then gets a password that is for none.
                Some(source) if archive.is_beside(&source) => {
                    let credentials = self.registry.credentials(&source)?;
                    (Some(source), credentials)
                }
                Some(source) => {
                    let credentials = self.registry.credentials_for_stored(&source)?;
                    (Some(source), credentials)
                }
                None => (None, None),
            },
            (None, _) => (None, None),
        };
        let (oci, s3) = (self.registry.settings(), self.s3.settings()?);
        Ok(ReadSettings { oci, credentials, source, s3 })
    }
}

impl S3Args {
    fn settings(&self) -> anyhow::Result<S3Override> {
        let key = |name: &str| std::env::var(name).ok().filter(|key| !key.is_empty());
        let keys = match ["CLIPWRIGHT_S3_ACCESS_KEY", "CLIPWRIGHT_S3_SECRET_KEY"].map(key) {
            [Some(access), Some(secret)] => Some((access.into(), secret.into())),
            [None, None] => None,
            _ => anyhow::bail!(
                "CLIPWRIGHT_S3_ACCESS_KEY and CLIPWRIGHT_S3_SECRET_KEY go together: one is missing"
            ),
        };
        Ok(S3Override {
            bucket: self.s3_bucket.clone(),
            region: self.s3_region.clone(),
            endpoint: self.s3_endpoint.clone(),
            force_path_style: self.s3_force_path_style,
            keys,
        })
    }
}
