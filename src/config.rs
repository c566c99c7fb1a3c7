//! One `Config`: command line over environment over settings file over defaults that work.
//!
//! `setting` is the table of what there is to set, `layers` finds each value and remembers where
//! it came from; here values become types and are checked against each other. Nothing is written
//! and nothing contacted.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use crate::archive::{ClipVersion, Fallback};
use crate::build::export::{ExportStyle, MAX_EPOCH};
use crate::build::{Isolation, Network, NetworkException, Resources};
use crate::layer::Limits;
use crate::oci::{OciSettings, ReferenceForm, normalise_registry};
use crate::store::{RegistrySettings, S3Settings, StoreSettings};
use crate::telemetry::{LogFormat, LogSettings, OtlpSettings};

/// Why settings can't be used.
mod error;
/// Where values come from.
mod layers;
/// What layers may cost.
mod limits;
/// How registries are reached.
mod registries;
/// The key for credentials at rest.
mod secret_key;
/// The table of settings.
mod setting;
/// What single values may look like.
mod value;

pub use crate::database::DatabaseSettings;
pub use error::ConfigError;
pub use limits::LimitsArgs;
pub use registries::BuildRegistry;
pub use secret_key::{InvalidSecretKey, SecretKey, SecretKeySource};
pub use setting::SettingsArgs;

use layers::Layers;
use registries::{build_registry, oci};
use setting::Setting;
use value::{
    absolute, between, bucket_name, database_url, endpoint, from_str, header_safe, secret, word,
};

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the API is served.
    pub listen: SocketAddr,
    /// What clients must send as a bearer token; `None` only when `listen` is on loopback.
    pub token: Option<SecretString>,
    /// Everything that is kept on this machine; absolute.
    pub data_dir: PathBuf,
    /// Which database.
    pub database: DatabaseSettings,
    /// Jobs worked on at a time, 1 to 256.
    pub workers: usize,
    /// How long a worker that fell silent keeps its job.
    pub lease: Duration,
    /// Workers that may migrate at a time; all when absent.
    pub migrations: Option<usize>,
    /// Workers that may build at a time; all when absent, none when 0.
    pub builds: Option<usize>,
    /// How builds are done.
    pub build: BuildSettings,
    /// Jobs that may be worked on at a time, by all processes; any number when absent.
    pub max_running: Option<u32>,
    /// Jobs that may wait, of all workspaces; any number when absent.
    pub max_queued: Option<u32>,
    /// How often a token without a limit of its own may ask this process; any number when absent.
    pub requests_per_minute: Option<NonZeroU32>,
    /// So long may an attempt go without an event or more bytes.
    pub stall: Duration,
    /// So long may an attempt take in all.
    pub attempt_limit: Duration,
    /// How often a job is tried, 1 to 100.
    pub max_attempts: u16,
    /// How long the port stays open after the signal to stop.
    pub shutdown_delay: Duration,
    /// For how long a job is tried again while what it depends on is away.
    pub retry_for: Duration,
    /// How long jobs are kept after their end.
    pub retention: Duration,
    /// How often workers look for jobs that nobody told them of.
    pub poll_interval: Duration,
    /// Layers read at a time, 1 to 256; `None` is one a core.
    pub layer_concurrency: Option<usize>,
    /// Bytes that layer indexes may take in the data directory; 0 keeps none there.
    pub layer_cache_bytes: u64,
    /// Whether layer indexes are kept in the store.
    pub layer_cache_in_store: bool,
    /// Where archives go.
    pub store: StoreSettings,
    /// What this process does.
    pub role: Role,
    /// Archive version of jobs for which nobody else says one; absent, they get v1.
    pub clip_version: Option<ClipVersion>,
    /// What becomes of images that can't be served as v2, of jobs that don't say.
    pub fallback: Fallback,
    /// Where built and re-published images go.
    pub build_registry: BuildRegistry,
    /// How registries are reached.
    pub oci: OciSettings,
    /// How archives name their image.
    pub reference_form: ReferenceForm,
    /// Plain bytes from one place in a layer where reading can begin to the next.
    pub span: u64,
    /// What layers may cost.
    pub limits: Limits,
    /// Where the key for credentials at rest is to be had.
    pub secret_key: SecretKeySource,
    /// What is logged, and how.
    pub log: LogSettings,
    /// Where traces and metrics are sent; nowhere when absent.
    pub otlp: Option<OtlpSettings>,
    /// Whether metrics tell workspaces apart.
    pub metrics_by_workspace: bool,
}

/// How builds are done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildSettings {
    /// How `RUN` is kept apart from the builder.
    pub isolation: Isolation,
    /// What `RUN` and `ADD` can reach.
    pub network: Network,
    /// What the filtered network reaches although it is private.
    pub network_exceptions: Vec<NetworkException>,
    /// What one may take of the machine.
    pub resources: Resources,
    /// What new layers of images are like.
    pub style: ExportStyle,
    /// Bytes that the layers of a workspace may take.
    pub cache_bytes: u64,
    /// How long a context is kept that no build uses.
    pub keep_contexts: Duration,
    /// Bytes that the contexts of a workspace may take.
    pub context_bytes: u64,
}

/// What a process of the service does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Both.
    All,
    /// Serves the API.
    Api,
    /// Works on jobs, and serves probes and metrics.
    Worker,
}

impl Role {
    /// As it stands in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Api => "api",
            Self::Worker => "worker",
        }
    }

    fn of(text: &str) -> Option<Self> {
        [Self::All, Self::Api, Self::Worker].into_iter().find(|role| role.as_str() == text)
    }
}

impl Config {
    /// Reads the settings of this process.
    pub fn load(args: &SettingsArgs) -> Result<Self, ConfigError> {
        Self::resolve(args, &|name| std::env::var_os(name))
    }

    /// Reads the settings with `env` as the environment.
    pub fn resolve(
        args: &SettingsArgs,
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let layers = &Layers::read(args, env)?;
        let data_dir = data_dir(layers)?;
        let database = match layers.parse(&setting::DATABASE_URL, database_url)? {
            Some(url) => DatabaseSettings::Url(url),
            None => DatabaseSettings::Private { data_dir: data_dir.clone() },
        };
        let keys = layers.parse(&setting::SECRET_KEY, |text| {
            text.split(',').map(|key| key.trim().parse().ok()).collect()
        })?;
        let secret_key = match (keys, &database) {
            (Some(keys), _) => SecretKeySource::Given(keys),
            (None, DatabaseSettings::Private { .. }) => {
                SecretKeySource::File(data_dir.join("secret.key"))
            }
            (None, DatabaseSettings::Url(_)) => SecretKeySource::Absent,
        };
        let build_registry = build_registry(layers)?;
        let embedded = matches!(database, DatabaseSettings::Private { .. });
        let oci = oci(layers, &build_registry, embedded)?;
        let config = Self {
            listen: layers.require(&setting::LISTEN, from_str)?,
            token: token(layers)?,
            database,
            role: layers.require(&setting::ROLE, Role::of)?,
            workers: layers.require(&setting::WORKERS, |text| between(text, 1..=256))?,
            lease: layers.require(&setting::LEASE_SECONDS, |text| {
                between(text, 1..=3600).map(Duration::from_secs)
            })?,
            migrations: layers.parse(&setting::MIGRATIONS, |text| between(text, 1..=256))?,
            builds: layers.parse(&setting::BUILDS, |text| between(text, 0..=256))?,
            build: build(layers)?,
            max_running: layers
                .parse(&setting::MAX_RUNNING, |text| between(text, 1..=1_000_000))?,
            max_queued: layers
                .parse(&setting::MAX_QUEUED, |text| between(text, 1..=100_000_000))?,
            requests_per_minute: layers
                .parse(&setting::REQUESTS_PER_MINUTE, |text| between(text, 1..=1_000_000))?
                .and_then(NonZeroU32::new),
            stall: layers.require(&setting::STALL_MINUTES, |text| {
                between(text, 1..=1440u64).map(Duration::from_mins)
            })?,
            attempt_limit: layers.require(&setting::MAX_HOURS, |text| {
                between(text, 1..=168u64).map(Duration::from_hours)
            })?,
            max_attempts: layers.require(&setting::MAX_ATTEMPTS, |text| between(text, 1..=100))?,
            shutdown_delay: Duration::from_secs(
                layers
                    .parse(&setting::SHUTDOWN_DELAY_SECONDS, |text| between(text, 0..=60u64))?
                    .unwrap_or(if embedded { 0 } else { 5 }),
            ),
            retry_for: layers.require(&setting::RETRY_MINUTES, |text| {
                between(text, 0..=10_080u64).map(Duration::from_mins)
            })?,
            retention: layers.require(&setting::RETENTION_DAYS, |text| {
                between(text, 1..=36_500u64).map(|days| Duration::from_hours(24 * days))
            })?,
            poll_interval: layers.require(&setting::POLL_SECONDS, |text| {
                between(text, 0.05..=60.0).map(Duration::from_secs_f64)
            })?,
            layer_concurrency: layers
                .parse(&setting::LAYER_CONCURRENCY, |text| between(text, 1..=256))?,
            layer_cache_bytes: layers.require(&setting::LAYER_CACHE_MIB, |text| {
                between(text, 0..=1 << 20).map(|mib: u64| mib << 20)
            })?,
            layer_cache_in_store: layers.require(&setting::LAYER_CACHE_IN_STORE, from_str)?,
            store: store(layers, &data_dir, &build_registry, &oci)?,
            clip_version: layers.require(&setting::CLIP_VERSION, |text| {
                between(text, 0..=2).map(|number: u8| ClipVersion::try_from(number).ok())
            })?,
            fallback: layers.require(&setting::FALLBACK, from_str)?,
            build_registry,
            oci,
            reference_form: layers.require(&setting::REFERENCE_FORM, from_str)?,
            span: layers.require(&setting::SPAN_MIB, |text| {
                between(text, 1..=32).map(|mib: u64| mib << 20)
            })?,
            limits: limits::limits(layers)?,
            secret_key,
            log: LogSettings {
                format: layers.require(&setting::LOG_FORMAT, |text| match text {
                    "text" => Some(LogFormat::Text),
                    "json" => Some(LogFormat::Json),
                    _ => None,
                })?,
                filter: layers.require(&setting::LOG_LEVEL, from_str)?,
            },
            otlp: otlp(layers)?,
            metrics_by_workspace: layers.require(&setting::METRICS_BY_WORKSPACE, from_str)?,
            data_dir,
        };
        if config.token.is_none() && !config.listen.ip().to_canonical().is_loopback() {
            return Err(ConfigError::Unprotected { listen: config.listen });
        }
        Ok(config)
    }
}

fn build(layers: &Layers<'_>) -> Result<BuildSettings, ConfigError> {
    let network = |text: &str| serde_json::from_value(text.into()).ok();
    Ok(BuildSettings {
        isolation: layers.require(&setting::BUILD_ISOLATION, Isolation::of)?,
        network: layers.require(&setting::BUILD_NETWORK, network)?,
        network_exceptions: layers
            .parse(&setting::BUILD_NETWORK_EXCEPTIONS, NetworkException::list)?
            .unwrap_or_default(),
        resources: Resources {
            memory_mib: layers
                .parse(&setting::BUILD_MEMORY_MIB, |text| between(text, 16..=1 << 24))?,
            processes: layers
                .parse(&setting::BUILD_PROCESSES, |text| between(text, 32..=1 << 22))?,
            cpu_millis: layers
                .parse(&setting::BUILD_CPU_MILLIS, |text| between(text, 10..=1_024_000))?,
            disk_mib: layers.parse(&setting::BUILD_DISK_MIB, |text| between(text, 64..=1 << 24))?,
        },
        style: ExportStyle {
            level: layers.require(&setting::BUILD_GZIP_LEVEL, |text| between(text, 1..=9))?,
            epoch: layers
                .parse(&setting::BUILD_SOURCE_DATE_EPOCH, |text| between(text, 0..=MAX_EPOCH))?,
        },
        cache_bytes: layers.require(&setting::BUILD_CACHE_MIB, |text| {
            between(text, 0..=1 << 24).map(|mib: u64| mib << 20)
        })?,
        context_bytes: layers.require(&setting::CONTEXTS_MIB, |text| {
            between(text, 1..=1 << 24).map(|mib: u64| mib << 20)
        })?,
        keep_contexts: layers.require(&setting::CONTEXT_DAYS, |text| {
            between(text, 1..=36_500u64).map(|days| Duration::from_hours(24 * days))
        })?,
    })
}

fn data_dir(layers: &Layers<'_>) -> Result<PathBuf, ConfigError> {
    if let Some(path) = layers.parse(&setting::DATA_DIR, absolute)? {
        return Ok(path);
    }
    // The XDG base directory specification says to ignore relative paths.
    let base = |name| -> Result<Option<PathBuf>, ConfigError> {
        let value = layers.variable(name, &setting::DATA_DIR)?;
        Ok(value.map(PathBuf::from).filter(|path| path.is_absolute()))
    };
    let base = match base("XDG_DATA_HOME")? {
        Some(path) => Some(path),
        // The private Postgres runs as another user, who can't enter root's home.
        None => base("HOME")?.map(|home| match home.to_str() {
            Some("/root") => PathBuf::from("/var/lib"),
            _ => home.join(".local/share"),
        }),
    };
    base.map(|base| base.join("clipwright")).ok_or(ConfigError::Missing {
        key: setting::DATA_DIR.file,
        expected: setting::DATA_DIR.expected,
        reason: "neither XDG_DATA_HOME nor HOME names an absolute path",
    })
}

/// The token itself or a file that holds it, whichever is said in the stronger place.
fn token(layers: &Layers<'_>) -> Result<Option<SecretString>, ConfigError> {
    match (layers.find(&setting::TOKEN)?, layers.find(&setting::TOKEN_FILE)?) {
        (Some(given), Some(file)) if given.rank == file.rank => {
            Err(ConfigError::Both { first: given.key, second: file.key })
        }
        (Some(given), file) if file.as_ref().is_none_or(|file| given.rank < file.rank) => {
            header_safe(&given.text).map(Some).ok_or_else(|| given.bad(&setting::TOKEN))
        }
        (_, Some(file)) => {
            let text = file.read_file()?;
            header_safe(text.trim_end())
                .map(Some)
                .ok_or_else(|| file.bad_file("expected one line of printable ASCII without spaces"))
        }
        (_, None) => Ok(None),
    }
}

fn otlp(layers: &Layers<'_>) -> Result<Option<OtlpSettings>, ConfigError> {
    let base = layers.parse(&setting::OTLP_ENDPOINT, endpoint)?;
    let whole = layers.parse(&setting::OTLP_TRACES_ENDPOINT, endpoint)?;
    let headers = layers.parse(&setting::OTLP_HEADERS, secret)?;
    let service = layers.require(&setting::OTLP_SERVICE_NAME, word)?;
    // The one that names what is sent goes before the one for all (OTLP exporter specification).
    let below = |path| base.as_ref().map(|base| format!("{base}/v1/{path}"));
    let all_metrics: bool = layers.require(&setting::OTLP_METRICS, from_str)?;
    let metrics = layers.parse(&setting::OTLP_METRICS_ENDPOINT, endpoint)?;
    let metrics = metrics.or_else(|| below("metrics").filter(|_| all_metrics));
    let traces = whole.or_else(|| below("traces"));
    Ok((traces.is_some() || metrics.is_some()).then_some(OtlpSettings {
        traces,
        metrics,
        headers,
        service,
    }))
}

fn store(
    layers: &Layers<'_>,
    data_dir: &Path,
    build_registry: &BuildRegistry,
    oci: &OciSettings,
) -> Result<StoreSettings, ConfigError> {
    enum Kind {
        Local,
        S3,
        Registry,
    }
    let kind = layers.require(&setting::STORE, |text| match text {
        "local" => Some(Kind::Local),
        "s3" => Some(Kind::S3),
        "registry" => Some(Kind::Registry),
        _ => None,
    })?;
    let directory = layers.parse(&setting::STORE_DIR, absolute)?;
    let repository =
        registries::repository(layers, &setting::STORE_REPOSITORY, &build_registry.host)?;
    let bucket = layers.parse(&setting::S3_BUCKET, bucket_name)?;
    let region = layers.require(&setting::S3_REGION, word)?;
    let endpoint = layers.parse(&setting::S3_ENDPOINT, endpoint)?;
    let force_path_style = layers.require(&setting::S3_FORCE_PATH_STYLE, from_str)?;
    let access = layers.parse(&setting::S3_ACCESS_KEY, secret)?;
    let secret_key = layers.parse(&setting::S3_SECRET_KEY, secret)?;
    let keys = both(access, &setting::S3_ACCESS_KEY, secret_key, &setting::S3_SECRET_KEY)?;
    let part_mib: u64 = layers.require(&setting::S3_PART_MIB, |text| between(text, 5..=256))?;
    match kind {
        Kind::Local => {
            let directory = directory.unwrap_or_else(|| data_dir.join("images"));
            return Ok(StoreSettings::Directory(directory));
        }
        Kind::Registry => {
            let BuildRegistry { host, repository: images, credentials } = build_registry.clone();
            return Ok(StoreSettings::Registry(RegistrySettings {
                host: normalise_registry(&host),
                repository: repository.unwrap_or(images),
                credentials,
                oci: oci.of_operator(),
                scratch: data_dir.join("spool"),
            }));
        }
        Kind::S3 => {}
    }
    let bucket = bucket.ok_or(ConfigError::Missing {
        key: setting::S3_BUCKET.file,
        expected: setting::S3_BUCKET.expected,
        reason: "registryStore is s3",
    })?;
    let part_size = part_mib << 20;
    Ok(StoreSettings::S3(S3Settings {
        bucket,
        region,
        endpoint,
        force_path_style,
        keys,
        part_size,
    }))
}

/// Two settings of which one is useless without the other.
fn both<A, B>(
    first: Option<A>,
    first_setting: &Setting,
    second: Option<B>,
    second_setting: &Setting,
) -> Result<Option<(A, B)>, ConfigError> {
    let missing = |setting: &Setting, reason| ConfigError::Missing {
        key: setting.file,
        expected: setting.expected,
        reason,
    };
    match (first, second) {
        (Some(first), Some(second)) => Ok(Some((first, second))),
        (None, None) => Ok(None),
        (Some(_), None) => Err(missing(second_setting, first_setting.file)),
        (None, Some(_)) => Err(missing(first_setting, second_setting.file)),
    }
}

#[cfg(test)]
mod tests;
