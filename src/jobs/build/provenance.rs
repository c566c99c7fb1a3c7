//! How an image came to be: an in-toto statement with SLSA provenance (in-toto "Statement layer" v1, SLSA
//! "Provenance" v1). Of secrets it has the ids alone.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::build::{BackendVersion, BaseImage};
use crate::digest::Digest;
use crate::jobs::job::{BuildReport, BuildRun, BuildSpec, ContextOrigin, JobResult};
use crate::oci::Reference;

/// The media type of statements.
pub const STATEMENT: &str = "application/vnd.in-toto+json";
/// What the statement says.
pub(super) const PREDICATE: &str = "https://slsa.dev/provenance/v1";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// What the parameters of a build mean: those of docs/builds.md.
const BUILD_TYPE: &str = "urn:clipwright:build:v1";
const BUILDER: &str = "urn:clipwright:builder";
/// The service among the builder's versions.
const SERVICE: &str = "clipwright";
const DOCKERFILE: &str = "dockerfile";
const CONTEXT: &str = "context";
/// The annotation of a base image that holds its reference.
const REFERENCE: &str = "reference";
/// The annotation of a context that holds its name in the workspace's bucket.
const OBJECT: &str = "object";
/// What the URI of a context in a git repository begins with (SPDX's download locations), and its commit
/// among the digests.
const GIT: &str = "git+";
const COMMIT: &str = "gitCommit";

/// An in-toto statement about an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProvenanceStatement)]
pub struct Statement {
    /// `https://in-toto.io/Statement/v1`.
    #[serde(rename = "_type")]
    kind: String,
    /// The image; of a build that was not pushed, its archive.
    subject: Vec<Resource>,
    /// `https://slsa.dev/provenance/v1`.
    predicate_type: String,
    /// How it came to be.
    predicate: Provenance,
}

/// Something by its digest (in-toto, "Resource descriptor").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ProvenanceResource)]
pub struct Resource {
    /// What it is called.
    name: String,
    /// Where it is: a package URL of an image, the repository of a context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
    /// By the name of the algorithm, in hex.
    digest: BTreeMap<String, String>,
    /// Of base images: `reference`, by which it was fetched. Of a context: `object`, its name in the bucket.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// SLSA provenance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Provenance {
    /// What was asked for, and what it was made from.
    build_definition: BuildDefinition,
    /// Who did it, and when.
    run_details: RunDetails,
}

/// What was asked for, and what it was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BuildDefinition {
    /// `urn:clipwright:build:v1`.
    build_type: String,
    /// What the job says.
    external_parameters: ExternalParameters,
    /// The Dockerfile, the context and the base images.
    resolved_dependencies: Vec<Resource>,
}

/// What the job says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalParameters {
    /// Where in the context the Dockerfile is; absent if the job brought its text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dockerfile_path: Option<String>,
    /// Values of `ARG`s.
    build_args: BTreeMap<String, String>,
    /// Ids of the secrets.
    secret_ids: Vec<String>,
    /// Whether secrets were offered as `ARG`s too.
    secrets_as_build_args: bool,
    /// The stage that was built; the last one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// `os/architecture[/variant]`.
    platform: String,
    /// Labels that the image got.
    labels: BTreeMap<String, String>,
    /// Whether no layers of earlier builds were used.
    no_cache: bool,
}

/// Who did it, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ProvenanceRun)]
pub struct RunDetails {
    /// Who did it.
    builder: Builder,
    /// When, and for which job.
    metadata: Metadata,
}

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ProvenanceBuilder)]
pub struct Builder {
    /// `urn:clipwright:builder`.
    id: String,
    /// Of the service, and of what it builds with.
    version: BTreeMap<String, String>,
}

/// When, and for which job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProvenanceMetadata)]
pub struct Metadata {
    /// Id of the job.
    invocation_id: Uuid,
    /// When the build began.
    started_on: DateTime<Utc>,
    /// When the image was built.
    finished_on: DateTime<Utc>,
}

impl Statement {
    /// What is to be told of a build whose image has this name and digest. `None`: an earlier attempt
    /// did it, and nothing is known of that.
    pub(super) fn of(
        job: Uuid,
        spec: &BuildSpec,
        report: &BuildReport,
        (name, digest): (&str, Digest),
    ) -> Option<Self> {
        let (run, backend) = report.run.as_ref().zip(report.backend.as_ref())?;
        let path = spec.dockerfile.is_none().then_some(spec.dockerfile_path.as_deref());
        let path = path.map(|path| path.unwrap_or("Dockerfile").to_owned());
        let own = [
            Some(Resource::new(DOCKERFILE, run.dockerfile)),
            report.context.as_ref().map(Resource::of_context),
        ];
        let bases = report.bases.iter().map(Resource::of_base);
        let versions = [
            (SERVICE.to_owned(), run.service_version.clone()),
            (backend.name.clone(), backend.version.clone()),
        ];
        Some(Self {
            kind: STATEMENT_TYPE.to_owned(),
            subject: vec![Resource::new(name, digest)],
            predicate_type: PREDICATE.to_owned(),
            predicate: Provenance {
                build_definition: BuildDefinition {
                    build_type: BUILD_TYPE.to_owned(),
                    external_parameters: ExternalParameters {
                        dockerfile_path: path,
                        build_args: spec.build_args.clone(),
                        secret_ids: spec.secret_ids.clone(),
                        secrets_as_build_args: spec.secrets_as_build_args,
                        target: spec.target.clone(),
                        platform: spec.platform.to_string(),
                        labels: spec.labels.clone(),
                        no_cache: spec.no_cache,
                    },
                    resolved_dependencies: own.into_iter().flatten().chain(bases).collect(),
                },
                run_details: RunDetails {
                    builder: Builder { id: BUILDER.to_owned(), version: versions.into() },
                    metadata: Metadata {
                        invocation_id: job,
                        started_on: run.started_at,
                        finished_on: run.finished_at,
                    },
                },
            },
        })
    }

    /// The same, of a job that has come to its end.
    pub fn of_result(job: Uuid, spec: &BuildSpec, result: &JobResult) -> Option<Self> {
        let report = result.build.as_ref()?;
        let subject = match &report.reference {
            Some(reference) => subject(&reference.parse().ok()?)?,
            None => (result.archive.key.clone(), result.archive.digest),
        };
        Self::of(job, spec, report, (&subject.0, subject.1))
    }

    /// The same for whoever can read the registry: people put secrets into values of `ARG`s and labels.
    pub(super) fn without_values(&self) -> Self {
        let mut public = self.clone();
        let parameters = &mut public.predicate.build_definition.external_parameters;
        for value in parameters.build_args.values_mut().chain(parameters.labels.values_mut()) {
            value.clear();
        }
        public
    }

    /// As JSON, as it is pushed and served.
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and maps of strings: this can't fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Puts what it tells of a build of this job into the report of an attempt that found the image made.
    pub(super) fn restore(&self, job: Uuid, report: &mut BuildReport) {
        let Provenance { build_definition, run_details } = &self.predicate;
        let Metadata { invocation_id, started_on, finished_on } = run_details.metadata;
        let dependencies = &build_definition.resolved_dependencies;
        // A base image may have any name.
        let own = |name| dependencies.iter().find(move |own| own.name == name && !own.is_base());
        let dockerfile = own(DOCKERFILE);
        let dockerfile = dockerfile.and_then(Resource::sha256);
        let versions = &run_details.builder.version;
        let backend = versions.iter().find(|(name, _)| *name != SERVICE);
        let (Some(dockerfile), Some((name, version))) = (dockerfile, backend) else { return };
        if invocation_id != job || self.predicate_type != PREDICATE {
            return;
        }
        report.run = Some(BuildRun {
            dockerfile,
            service_version: versions.get(SERVICE).cloned().unwrap_or_default(),
            started_at: started_on,
            finished_at: finished_on,
        });
        report.backend = Some(BackendVersion { name: name.clone(), version: version.clone() });
        report.context = own(CONTEXT).and_then(Resource::to_context);
        report.bases = dependencies.iter().filter_map(Resource::to_base).collect();
    }
}

/// An image as the subject of a statement.
pub(super) fn subject(image: &Reference) -> Option<(String, Digest)> {
    let tag = image.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
    let name = format!("{}/{}{tag}", image.registry(), image.repository());
    Some((name, image.digest()?))
}

impl Resource {
    fn new(name: &str, digest: Digest) -> Self {
        let digest = BTreeMap::from([("sha256".to_owned(), digest.hex())]);
        Self { name: name.to_owned(), uri: None, digest, annotations: BTreeMap::new() }
    }

    fn of_context(context: &ContextOrigin) -> Self {
        let mut resource = Self::new(CONTEXT, context.digest);
        resource.uri = context.git.as_ref().map(|git| format!("{GIT}{git}"));
        let commit = context.commit.clone().map(|commit| (COMMIT.to_owned(), commit));
        resource.digest.extend(commit);
        let object = context.object.clone().map(|object| (OBJECT.to_owned(), object));
        resource.annotations.extend(object);
        resource
    }

    fn to_context(&self) -> Option<ContextOrigin> {
        let git = self.uri.as_deref().and_then(|uri| uri.strip_prefix(GIT));
        Some(ContextOrigin {
            digest: self.sha256()?,
            object: self.annotations.get(OBJECT).cloned(),
            git: git.map(str::to_owned),
            commit: self.digest.get(COMMIT).cloned(),
        })
    }

    fn of_base(base: &BaseImage) -> Self {
        let reference = BTreeMap::from([(REFERENCE.to_owned(), base.reference.clone())]);
        let uri = base.reference.parse().ok().and_then(|image| package_url(&image));
        Self { uri, annotations: reference, ..Self::new(&base.name, base.manifest_digest) }
    }

    fn is_base(&self) -> bool {
        self.annotations.contains_key(REFERENCE)
    }

    fn to_base(&self) -> Option<BaseImage> {
        let reference = self.annotations.get(REFERENCE)?.clone();
        let manifest_digest = self.sha256()?;
        // It was, at the latest when the build was over.
        Some(BaseImage { name: self.name.clone(), reference, manifest_digest, cached: true })
    }

    fn sha256(&self) -> Option<Digest> {
        format!("sha256:{}", self.digest.get("sha256")?).parse().ok()
    }
}

/// An image as a package URL (purl specification, type `oci`).
fn package_url(image: &Reference) -> Option<String> {
    let encoded = |text: &str| text.replace(':', "%3A");
    let name = image.repository().rsplit('/').next()?;
    let digest = encoded(&image.digest()?.to_string());
    let place = encoded(&format!("{}/{}", image.registry(), image.repository()));
    Some(format!("pkg:oci/{name}@{digest}?repository_url={place}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::build::Timings;

    fn report() -> BuildReport {
        BuildReport {
            reference: None,
            backend: Some(BackendVersion { name: "buildah".into(), version: "1.28.2".into() }),
            network: None,
            context: Some(ContextOrigin {
                digest: Digest::of(b"context"),
                object: Some("contexts/1.zip".to_owned()),
                git: Some("https://host/repository#main:app".to_owned()),
                commit: Some("0".repeat(40)),
            }),
            bases: vec![BaseImage {
                name: "debian:12".to_owned(),
                reference: format!("host:5000/library/debian@{}", Digest::of(b"base")),
                manifest_digest: Digest::of(b"base"),
                cached: true,
            }],
            run: Some(BuildRun {
                dockerfile: Digest::of(b"FROM debian:12"),
                service_version: "1.0".to_owned(),
                started_at: DateTime::from_timestamp(1, 0).unwrap(),
                finished_at: DateTime::from_timestamp(2, 0).unwrap(),
            }),
            steps: Vec::new(),
            cached_steps: 0,
            timings: Timings::default(),
        }
    }

    fn spec() -> BuildSpec {
        serde_json::from_value(json!({
            "image_id": "961eaef6668e480f", "dockerfile_path": "a/Dockerfile", "timeout": 1,
            "platform": "linux/amd64", "secret_ids": ["token"],
        }))
        .unwrap()
    }

    #[test]
    fn a_statement_says_what_slsa_wants_to_know() {
        let job = Uuid::from_u128(7);
        let image: Reference =
            format!("host.example/images:id@{}", Digest::of(b"image")).parse().unwrap();
        let subject = subject(&image).unwrap();
        let statement = Statement::of(job, &spec(), &report(), (&subject.0, subject.1)).unwrap();
        let hex = |content: &[u8]| json!({"sha256": Digest::of(content).hex()});
        let said: serde_json::Value = serde_json::from_slice(&statement.to_json()).unwrap();
        assert_eq!(said["_type"], STATEMENT_TYPE);
        assert_eq!(
            said["subject"],
            json!([{"name": "host.example/images:id", "digest": hex(b"image")}])
        );
        let definition = &said["predicate"]["buildDefinition"];
        assert_eq!(definition["externalParameters"]["dockerfilePath"], "a/Dockerfile");
        assert_eq!(definition["externalParameters"]["secretIds"], json!(["token"]));
        let base = Digest::of(b"base").hex();
        let dependencies = json!([
            {"name": "dockerfile", "digest": hex(b"FROM debian:12")},
            {
                "name": "context", "uri": "git+https://host/repository#main:app",
                "digest": {"sha256": Digest::of(b"context").hex(), "gitCommit": "0".repeat(40)},
                "annotations": {"object": "contexts/1.zip"},
            },
            {
                "name": "debian:12", "digest": hex(b"base"),
                "uri": format!("pkg:oci/debian@sha256%3A{base}?repository_url=host%3A5000/library/debian"),
                "annotations": {"reference": format!("host:5000/library/debian@sha256:{base}")},
            },
        ]);
        assert_eq!(definition["resolvedDependencies"], dependencies);
        let run = &said["predicate"]["runDetails"];
        assert_eq!(run["builder"]["version"], json!({"clipwright": "1.0", "buildah": "1.28.2"}));
        assert_eq!(run["metadata"]["invocationId"], job.to_string());
        assert_eq!(run["metadata"]["startedOn"], "1970-01-01T00:00:01Z");

        // An attempt that finds the image made tells the same.
        let read: Statement = serde_json::from_slice(&statement.to_json()).unwrap();
        let nothing =
            BuildReport { backend: None, context: None, bases: Vec::new(), run: None, ..report() };
        assert!(Statement::of(job, &spec(), &nothing, (&subject.0, subject.1)).is_none());
        let mut restored = nothing.clone();
        read.restore(job, &mut restored);
        assert_eq!(restored, report());
        let mut of_another = nothing.clone();
        read.restore(Uuid::from_u128(8), &mut of_another);
        assert_eq!(of_another, nothing);
    }
}
