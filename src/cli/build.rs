//! `clipwright build`: a Dockerfile and its context become an image in a registry and an archive, without a
//! service. The options are docker's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use async_trait::async_trait;
use clap::Args;
use secrecy::SecretString;

use super::progress::on_stderr;
use super::registry::RegistryArgs;
use super::report::report;
use super::run_async;
use crate::archive::{IndexOptions, LayerCache, Summary, index_image};
use crate::build::context::ContextLimits;
use crate::build::export::{DEFAULT_LEVEL, ExportStyle, MAX_EPOCH};
use crate::build::{
    BuildInput, Buildah, ContextInput, Destination, DockerfileInput, EPOCH, Isolation, Launcher,
    LogLine, LogSink, MAX_DOCKERFILE, Network, NetworkException, Pipeline, Resources, Site, Stream,
};
use crate::config::LimitsArgs;
use crate::memory::MemoryBudget;
use crate::oci::{ImageSource, Platform, Reference, ReferenceForm};
use crate::progress::Silent;

/// Bytes that what is known of layers may take beside them.
const INDEXES: u64 = 1 << 30;

/// Build an image, push it, and index it into an archive, without a service.
#[derive(Debug, Args)]
pub(super) struct Build {
    /// Directory that COPY and ADD take from
    context: PathBuf,
    /// The Dockerfile; CONTEXT/Dockerfile by default
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Where the image is pushed, and where the archive says that it is
    #[arg(short, long, value_name = "REFERENCE")]
    tag: Reference,
    /// Where the archive goes
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    options: BuildOptions,
    /// Layers of earlier builds are kept here; in the user's cache directory by default
    #[arg(long, value_name = "DIR")]
    storage: Option<PathBuf>,
    /// How RUN is kept apart: chroot, or oci, which needs runc
    #[arg(long, value_name = "chroot|oci", value_parser = isolation, default_value = "chroot")]
    isolation: Isolation,
    /// What RUN and ADD can reach: the public internet (filtered), what this machine can (host), or nothing
    #[arg(long, value_name = "filtered|host|none", value_parser = network, default_value = "filtered")]
    network: Network,
    /// How hard new layers are compressed: 1 is fastest, 9 smallest
    #[arg(long, value_name = "1-9", default_value_t = DEFAULT_LEVEL, value_parser = clap::value_parser!(u32).range(1..=9))]
    gzip_level: u32,
    /// Seconds since 1970 than which nothing in the image is younger: the same content makes the same image
    /// then; by default what `SOURCE_DATE_EPOCH` in the environment says
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=MAX_EPOCH))]
    source_date_epoch: Option<u64>,
    /// Private addresses that the filtered network reaches all the same (may be repeated)
    #[arg(long = "network-exception", value_name = "IPv4[/PREFIX][:PORT]")]
    network_exceptions: Vec<NetworkException>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    limits: LimitsArgs,
}

/// What docker's `build` has too; jobs take the same.
#[derive(Debug, Clone, Args)]
pub(super) struct BuildOptions {
    /// Value of an ARG (may be repeated): NAME=value, or NAME for its value in the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    arguments: Vec<String>,
    /// Secret for RUN --mount=type=secret (may be repeated)
    #[arg(long = "secret", value_name = "id=ID[,src=FILE|,env=NAME]")]
    secrets: Vec<String>,
    /// Stage to build; the last one by default
    #[arg(long)]
    target: Option<String>,
    /// os/architecture[/variant]; this machine's by default
    #[arg(long)]
    platform: Option<Platform>,
    /// Label that the image gets (may be repeated)
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// Use no layers of earlier builds
    #[arg(long)]
    no_cache: bool,
    /// Offer the secrets as ARGs too, by their ids: programs that are run can read them
    #[arg(long)]
    secrets_as_build_args: bool,
    /// Seconds that the builder may take
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

fn isolation(text: &str) -> Result<Isolation, String> {
    Isolation::of(text).ok_or_else(|| "expected chroot or oci".to_owned())
}

fn network(text: &str) -> Result<Network, String> {
    serde_json::from_value(text.into()).map_err(|_| "expected filtered, host or none".to_owned())
}

impl BuildOptions {
    /// `ARG`s by their names. Those that the environment lacks are left out, as docker does.
    pub(super) fn arguments(&self) -> BTreeMap<String, String> {
        let of = |text: &String| match text.split_once('=') {
            Some((name, value)) => Some((name.to_owned(), value.to_owned())),
            None => std::env::var(text).ok().map(|value| (text.clone(), value)),
        };
        self.arguments.iter().filter_map(of).collect()
    }

    /// Labels by their names.
    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        let of = |text: &String| match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => (text.clone(), String::new()),
        };
        self.labels.iter().map(of).collect()
    }

    /// The stage to build.
    pub(super) fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    /// What they are in the body of a job, but for the secrets.
    pub(super) fn body(&self) -> serde_json::Map<String, serde_json::Value> {
        use serde_json::json;
        let platform = self.platform.as_ref().map(ToString::to_string);
        [
            ("build_args", json!(self.arguments())),
            ("labels", json!(self.labels())),
            ("target", json!(self.target)),
            ("platform", json!(platform)),
            ("no_cache", json!(self.no_cache)),
            ("secrets_as_build_args", json!(self.secrets_as_build_args)),
            ("timeout", json!(self.timeout)),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    /// Secrets by their ids.
    pub(super) fn secrets(&self) -> anyhow::Result<BTreeMap<String, SecretString>> {
        self.secrets.iter().map(|text| secret(text)).collect()
    }
}

/// `id=ID,src=FILE` or `id=ID,env=NAME`; without either the environment is asked for the id.
fn secret(text: &str) -> anyhow::Result<(String, SecretString)> {
    let (mut id, mut file, mut variable) = (None, None, None);
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("id", value)) => id = Some(value.to_owned()),
            Some(("src" | "source", value)) => file = Some(value.to_owned()),
            Some(("env", value)) => variable = Some(value.to_owned()),
            Some(("type", "file" | "env")) => {}
            _ => bail!("--secret {text:?}: expected id=ID,src=FILE or id=ID,env=NAME"),
        }
    }
    let id =
        id.filter(|id| !id.is_empty()).with_context(|| format!("--secret {text:?} has no id"))?;
    ensure!(
        file.is_none() || variable.is_none(),
        "--secret {text:?}: src and env exclude each other"
    );
    let value = match file {
        Some(file) => std::fs::read_to_string(&file)
            .with_context(|| format!("can't read the secret in {file}"))?,
        None => {
            let name = variable.unwrap_or_else(|| id.clone());
            std::env::var(&name)
                .with_context(|| format!("secret {id}: {name} is not in the environment"))?
        }
    };
    Ok((id, value.into()))
}

/// The text of the Dockerfile.
pub(super) fn dockerfile_text(file: Option<&Path>, context: &Path) -> anyhow::Result<String> {
    let file = file.map_or_else(|| context.join("Dockerfile"), Path::to_owned);
    let text =
        std::fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
    ensure!(
        text.len() <= MAX_DOCKERFILE,
        "{} is larger than {MAX_DOCKERFILE} bytes",
        file.display()
    );
    Ok(text)
}

/// Lines as they come.
struct Terminal;

#[async_trait]
impl LogSink for Terminal {
    async fn write(&self, line: LogLine) {
        let mark = if line.stream == Stream::Service { "=> " } else { "" };
        eprintln!("{mark}{}", super::printable(line.text.as_bytes()));
    }

    async fn silence(&self, since_start: Duration) {
        eprintln!("=> Still building image... ({}s elapsed)", since_start.as_secs());
    }
}

impl Build {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let started = Instant::now();
        let storage = self.storage()?;
        let source = ImageSource::Registry(self.tag.clone());
        let credentials = self.registry.credentials(&source)?;
        let platform = self.options.platform.clone().unwrap_or_else(Platform::host).normalised();
        let host = self.tag.registry().to_owned();
        let input =
            BuildInput {
                dockerfile: DockerfileInput::Text(dockerfile_text(
                    self.file.as_deref(),
                    &self.context,
                )?),
                context: ContextInput::Directory(self.context.canonicalize().with_context(
                    || format!("can't use {} as a context", self.context.display()),
                )?),
                arguments: self.options.arguments(),
                secrets: self.options.secrets()?,
                secrets_as_arguments: self.options.secrets_as_build_args,
                target: self.options.target.clone(),
                platform: platform.clone(),
                labels: self.options.labels(),
                no_cache: self.options.no_cache,
                timeout: Duration::from_secs(self.options.timeout),
                credentials: credentials
                    .clone()
                    .map(|given| (host.clone(), given))
                    .into_iter()
                    .collect(),
            };
        let oci = self.registry.settings();
        let cache = LayerCache::default().with_local(storage.join("layer-index"), INDEXES);
        let mut options = IndexOptions {
            limits: self.limits.load()?,
            reference_form: ReferenceForm::default(),
            cache: Some(Arc::new(cache)),
            ..IndexOptions::default()
        };
        let style = ExportStyle { level: self.gzip_level, epoch: self.epoch()? };
        let (summary, written) = run_async(async |cancel| {
            std::fs::create_dir_all(&storage)?;
            let scratch = tempfile::tempdir_in(&storage)?;
            let probe = tempfile::tempdir_in(scratch.path())?;
            let launcher = Launcher::of_this_program()?;
            let backend =
                Buildah::probe(launcher, self.isolation, Resources::default(), probe.path())
                    .await?;
            let backend = backend.with_exceptions(self.network_exceptions.clone());
            let (network, obstacle) = backend.network(self.network, probe.path()).await?;
            if let Some(reason) = obstacle {
                eprintln!("warning: the build has no network, as it can't be filtered: {reason}");
            }
            let work = tempfile::tempdir_in(scratch.path())?;
            let site = Site::open(&storage.join("default"), work.path()).await?;
            let context_limits = ContextLimits::default();
            options.account = MemoryBudget::new(options.limits.memory_bytes).alone().await;
            let pipeline = Pipeline {
                backend: &backend,
                oci: &oci,
                options: &options,
                progress: Arc::new(Silent),
                network,
                context_limits,
                style,
            };
            let built = pipeline.build(&site, &input, &|_| true, &Terminal, &cancel).await?;
            for warning in &built.warnings {
                eprintln!("warning: {warning}");
            }
            let destination = Destination {
                reference: &self.tag,
                oci: &oci,
                credentials,
                options: &options,
                progress: on_stderr(),
            };
            let pushed = destination.push(&built, &site, &cancel).await?;
            let (source, image) =
                &destination.find(pushed.manifest_digest, &platform, &cancel).await?;
            destination.tag(image, &cancel).await?;
            let indexed = index_image(source, image, &options, on_stderr(), &cancel).await?;
            let written = indexed.write(&self.output)?;
            Ok((Summary::of(image, &indexed), written))
        })?;
        report(self.json, &summary, &self.output, written, started)
    }

    /// What is said here goes before the environment.
    fn epoch(&self) -> anyhow::Result<Option<u64>> {
        let told = std::env::var(EPOCH).ok().filter(|text| !text.is_empty());
        let (None, Some(text)) = (self.source_date_epoch, told) else {
            return Ok(self.source_date_epoch);
        };
        let epoch = text.parse().ok().filter(|epoch| *epoch <= MAX_EPOCH);
        let epoch = epoch.with_context(|| {
            format!("{EPOCH} in the environment: expected seconds since 1970, found {text:?}")
        })?;
        Ok(Some(epoch))
    }

    /// Under `$XDG_CACHE_HOME/clipwright`, or `~/.cache/clipwright`.
    fn storage(&self) -> anyhow::Result<PathBuf> {
        if let Some(directory) = &self.storage {
            std::fs::create_dir_all(directory)?;
            return directory
                .canonicalize()
                .with_context(|| format!("can't use {}", directory.display()));
        }
        let base = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let caches = base("XDG_CACHE_HOME").or_else(|| Some(base("HOME")?.join(".cache")));
        let caches = caches.context("there is no cache directory: expected --storage")?;
        Ok(caches.join("clipwright/builds"))
    }
}
