//! The body of a build.

use std::collections::BTreeMap;

use secrecy::ExposeSecret as _;
use serde::Deserialize;
use utoipa::ToSchema;

use super::super::workspaces::is_registry_host;
use super::context::NewContext;
use super::{CredentialText, Faults, NewWebhook, source_of, version};
use crate::api::extract::SecretText;
use crate::archive::{Fallback, LayerPolicy};
use crate::build::context::MAX_PATH;
use crate::build::{MAX_DOCKERFILE, is_id, secret_id_fault};
use crate::jobs::build::{PUSH_SECRET, REGISTRY_PREFIX, SECRET_PREFIX};
use crate::jobs::job::{BuildSpec, ImageId, JobSpec, Priority, PullSpec};
use crate::jobs::pull::REGISTRY_SECRET;
use crate::jobs::queue::{NewJob, Secrets};
use crate::oci::normalise_registry;

/// Seconds that a build may take, unless the body says (CONTRACT D.6).
pub(in crate::api) const TIMEOUT: u64 = 3600;
const MAX_TIMEOUT: u64 = 24 * 3600;

/// What a build's fields may be together.
mod schema;

/// A build: an image from a Dockerfile, in the build registry, and its archive. Without a Dockerfile and a
/// context, `source` is indexed where it is, as by a pull.
#[derive(Deserialize)]
#[serde(transparent)]
pub(in crate::api) struct NewBuild(Fields);

/// The fields of all builds.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// `build`.
    kind: BuildKind,
    /// Names the archive in the store, and is the image's tag in the build registry.
    #[schema(value_type = ImageId, required)]
    image_id: Option<String>,
    /// The Dockerfile's text.
    #[schema(min_length = 1, max_length = 262_144, pattern = r"^[^\x00]+$")]
    dockerfile: Option<String>,
    /// Where in the context the Dockerfile is; `Dockerfile` when absent.
    #[schema(min_length = 1, max_length = 3072, pattern = r"^[^\x00]+$")]
    dockerfile_path: Option<String>,
    /// Where the context is; an empty one when absent.
    context: Option<NewContext>,
    /// Image that is indexed if there is neither a Dockerfile nor a context.
    source: Option<String>,
    /// Values of `ARG`s. They are shown with the job, and are in the image's history.
    #[serde(default)]
    #[schema(schema_with = schema::arguments)]
    build_args: BTreeMap<String, String>,
    /// Secrets for `RUN --mount=type=secret,id=..`, by their ids. Kept encrypted until the job is final.
    #[serde(default)]
    #[schema(schema_with = schema::secrets)]
    secrets: BTreeMap<String, SecretText>,
    /// Offer the secrets as `ARG`s too: programs that the build runs can read them then.
    #[serde(default)]
    secrets_as_build_args: bool,
    /// The stage to build; the last one when absent.
    #[schema(pattern = "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
    target: Option<String>,
    /// `os/architecture[/variant]`; the service's own platform when absent.
    #[schema(value_type = Option<String>, pattern = r"^[A-Za-z0-9._-]{1,64}(/[A-Za-z0-9._-]{1,64}){1,2}$", examples("linux/arm64"))]
    platform: Option<String>,
    /// Labels that the image gets.
    #[serde(default)]
    #[schema(schema_with = schema::labels)]
    labels: BTreeMap<String, String>,
    /// Use no layers of earlier builds.
    #[schema(default = false)]
    no_cache: Option<bool>,
    /// Seconds that the builder may take.
    #[schema(minimum = 1, maximum = 86_400, default = 3600)]
    timeout: Option<u64>,
    /// The archive version wanted, 1 or 2; the configured one when absent. An image that is to be v1 is
    /// not pushed.
    #[schema(minimum = 1, maximum = 2)]
    clip_version: Option<u8>,
    /// What to do when the image can't be served as v2; what is configured when absent.
    fallback: Option<Fallback>,
    /// Replace an archive of this image id that has other content.
    #[schema(default = false)]
    force: Option<bool>,
    /// Which of several jobs is taken first; `normal` when absent.
    priority: Option<Priority>,
    /// The job ends as `expired` when no worker takes it in so many seconds.
    #[schema(minimum = 1, maximum = 2_592_000)]
    expires_in: Option<u64>,
    /// How to log in to the registries of base images, by their hosts. Kept encrypted until the job is final.
    #[serde(default)]
    #[schema(schema_with = schema::credentials)]
    credentials: BTreeMap<String, CredentialText>,
    /// How to log in to the build registry; as the service itself when absent.
    #[schema(write_only)]
    build_registry_credentials: Option<CredentialText>,
    /// Whom to tell when the job ends.
    webhook: Option<NewWebhook>,
}

/// The kind of a build.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum BuildKind {
    /// Build an image from a Dockerfile.
    Build,
}

impl NewBuild {
    pub(super) fn into_job(self, faults: &mut Faults) -> Option<NewJob> {
        let Self(fields) = self;
        let BuildKind::Build = fields.kind;
        fields.check(faults);
        let builds = fields.dockerfile.is_some()
            || fields.dockerfile_path.is_some()
            || fields.context.is_some();
        if builds { fields.into_build(faults) } else { fields.into_pull(faults) }
    }
}

impl Fields {
    /// What is looked at in each build, whatever becomes of it.
    fn check(&self, faults: &mut Faults) {
        if self.target.as_ref().is_some_and(|target| !is_target(target)) {
            faults.wrong("target", "is no name of a stage");
        }
        faults.map("build_args", self.build_args.iter().map(texts), argument_fault);
        faults.map("labels", self.labels.iter().map(texts), |name| {
            (name.is_empty() || name.contains(['=', '\0'])).then_some("is no name of a label")
        });
        let secrets = self.secrets.iter().map(|(id, secret)| (id, secret.secret().expose_secret()));
        faults.map("secrets", secrets, |id| secret_id_fault(id, false));
        let hosts = self.credentials.keys().map(|host| (host, ""));
        faults.map("credentials", hosts, |host| {
            (!is_registry_host(host)).then_some("is no host, such as registry.example:5000")
        });
        let timeout = self.timeout.unwrap_or(TIMEOUT);
        if !(1..=MAX_TIMEOUT).contains(&timeout) {
            faults.wrong("timeout", format!("is {timeout}: expected 1 to {MAX_TIMEOUT} seconds"));
        }
    }

    fn into_build(self, faults: &mut Faults) -> Option<NewJob> {
        let image_id = faults.image_id(self.image_id);
        let platform = faults.platform(self.platform);
        let clip_version = self.clip_version.map(|n| faults.keep("clip_version", version(n)));
        let has_context = self.context.is_some();
        let mut secrets = Secrets::new();
        let context = self.context.map(|context| context.into_place(faults, &mut secrets));
        let context = context.unwrap_or_default();
        if self.source.is_some() {
            faults.wrong(
                "source",
                "goes with neither a Dockerfile nor a context: FROM names the image",
            );
        }
        if let Some(text) = &self.dockerfile {
            if self.dockerfile_path.is_some() {
                faults.wrong("dockerfile_path", "there is a dockerfile already");
            }
            let found = text.len();
            if found == 0 || found > MAX_DOCKERFILE || text.contains('\0') {
                let detail =
                    format!("has {found} bytes: expected 1 to {MAX_DOCKERFILE}, and no NUL");
                faults.wrong("dockerfile", detail);
            }
        } else if !has_context {
            faults.wrong("dockerfile_path", "is a path in a context, and there is none");
        }
        if self
            .dockerfile_path
            .as_ref()
            .is_some_and(|path| path.is_empty() || path.len() > MAX_PATH || path.contains('\0'))
        {
            let detail = format!("expected a path in the context of at most {MAX_PATH} bytes");
            faults.wrong("dockerfile_path", detail);
        }
        let as_arguments = self.secrets_as_build_args;
        for id in self.secrets.keys().filter(|id| as_arguments && is_id(id)) {
            if let Some(reason) = secret_id_fault(id, true) {
                faults.wrong("secrets", format!("{id:?} {reason}"));
            }
        }
        let secret_ids = self.secrets.keys().cloned().collect();
        for (id, secret) in self.secrets {
            secrets.insert(format!("{SECRET_PREFIX}{id}"), secret.into_secret());
        }
        for (host, given) in self.credentials {
            let registry = normalise_registry(&host);
            if let Some(secret) = faults.credentials("credentials", given.0, Some(&registry)) {
                secrets.insert(format!("{REGISTRY_PREFIX}{registry}"), secret);
            }
        }
        if let Some(given) = self.build_registry_credentials
            && let Some(secret) = faults.credentials("build_registry_credentials", given.0, None)
        {
            secrets.insert(PUSH_SECRET.to_owned(), secret);
        }
        let expires_in = faults.expiry(self.expires_in);
        let webhook = faults.webhook(self.webhook);
        let spec = BuildSpec {
            image_id: image_id?,
            dockerfile: self.dockerfile,
            dockerfile_path: self.dockerfile_path,
            context: context.sent,
            context_object: context.object,
            context_git: context.git,
            build_args: self.build_args,
            secret_ids,
            secrets_as_build_args: as_arguments,
            target: self.target,
            platform: platform?.normalised(),
            labels: self.labels,
            no_cache: self.no_cache.unwrap_or_default(),
            timeout: self.timeout.unwrap_or(TIMEOUT),
            clip_version: clip_version.flatten(),
            fallback: self.fallback,
            force: self.force.unwrap_or_default(),
        };
        let priority = self.priority.unwrap_or_default();
        let new = NewJob::new(JobSpec::Build(Box::new(spec)));
        Some(NewJob { priority, secrets, webhook, expires_in, ..new })
    }

    /// Nothing to build: the source is indexed (CONTRACT D.1).
    fn into_pull(self, faults: &mut Faults) -> Option<NewJob> {
        let image_id = faults.image_id(self.image_id);
        let missing = "is missing: expected a Dockerfile, a context, or a source to be indexed";
        let source = faults.keep("dockerfile", self.source.ok_or(missing));
        let source = source.and_then(|text| faults.keep("source", source_of(&text)));
        let platform = faults.platform(self.platform);
        let clip_version = self.clip_version.map(|n| faults.keep("clip_version", version(n)));
        let mut secrets = Secrets::new();
        for (host, given) in self.credentials {
            let registry = normalise_registry(&host);
            let secret = faults.credentials("credentials", given.0, Some(&registry));
            if source.as_ref().is_some_and(|source| source.registry() == registry) {
                secrets.extend(secret.map(|secret| (REGISTRY_SECRET.to_owned(), secret)));
            }
        }
        // Nothing is pushed.
        if let Some(given) = self.build_registry_credentials {
            faults.credentials("build_registry_credentials", given.0, None);
        }
        let expires_in = faults.expiry(self.expires_in);
        let webhook = faults.webhook(self.webhook);
        let spec = PullSpec {
            image_id: image_id?,
            source: source?,
            platform: platform?.normalised(),
            clip_version: clip_version.flatten(),
            layers: LayerPolicy::default(),
            fallback: self.fallback,
            force: self.force.unwrap_or_default(),
        };
        let priority = self.priority.unwrap_or_default();
        let new = NewJob::new(JobSpec::Pull(spec));
        Some(NewJob { priority, secrets, webhook, expires_in, ..new })
    }
}

fn texts<'a>((name, value): (&'a String, &'a String)) -> (&'a String, &'a str) {
    (name, value)
}

fn argument_fault(name: &str) -> Option<&'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_name =
        name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit()) && name.bytes().all(plain);
    (!is_name).then_some("is no name of an ARG")
}

fn is_target(target: &str) -> bool {
    is_id(target) && !target.starts_with(['-', '.'])
}
