//! The table of settings: for each its flag, environment names, settings-file key and default.
//!
//! Keys under `imageService` are beta9's (CONTRACT section G); those under `clipwright` are ours.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::layer::{Limit, LimitSetting};

/// One setting. Secrets have no flag, since other users can see a process's arguments.
pub(super) struct Setting {
    /// The flag without its dashes; empty when there is none.
    pub(super) flag: &'static str,
    /// Names in the environment; the first that is set counts.
    pub(super) env: &'static [&'static str],
    /// Dotted path in the settings file; empty when it can't stand there.
    pub(super) file: &'static str,
    /// What holds when nobody says anything.
    pub(super) default: Option<&'static str>,
    /// What its values look like, for errors and help.
    pub(super) expected: &'static str,
    /// Never shown, and refused when it is set to nothing: that is a secret which did not arrive.
    pub(super) secret: bool,
    /// May be a mapping in the settings file; its text is JSON then.
    pub(super) mapping: bool,
    /// May be given more than once, or separated by commas.
    pub(super) list: bool,
    /// What it is for.
    pub(super) help: &'static str,
}

const NONE: Setting = Setting {
    flag: "",
    env: &[],
    file: "",
    default: None,
    expected: "a value",
    secret: false,
    mapping: false,
    list: false,
    help: "",
};

macro_rules! settings {
    ($($name:ident { $($field:ident: $value:expr),* $(,)? })*) => {
        $(pub(super) const $name: Setting = Setting { $($field: $value,)* ..NONE };)*
        /// Every setting that stands here by its name.
        const NAMED: &[&Setting] = &[$(&$name),*];
    };
}

settings! {
    CONFIG {
        flag: "config", env: &["CLIPWRIGHT_CONFIG", "CONFIG_PATH"],
        expected: "a file", help: "Settings file, YAML or JSON",
    }
    LISTEN {
        flag: "listen", env: &["CLIPWRIGHT_LISTEN"], file: "clipwright.listen",
        default: Some("127.0.0.1:8080"), expected: "an address and a port such as 127.0.0.1:8080",
        help: "Where the API is served; needs a token unless only this machine can reach it",
    }
    TOKEN {
        env: &["CLIPWRIGHT_TOKEN"], file: "clipwright.token", secret: true,
        expected: "printable ASCII without spaces, in quotes",
        help: "Bearer token that clients must send",
    }
    TOKEN_FILE {
        flag: "token-file", env: &["CLIPWRIGHT_TOKEN_FILE"], file: "clipwright.tokenFile",
        expected: "a file", help: "File that holds the bearer token that clients must send",
    }
    DATA_DIR {
        flag: "data-dir", env: &["CLIPWRIGHT_DATA_DIR"], file: "clipwright.dataDir",
        expected: "a directory",
        help: "Everything that is kept on this machine; by default in the user's data directory",
    }
    DATABASE_URL {
        env: &["CLIPWRIGHT_DATABASE_URL", "DATABASE_URL"], file: "clipwright.databaseUrl",
        secret: true, expected: "an address that starts with postgres://, in quotes",
        help: "PostgreSQL server; without one a private server is kept in the data directory",
    }
    ROLE {
        flag: "role", env: &["CLIPWRIGHT_ROLE"], file: "clipwright.role",
        default: Some("all"), expected: "all, api or worker",
        help: "What this process does: serve the API, work on jobs, or both; a worker serves probes and metrics alone",
    }
    WORKERS {
        flag: "workers", env: &["CLIPWRIGHT_WORKERS"], file: "clipwright.workers",
        default: Some("2"), expected: "1 to 256", help: "Jobs worked on at a time",
    }
    LEASE_SECONDS {
        flag: "lease-seconds", env: &["CLIPWRIGHT_LEASE_SECONDS"], file: "clipwright.leaseSeconds",
        default: Some("30"), expected: "1 to 3600",
        help: "How long a worker that fell silent keeps its job",
    }
    MIGRATIONS {
        flag: "migrations", env: &["CLIPWRIGHT_MIGRATIONS"], file: "clipwright.migrations",
        expected: "1 to 256", help: "Workers that may migrate at a time; all when absent",
    }
    BUILDS {
        flag: "builds", env: &["CLIPWRIGHT_BUILDS"], file: "clipwright.builds",
        expected: "0 to 256", help: "Workers that may build at a time; all when absent, and 0 leaves builds to other processes",
    }
    BUILD_ISOLATION {
        flag: "build-isolation", env: &["CLIPWRIGHT_BUILD_ISOLATION"],
        file: "clipwright.buildIsolation", default: Some("chroot"), expected: "chroot or oci",
        help: "How RUN is kept apart from the builder: by a root of its own, or by runc",
    }
    BUILD_NETWORK {
        flag: "build-network", env: &["CLIPWRIGHT_BUILD_NETWORK"],
        file: "clipwright.buildNetwork", default: Some("filtered"),
        expected: "filtered, host or none",
        help: "What RUN and ADD can reach: the public internet, what this machine can, or nothing",
    }
    BUILD_NETWORK_EXCEPTIONS {
        flag: "build-network-exceptions", env: &["CLIPWRIGHT_BUILD_NETWORK_EXCEPTIONS"],
        file: "clipwright.buildNetworkExceptions", list: true,
        expected: "IPv4[/PREFIX][:PORT] such as 10.1.0.0/16:443, separated by commas",
        help: "Private addresses that the filtered network reaches all the same, such as a mirror's",
    }
    BUILD_MEMORY_MIB {
        flag: "build-memory-mib", env: &["CLIPWRIGHT_BUILD_MEMORY_MIB"],
        file: "clipwright.buildMemoryMib", expected: "16 to 16777216",
        help: "MiB of memory that a build may take; any when absent",
    }
    BUILD_PROCESSES {
        flag: "build-processes", env: &["CLIPWRIGHT_BUILD_PROCESSES"],
        file: "clipwright.buildProcesses", expected: "32 to 4194304",
        help: "Processes and threads that a build may have; any number when absent",
    }
    BUILD_CPU_MILLIS {
        flag: "build-cpu-millis", env: &["CLIPWRIGHT_BUILD_CPU_MILLIS"],
        file: "clipwright.buildCpuMillis", expected: "10 to 1024000",
        help: "Thousandths of a processor that a build may take; all there are when absent",
    }
    BUILD_GZIP_LEVEL {
        flag: "build-gzip-level", env: &["CLIPWRIGHT_BUILD_GZIP_LEVEL"],
        file: "clipwright.buildGzipLevel", default: Some("4"), expected: "1 to 9",
        help: "How hard new layers of images are compressed: 1 is fastest, 9 smallest",
    }
    BUILD_SOURCE_DATE_EPOCH {
        flag: "build-source-date-epoch", env: &["CLIPWRIGHT_BUILD_SOURCE_DATE_EPOCH"],
        file: "clipwright.buildSourceDateEpoch", expected: "0 to 8589934591",
        help: "Seconds since 1970 than which nothing in a built image is younger, so that the same content makes the same image; a build's own ARG SOURCE_DATE_EPOCH goes before it",
    }
    BUILD_DISK_MIB {
        flag: "build-disk-mib", env: &["CLIPWRIGHT_BUILD_DISK_MIB"],
        file: "clipwright.buildDiskMib", expected: "64 to 16777216",
        help: "MiB of the disk that a build may take while it runs; any when absent",
    }
    BUILD_CACHE_MIB {
        flag: "build-cache-mib", env: &["CLIPWRIGHT_BUILD_CACHE_MIB"],
        file: "clipwright.buildCacheMib", default: Some("20480"), expected: "0 to 16777216",
        help: "MiB that the layers of builds may take on this machine, for each workspace",
    }
    CONTEXT_DAYS {
        flag: "context-days", env: &["CLIPWRIGHT_CONTEXT_DAYS"], file: "clipwright.contextDays",
        default: Some("7"), expected: "1 to 36500",
        help: "Days that a context is kept that no build uses",
    }
    CONTEXTS_MIB {
        flag: "contexts-mib", env: &["CLIPWRIGHT_CONTEXTS_MIB"], file: "clipwright.contextsMib",
        default: Some("20480"), expected: "1 to 16777216",
        help: "MiB that the contexts of a workspace may take together; those unused for longest make room",
    }
    MAX_RUNNING {
        flag: "max-running", env: &["CLIPWRIGHT_MAX_RUNNING"], file: "clipwright.maxRunning",
        expected: "1 to 1000000",
        help: "Jobs that all workers of all processes together may work on at a time; any number when absent",
    }
    MAX_QUEUED {
        flag: "max-queued", env: &["CLIPWRIGHT_MAX_QUEUED"], file: "clipwright.maxQueued",
        expected: "1 to 100000000",
        help: "Jobs of all workspaces together that may wait; any number when absent",
    }
    REQUESTS_PER_MINUTE {
        flag: "requests-per-minute", env: &["CLIPWRIGHT_REQUESTS_PER_MINUTE"],
        file: "clipwright.requestsPerMinute", expected: "1 to 1000000",
        help: "How often each token may ask this process that has no limit of its own; any number when absent",
    }
    STALL_MINUTES {
        flag: "stall-minutes", env: &["CLIPWRIGHT_STALL_MINUTES"], file: "clipwright.stallMinutes",
        default: Some("10"), expected: "1 to 1440",
        help: "Minutes without an event or 1 MiB more after which an attempt is given up",
    }
    MAX_HOURS {
        flag: "max-hours", env: &["CLIPWRIGHT_MAX_HOURS"], file: "clipwright.maxHours",
        default: Some("6"), expected: "1 to 168", help: "Hours that an attempt may take in all",
    }
    MAX_ATTEMPTS {
        flag: "max-attempts", env: &["CLIPWRIGHT_MAX_ATTEMPTS"], file: "clipwright.maxAttempts",
        default: Some("3"), expected: "1 to 100", help: "How often a job is tried",
    }
    SHUTDOWN_DELAY_SECONDS {
        flag: "shutdown-delay-seconds", env: &["CLIPWRIGHT_SHUTDOWN_DELAY_SECONDS"],
        file: "clipwright.shutdownDelaySeconds", expected: "0 to 60",
        help: "Seconds from a signal to stop, when /readyz turns, until the port is closed; by default 5 where a database is set, else 0",
    }
    RETRY_MINUTES {
        flag: "retry-minutes", env: &["CLIPWRIGHT_RETRY_MINUTES"],
        file: "clipwright.retryMinutes", default: Some("60"), expected: "0 to 10080",
        help: "Minutes for which a job is tried again, however often, while a registry or store is away",
    }
    RETENTION_DAYS {
        flag: "retention-days", env: &["CLIPWRIGHT_RETENTION_DAYS"],
        file: "clipwright.retentionDays", default: Some("30"), expected: "1 to 36500",
        help: "Days that jobs are kept after their end; those that images refer to are kept longer",
    }
    POLL_SECONDS {
        flag: "poll-seconds", env: &["CLIPWRIGHT_POLL_SECONDS"], file: "clipwright.pollSeconds",
        default: Some("1"), expected: "0.05 to 60",
        help: "How often workers look for jobs that nobody told them of",
    }
    LAYER_CONCURRENCY {
        flag: "layer-concurrency", env: &["CLIPWRIGHT_LAYER_CONCURRENCY"],
        file: "clipwright.layerConcurrency", expected: "1 to 256",
        help: "Layers read at a time, by all jobs together; by default one a core",
    }
    LAYER_CACHE_MIB {
        flag: "layer-cache-mib", env: &["CLIPWRIGHT_LAYER_CACHE_MIB"],
        file: "clipwright.layerCacheMib", default: Some("1024"), expected: "0 to 1048576",
        help: "MiB that layer indexes may take in the data directory; 0 keeps none there",
    }
    LAYER_CACHE_IN_STORE {
        flag: "layer-cache-in-store", env: &["CLIPWRIGHT_LAYER_CACHE_IN_STORE"],
        file: "clipwright.layerCacheInStore", default: Some("true"), expected: "true or false",
        help: "Whether layer indexes are kept in the store, where all replicas find them",
    }
    STORE {
        flag: "store", env: &["CLIPWRIGHT_STORE"], file: "imageService.registryStore",
        default: Some("local"), expected: "local, s3 or registry", help: "Where archives go",
    }
    STORE_DIR {
        flag: "store-dir", env: &["CLIPWRIGHT_STORE_DIR"], file: "clipwright.storeDir",
        expected: "a directory",
        help: "Directory of the local store; by default images in the data directory",
    }
    STORE_REPOSITORY {
        flag: "store-repository", env: &["CLIPWRIGHT_STORE_REPOSITORY"],
        file: "clipwright.storeRepository",
        expected: "a repository name such as team/archives",
        help: "Repository of the build registry that holds the registry store's archives; by default the one that images are pushed to, where archives are found from their images",
    }
    S3_BUCKET {
        flag: "s3-bucket", env: &["CLIPWRIGHT_S3_BUCKET"],
        file: "imageService.registries.s3.bucketName",
        expected: "a bucket name", help: "Bucket of the s3 store",
    }
    S3_REGION {
        flag: "s3-region", env: &["CLIPWRIGHT_S3_REGION"],
        file: "imageService.registries.s3.region", default: Some("us-east-1"),
        expected: "a region name", help: "Region of the bucket",
    }
    S3_ENDPOINT {
        flag: "s3-endpoint", env: &["CLIPWRIGHT_S3_ENDPOINT"],
        file: "imageService.registries.s3.endpoint",
        expected: "http:// or https://, a host and no credentials",
        help: "Base address of an S3-compatible server instead of AWS",
    }
    S3_FORCE_PATH_STYLE {
        flag: "s3-force-path-style", env: &["CLIPWRIGHT_S3_FORCE_PATH_STYLE"],
        file: "imageService.registries.s3.forcePathStyle", default: Some("false"),
        expected: "true or false",
        help: "Put the bucket into the path rather than into the host name",
    }
    S3_ACCESS_KEY {
        env: &["CLIPWRIGHT_S3_ACCESS_KEY"], file: "imageService.registries.s3.accessKey",
        secret: true, expected: "an access key, in quotes",
        help: "Access key; without one the ambient AWS credentials are used",
    }
    S3_SECRET_KEY {
        env: &["CLIPWRIGHT_S3_SECRET_KEY"], file: "imageService.registries.s3.secretKey",
        secret: true, expected: "a secret key, in quotes",
        help: "Secret key that belongs to the access key",
    }
    S3_PART_MIB {
        flag: "s3-part-mib", env: &["CLIPWRIGHT_S3_PART_MIB"], file: "clipwright.s3PartMib",
        default: Some("16"), expected: "5 to 256", help: "MiB in a part of a multipart upload",
    }
    DOCKER_USERNAME {
        env: &["CLIPWRIGHT_DOCKER_USERNAME"], file: "imageService.registries.docker.username",
        secret: true, expected: "a user name, in quotes", help: "Docker Hub user for pulls that bring no credentials",
    }
    DOCKER_PASSWORD {
        env: &["CLIPWRIGHT_DOCKER_PASSWORD"], file: "imageService.registries.docker.password",
        secret: true, expected: "a password, in quotes",
        help: "Password or token of the Docker Hub user",
    }
    CLIP_VERSION {
        flag: "clip-version", env: &["CLIPWRIGHT_CLIP_VERSION", "B9_CLIP_VERSION"],
        file: "imageService.clipVersion", default: Some("0"), expected: "0, 1 or 2",
        help: "Archive version of jobs for which neither they, their workspace nor a rollout says one: 2 falls back where an image can't be served as v2; 0 says nothing, which means 1",
    }
    FALLBACK {
        flag: "fallback", env: &["CLIPWRIGHT_FALLBACK"], file: "clipwright.fallback",
        default: Some("v1"), expected: "v1 or none",
        help: "What becomes of images that can't be served as v2, of jobs that don't say",
    }
    BUILD_REGISTRY {
        flag: "build-registry", env: &["CLIPWRIGHT_BUILD_REGISTRY"],
        file: "imageService.buildRegistry", default: Some("registry.localhost:5000"),
        expected: "host or host:port",
        help: "Registry that built and re-published images are pushed to",
    }
    BUILD_REPOSITORY {
        flag: "build-repository", env: &["CLIPWRIGHT_BUILD_REPOSITORY"],
        file: "imageService.buildRepositoryName", default: Some("beta9-users"),
        expected: "a repository name such as team/images",
        help: "Repository of the build registry that images are pushed to, each under its image id",
    }
    BUILD_REGISTRY_CREDENTIALS {
        env: &["CLIPWRIGHT_BUILD_REGISTRY_CREDENTIALS"],
        file: "imageService.buildRegistryCredentials", secret: true, mapping: true,
        expected: "user:password or a type and credentials, complete",
        help: "How to log in to the build registry; without them docker's config file is asked",
    }
    BUILD_REGISTRY_INSECURE {
        flag: "build-registry-insecure", env: &["CLIPWRIGHT_BUILD_REGISTRY_INSECURE"],
        file: "imageService.buildRegistryInsecure", expected: "true or false",
        help: "Whether the build registry is spoken to without TLS; by default its host's name decides",
    }
    INSECURE_REGISTRIES {
        flag: "insecure-registry", env: &["CLIPWRIGHT_INSECURE_REGISTRIES"],
        file: "clipwright.insecureRegistries", list: true,
        expected: "host or host:port, separated by commas",
        help: "Registry that is spoken to without TLS",
    }
    PRIVATE_ADDRESSES {
        flag: "private-addresses", env: &["CLIPWRIGHT_PRIVATE_ADDRESSES"],
        file: "clipwright.privateAddresses", expected: "true or false",
        help: "Whether images may come from this machine and private networks; by default not where a database is set",
    }
    AMBIENT_CREDENTIALS {
        flag: "ambient-credentials", env: &["CLIPWRIGHT_AMBIENT_CREDENTIALS"],
        file: "clipwright.ambientCredentials", list: true,
        expected: "all, none, or host or host:port, separated by commas",
        help: "Registries for which jobs without credentials use the service's own; by default all, or docker.io alone where a database is set",
    }
    REFERENCE_FORM {
        flag: "reference-form", env: &["CLIPWRIGHT_REFERENCE_FORM"],
        file: "clipwright.referenceForm", default: Some("digest"),
        expected: "digest or tag-and-digest",
        help: "How archives name their image; tag-and-digest is for workers older than May 2026",
    }
    SPAN_MIB {
        flag: "span-mib", env: &["CLIPWRIGHT_SPAN_MIB"], file: "clipwright.spanMib",
        default: Some("1"), expected: "1 to 32",
        help: "MiB of plain bytes between places in a layer where reading can begin",
    }
    SECRET_KEY {
        env: &["CLIPWRIGHT_SECRET_KEY"], file: "clipwright.secretKey", secret: true, list: true,
        expected: "32 bytes in hex or base64, in quotes; several separated by commas",
        help: "Key that encrypts credentials in the database; the first of several, all of which decrypt",
    }
    LOG_FORMAT {
        flag: "log-format", env: &["CLIPWRIGHT_LOG_FORMAT"], file: "clipwright.logFormat",
        default: Some("text"), expected: "text or json", help: "How log lines look",
    }
    OTLP_ENDPOINT {
        flag: "otlp-endpoint", env: &["CLIPWRIGHT_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"],
        file: "clipwright.otlpEndpoint", expected: "http:// or https://, a host and no credentials",
        help: "Collector that traces are sent to by OTLP over HTTP, below /v1/traces; without one there are none",
    }
    OTLP_TRACES_ENDPOINT {
        flag: "otlp-traces-endpoint",
        env: &["CLIPWRIGHT_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"],
        file: "clipwright.otlpTracesEndpoint",
        expected: "http:// or https://, a host and no credentials",
        help: "The same with its path as it is, for a collector that takes traces elsewhere",
    }
    OTLP_METRICS {
        flag: "otlp-metrics", env: &["CLIPWRIGHT_OTLP_METRICS"], file: "clipwright.otlpMetrics",
        default: Some("false"), expected: "true or false",
        help: "Send metrics to the collector too, below /v1/metrics",
    }
    OTLP_METRICS_ENDPOINT {
        flag: "otlp-metrics-endpoint",
        env: &["CLIPWRIGHT_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"],
        file: "clipwright.otlpMetricsEndpoint",
        expected: "http:// or https://, a host and no credentials",
        help: "The same with its path as it is; then metrics are sent whatever else is said",
    }
    OTLP_HEADERS {
        env: &["CLIPWRIGHT_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"],
        file: "clipwright.otlpHeaders", secret: true, expected: "name=value, separated by commas",
        help: "Headers for the collector, such as one that authorizes",
    }
    OTLP_SERVICE_NAME {
        flag: "otlp-service-name", env: &["CLIPWRIGHT_OTLP_SERVICE_NAME", "OTEL_SERVICE_NAME"],
        file: "clipwright.otlpServiceName", default: Some("clipwright"), expected: "a name",
        help: "What the process is called in traces",
    }
    METRICS_BY_WORKSPACE {
        flag: "metrics-by-workspace", env: &["CLIPWRIGHT_METRICS_BY_WORKSPACE"],
        file: "clipwright.metricsByWorkspace", default: Some("false"), expected: "true or false",
        help: "Tell attempts at jobs apart by workspace in metrics: as many series more as there are workspaces",
    }
    LOG_LEVEL {
        flag: "log-level", env: &["CLIPWRIGHT_LOG_LEVEL", "RUST_LOG"], file: "clipwright.logLevel",
        default: Some("info"),
        expected: "error, warn, info, debug, trace or off, or a list that has target=level too",
        help: "Which log lines are written",
    }
}

/// What layers may cost, which is not only the service's business: a setting for each limit.
pub(super) static LIMITS: LazyLock<Vec<(Limit, Setting)>> =
    LazyLock::new(|| Limit::ALL.iter().map(|limit| (*limit, of_limit(&limit.row()))).collect());

/// Every setting, in the order of the help text.
pub(super) fn all() -> impl Iterator<Item = &'static Setting> + Clone {
    NAMED.iter().copied().chain(limits())
}

pub(super) fn limits() -> impl Iterator<Item = &'static Setting> + Clone {
    LIMITS.iter().map(|(_, setting)| setting)
}

/// `pathBytes` is the flag `--limit-path-bytes` and the variable `CLIPWRIGHT_LIMIT_PATH_BYTES`. The names
/// live as long as the process, as those of the table do.
fn of_limit(row: &LimitSetting) -> Setting {
    let words =
        row.key.chars().flat_map(|c| c.is_ascii_uppercase().then_some('-').into_iter().chain([c]));
    let flag = format!("limit-{}", words.collect::<String>().to_lowercase());
    let variable = format!("CLIPWRIGHT_{}", flag.to_uppercase().replace('-', "_"));
    Setting {
        flag: flag.leak(),
        env: vec![&*variable.leak()].leak(),
        file: format!("clipwright.limits.{}", row.key).leak(),
        default: Some(row.default.to_string().leak()),
        expected: format!("1 to {}", row.max).leak(),
        help: row.help,
        ..NONE
    }
}

/// The settings given on the command line; flatten it into a clap command.
#[derive(Debug, Clone, Default)]
pub struct SettingsArgs {
    values: BTreeMap<&'static str, String>,
}

impl SettingsArgs {
    pub(super) fn get(&self, setting: &Setting) -> Option<&str> {
        self.values.get(setting.flag).map(String::as_str)
    }
}

impl Setting {
    fn arg(&self) -> Arg {
        let mut help = format!("{}\n[values: {}]", self.help, self.expected);
        for (what, text) in [
            ("default", self.default.unwrap_or_default().to_owned()),
            ("env", self.env.join(", ")),
            ("file", self.file.to_owned()),
        ] {
            if !text.is_empty() {
                help = format!("{help} [{what}: {text}]");
            }
        }
        let action = if self.list { ArgAction::Append } else { ArgAction::Set };
        Arg::new(self.flag).long(self.flag).value_name("VALUE").action(action).help(help)
    }
}

/// Adds the flags of `settings` to a command.
pub(super) fn augment(
    command: Command,
    settings: impl Iterator<Item = &'static Setting>,
) -> Command {
    command.args(settings.filter(|setting| !setting.flag.is_empty()).map(Setting::arg))
}

impl SettingsArgs {
    /// Takes the values of `settings` over.
    pub(super) fn update(
        &mut self,
        matches: &ArgMatches,
        settings: impl Iterator<Item = &'static Setting>,
    ) {
        for setting in settings.filter(|setting| !setting.flag.is_empty()) {
            if let Some(values) = matches.get_many::<String>(setting.flag) {
                let values: Vec<_> = values.map(String::as_str).collect();
                self.values.insert(setting.flag, values.join(","));
            }
        }
    }
}

impl clap::Args for SettingsArgs {
    fn augment_args(command: Command) -> Command {
        augment(command, all())
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for SettingsArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.update(matches, all());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::Args as _;

    use super::*;

    #[test]
    fn the_table_is_sound() {
        SettingsArgs::augment_args(Command::new("x")).debug_assert();
        let mut names = BTreeSet::new();
        for setting in all() {
            assert!(!setting.help.is_empty());
            assert!(!setting.secret || setting.flag.is_empty(), "{}", setting.file);
            for name in setting.env.iter().chain([&setting.flag, &setting.file]) {
                assert!(name.is_empty() || names.insert(*name), "{name} stands twice");
            }
        }
    }
}
