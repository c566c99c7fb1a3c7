//! What builds images: a [`BuildBackend`]. It knows Dockerfiles and a workspace's storage; registries, jobs
//! and archives it must not know.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::BuildError;
use super::dockerfile::{Dockerfile, Features};
use super::log::LogSink;
use super::network::Network;
use super::storage::Site;
use crate::digest::Digest;
use crate::oci::Platform;

/// What builds images.
#[async_trait]
pub trait BuildBackend: Send + Sync + std::fmt::Debug {
    /// Its name and version.
    fn version(&self) -> &BackendVersion;

    /// What it can do.
    fn features(&self) -> Features;

    /// Whether the storage has an image of this config.
    async fn has_image(&self, site: &Site, config: Digest) -> bool;

    /// Takes an image into the storage: `directory` holds `manifest.json`, a `version` and each blob
    /// under its hex digest.
    async fn import(
        &self,
        site: &Site,
        directory: &std::path::Path,
        cancel: &CancellationToken,
    ) -> Result<(), BuildError>;

    /// Builds an image in the storage.
    async fn build(
        &self,
        site: &Site,
        order: &BuildOrder<'_>,
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> Result<BuiltImage, BuildError>;

    /// Removes what a build that was ended left in the storage: its working containers.
    async fn sweep(&self, site: &Site) -> Result<(), BuildError>;

    /// Puts right the storage of a workspace in which nobody builds, for which `site` must have the
    /// exclusive lock: no working containers, and no more than `most` bytes of layers, of which those
    /// that were not used for longest go first. Gives how much was removed.
    async fn tidy(
        &self,
        site: &Site,
        most: u64,
        cancel: &CancellationToken,
    ) -> Result<u64, BuildError>;
}

/// Names a builder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackendVersion {
    /// Such as `buildah`.
    #[schema(examples("buildah"))]
    pub name: String,
    /// Such as `1.28.2`.
    #[schema(examples("1.28.2"))]
    pub version: String,
}

/// An image to be built.
#[derive(Debug)]
pub struct BuildOrder<'a> {
    /// The Dockerfile's text.
    pub text: &'a str,
    /// The same, parsed.
    pub dockerfile: &'a Dockerfile,
    /// The directory that `COPY` and `ADD` take from.
    pub context: PathBuf,
    /// Images that the Dockerfile names, by their names in it, and their configs: all are in the storage.
    pub bases: &'a BTreeMap<String, Digest>,
    /// Values of `ARG`s.
    pub arguments: &'a BTreeMap<String, String>,
    /// For `RUN --mount=type=secret`, by their ids.
    pub secrets: &'a BTreeMap<String, SecretString>,
    /// Whether the secrets are offered as `ARG`s too.
    pub secrets_as_arguments: bool,
    /// The stage to build; the last one when absent.
    pub target: Option<&'a str>,
    /// What the image is for.
    pub platform: &'a Platform,
    /// Labels that it gets.
    pub labels: &'a BTreeMap<String, String>,
    /// Whether no layers of earlier builds are used.
    pub no_cache: bool,
    /// How long it may take.
    pub timeout: Duration,
    /// Which network there is.
    pub network: Network,
}

/// An image that was built.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// Digest of its config, which names it in the storage.
    pub config: Digest,
    /// What was done, in order.
    pub steps: Vec<BuildStep>,
}

/// One step of a build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BuildStep {
    /// Stage, counted from 1.
    pub stage: u32,
    /// Step in the stage, counted from 1.
    pub step: u32,
    /// The Dockerfile's line; 0 for what the service added, such as labels.
    pub line: u32,
    /// The instruction, cut to 200 characters.
    pub instruction: String,
    /// Whether its layer was there already.
    pub cached: bool,
    /// How long it took, in seconds.
    pub seconds: f64,
}
