//! buildah as the builder. It never speaks to a registry: base images are in the storage before it begins,
//! and what it builds is read out of the storage and pushed by our own client, so that no credential comes near it.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use secrecy::ExposeSecret as _;
use tokio_util::sync::CancellationToken;

use super::BuildError;
use super::backend::{BackendVersion, BuildBackend, BuildOrder, BuiltImage};
use super::cgroup::{Cgroup, Resources};
use super::disk::DiskWatch;
use super::dockerfile::Features;
use super::log::{LogSink, Mask};
use super::network::{Network, NetworkException};
use super::process::{End, LastLines, Launcher};
use super::programs::{self, PATH};
use super::sandbox::{self, SandboxSpec};
use super::storage::Site;
use crate::digest::Digest;
use crate::local::io_error;

/// What it says, line by line.
mod output;
/// What a line says.
mod said;

use output::Output;

const PROGRAM: &str = "buildah";
/// The first version that understands here-documents.
const HEREDOCS: (u32, u32) = (1, 33);
/// Whatever isn't a build takes no longer.
const LIMIT: Duration = Duration::from_mins(30);
/// The probe takes no longer.
const PROBE: Duration = Duration::from_secs(20);
/// Removed at a time when layers are too many.
const PRUNED: usize = 8;

/// How `RUN` is kept apart from the builder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// By a root of its own; needs no OCI runtime.
    #[default]
    Chroot,
    /// By runc.
    Oci,
}

impl Isolation {
    /// As it stands in settings, and as buildah calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chroot => "chroot",
            Self::Oci => "oci",
        }
    }

    /// By its name.
    pub fn of(text: &str) -> Option<Self> {
        [Self::Chroot, Self::Oci].into_iter().find(|one| one.as_str() == text)
    }
}

/// buildah, as it is installed.
#[derive(Debug)]
pub struct Buildah {
    launcher: Launcher,
    isolation: Isolation,
    resources: Resources,
    exceptions: Vec<NetworkException>,
    version: BackendVersion,
    features: Features,
}

impl Buildah {
    /// Looks for buildah, and runs it in a sandbox: where that works, builds do. `scratch` is an empty
    /// directory.
    pub async fn probe(
        launcher: Launcher,
        isolation: Isolation,
        resources: Resources,
        scratch: &Path,
    ) -> Result<Self, BuildError> {
        let impossible = |reason: String| BuildError::Impossible { reason };
        if isolation == Isolation::Oci && programs::find("runc").is_none() {
            return Err(impossible("runc is not installed, which isolation oci needs".to_owned()));
        }
        if programs::find(PROGRAM).is_none() {
            return Err(impossible("buildah is not installed".to_owned()));
        }
        if let Some(reason) = resources.obstacle() {
            return Err(impossible(reason));
        }
        let site = Site::open(&scratch.join("storage"), scratch).await?;
        let mut lines = LastLines::default();
        let spec = spec(&site, isolation, &["version"], Network::None);
        let end = launcher.run(&spec, PROBE, &mut lines, &CancellationToken::new()).await?;
        let text = lines.text();
        let version = text.split("; ").find_map(|line| line.strip_prefix("Version:"));
        let Some(version) = version.filter(|_| end == End::Exit(0)).map(str::trim) else {
            return Err(impossible(sandbox_reason(&lines).unwrap_or(text)));
        };
        let mut numbers = version.split('.').map_while(|part| part.parse::<u32>().ok());
        let numbers = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        Ok(Self {
            launcher,
            isolation,
            resources,
            exceptions: Vec::new(),
            features: Features { heredocs: numbers >= HEREDOCS },
            version: BackendVersion { name: PROGRAM.to_owned(), version: version.to_owned() },
        })
    }

    /// What the filtered network lets through although it is private.
    #[must_use]
    pub fn with_exceptions(self, exceptions: Vec<NetworkException>) -> Self {
        Self { exceptions, ..self }
    }

    /// The network that builds have here when it should be `wanted`, and why it is another: where a
    /// filtered one can't be made, there is none. `scratch` is an empty directory.
    pub async fn network(
        &self,
        wanted: Network,
        scratch: &Path,
    ) -> Result<(Network, Option<String>), BuildError> {
        if wanted != Network::Filtered {
            return Ok((wanted, None));
        }
        let site = Site::open(&scratch.join("storage"), scratch).await?;
        let mut lines = LastLines::default();
        let mut spec = spec(&site, self.isolation, &["version"], wanted);
        spec.exceptions.clone_from(&self.exceptions);
        match self.launcher.run(&spec, PROBE, &mut lines, &CancellationToken::new()).await? {
            End::Exit(0) => Ok((wanted, None)),
            _ => Ok((Network::None, Some(sandbox_reason(&lines).unwrap_or_else(|| lines.text())))),
        }
    }

    /// Runs one command that is no build.
    async fn command(
        &self,
        site: &Site,
        action: &'static str,
        arguments: &[&str],
        cancel: &CancellationToken,
    ) -> Result<(), BuildError> {
        let mut lines = LastLines::default();
        let spec = spec(site, self.isolation, arguments, Network::None);
        match self.launcher.run(&spec, LIMIT, &mut lines, cancel).await? {
            End::Exit(0) => Ok(()),
            End::Cancelled => Err(BuildError::Cancelled),
            End::TimedOut => Err(BuildError::TimedOut { limit: LIMIT, place: None }),
            End::Exit(sandbox::CODE) if let Some(reason) = sandbox_reason(&lines) => {
                Err(BuildError::Impossible { reason })
            }
            End::Exit(_) => {
                let said = lines.0.iter().rev().find_map(|line| line.strip_prefix("Error: "));
                let reason = said.map_or_else(|| lines.text(), str::to_owned);
                Err(BuildError::Backend { program: PROGRAM, action, reason })
            }
        }
    }
}

/// What the sandbox itself could not do.
fn sandbox_reason(lines: &LastLines) -> Option<String> {
    lines.0.iter().find_map(|line| line.strip_prefix(sandbox::FAILED)).map(str::to_owned)
}

/// The sandbox of one command.
fn spec(site: &Site, isolation: Isolation, arguments: &[&str], network: Network) -> SandboxSpec {
    let shown = |path: PathBuf| path.display().to_string();
    let environment = [
        ("PATH", PATH.to_owned()),
        ("HOME", "/root".to_owned()),
        ("TMPDIR", shown(site.scratch("tmp"))),
        ("XDG_RUNTIME_DIR", shown(site.run_root())),
        ("CONTAINERS_STORAGE_CONF", shown(site.conf("storage.conf"))),
        ("CONTAINERS_REGISTRIES_CONF", shown(site.conf("registries.conf"))),
        ("CONTAINERS_CONF", shown(site.conf("containers.conf"))),
        ("BUILDAH_ISOLATION", isolation.as_str().to_owned()),
    ];
    SandboxSpec {
        arguments: std::iter::once(PROGRAM)
            .chain(arguments.iter().copied())
            .map(str::to_owned)
            .collect(),
        environment: environment.map(|(name, value)| (name.to_owned(), value)).into(),
        root: site.scratch("root"),
        read_only: Vec::new(),
        writable: vec![site.layers(), site.scratch_root().to_owned()],
        temporary: site.scratch("tmp"),
        network,
        exceptions: Vec::new(),
        cgroups: Vec::new(),
        makes_cgroups: isolation == Isolation::Oci,
    }
}

#[async_trait]
impl BuildBackend for Buildah {
    fn version(&self) -> &BackendVersion {
        &self.version
    }

    fn features(&self) -> Features {
        self.features
    }

    async fn has_image(&self, site: &Site, config: Digest) -> bool {
        site.has_image(config)
    }

    async fn import(
        &self,
        site: &Site,
        directory: &Path,
        cancel: &CancellationToken,
    ) -> Result<(), BuildError> {
        let policy = site.conf("policy.json").display().to_string();
        let from = format!("dir:{}", directory.display());
        let arguments = ["pull", "--quiet", "--signature-policy", &policy, &from];
        self.command(site, "pull", &arguments, cancel).await
    }

    async fn build(
        &self,
        site: &Site,
        order: &BuildOrder<'_>,
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> Result<BuiltImage, BuildError> {
        let file = site.scratch("Dockerfile");
        let image = site.scratch("image-id");
        let failed = |path: &Path| io_error(format!("can't write {}", path.display()));
        fs::write(&file, order.text).map_err(failed(&file))?;
        let secrets = SecretFiles::write(site, order)?;
        let mut arguments = self.arguments(site, order, &file, &image);
        for (id, value) in order.secrets {
            let fault = super::secret_id_fault(id, order.secrets_as_arguments);
            let has_nul = order.secrets_as_arguments && value.expose_secret().contains('\0');
            if let Some(reason) = fault.or(has_nul.then_some("has a NUL in its value")) {
                let reason = format!("secret {id:?} {reason}");
                return Err(BuildError::Failed { reason, tail: Vec::new() });
            }
        }
        for (id, path) in &secrets.files {
            arguments.extend([
                "--secret".to_owned(),
                format!("id={id},type=file,src={}", path.display()),
            ]);
        }
        let mut environment = Vec::new();
        if order.secrets_as_arguments {
            for (name, value) in order.secrets {
                // Its value is taken from the environment, which other users of the machine can't read.
                arguments.extend(["--build-arg".to_owned(), name.clone()]);
                environment.push((name.clone(), value.expose_secret().to_owned()));
            }
        }
        arguments.push(order.context.display().to_string());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut spec = spec(site, self.isolation, &arguments, order.network);
        spec.environment.extend(environment);
        spec.exceptions.clone_from(&self.exceptions);
        if !order.context.starts_with(site.scratch_root()) {
            spec.read_only.push(order.context.clone());
        }
        let cgroup = Cgroup::make(&self.resources)?;
        spec.cgroups = cgroup.as_ref().map(Cgroup::files).unwrap_or_default();

        let mask = Mask::of(order.secrets.values());
        let mut output = Output::new(order.dockerfile, mask, log, site);
        let ticking = output.ticker();
        let run = self.launcher.run(&spec, order.timeout, &mut output, cancel);
        let watch = self
            .resources
            .disk_mib
            .map(|mib| (mib, DiskWatch::new(site, mib << 20, spec.cgroups.clone())));
        let outgrown = async {
            match watch {
                Some((mib, watch)) => watch.exceeded().await.map(|()| mib),
                None => std::future::pending().await,
            }
        };
        let end = tokio::select! {
            end = run => Ok(end?),
            // What runs is killed by being dropped: told to end, it would go on writing for a while.
            mib = outgrown => Err(mib?),
            never = ticking.tick(log) => match never {},
        };
        let starved = cgroup.as_ref().is_some_and(Cgroup::ran_out_of_memory);
        drop((secrets, cgroup));
        let end = match end {
            Ok(end) => end,
            Err(mib) => return Err(BuildError::OutOfDisk { mib, place: output.place() }),
        };
        match end {
            End::Exit(0) => {
                let text =
                    fs::read_to_string(&image).map_err(io_error("can't read the image's id"))?;
                let config = text.trim().parse().map_err(|_| BuildError::BadFile {
                    path: image,
                    reason: format!("expected a digest, found {:?}", text.trim()),
                })?;
                site.touch(&Digest::hex(&config));
                Ok(BuiltImage { config, steps: output.into_steps() })
            }
            End::Cancelled => Err(BuildError::Cancelled),
            End::TimedOut => {
                Err(BuildError::TimedOut { limit: order.timeout, place: output.place() })
            }
            End::Exit(_) if starved => Err(BuildError::OutOfMemory {
                mib: self.resources.memory_mib.unwrap_or_default(),
                place: output.place(),
            }),
            End::Exit(code) => Err(output.failure(code)),
        }
    }

    async fn sweep(&self, site: &Site) -> Result<(), BuildError> {
        let never = CancellationToken::new();
        let left = site.own_containers();
        if !left.is_empty() {
            let arguments: Vec<&str> =
                ["rm"].into_iter().chain(left.iter().map(String::as_str)).collect();
            self.command(site, "rm", &arguments, &never).await?;
        }
        // One that was never mounted, since its builder was killed before, could be anybody's.
        if site.has_containers() && site.try_alone().await? {
            let removed = self.command(site, "rm", &["rm", "--all"], &never).await;
            site.share()?;
            removed?;
        }
        Ok(())
    }

    async fn tidy(
        &self,
        site: &Site,
        most: u64,
        cancel: &CancellationToken,
    ) -> Result<u64, BuildError> {
        let mut removed = 0;
        if site.has_containers() {
            self.command(site, "rm", &["rm", "--all"], cancel).await?;
            removed += 1;
        }
        // Containers whose builder was killed before it had written that they are its own go with the image that
        // they are of alone.
        for image in site.images_of_containers() {
            self.command(site, "rmi", &["rmi", "--force", &image], cancel).await?;
            site.forget(&image);
        }
        let mut images = site.images();
        images.sort_by_key(|image| std::cmp::Reverse(site.used_at(image)));
        while most < u64::MAX && site.size() > most && !images.is_empty() {
            let oldest = images.split_off(images.len().saturating_sub(PRUNED));
            let names = oldest.iter().map(String::as_str);
            let arguments: Vec<&str> = ["rmi", "--force"].into_iter().chain(names).collect();
            self.command(site, "rmi", &arguments, cancel).await?;
            for image in &oldest {
                site.forget(image);
                removed += 1;
            }
        }
        site.forget_exported();
        Ok(removed)
    }
}

impl Buildah {
    fn arguments(
        &self,
        site: &Site,
        order: &BuildOrder<'_>,
        file: &Path,
        image: &Path,
    ) -> Vec<String> {
        let shown = |path: &Path| path.display().to_string();
        let mut arguments: Vec<String> = [
            "bud",
            "--layers",
            "--force-rm",
            "--format",
            "docker",
            "--pull=never",
            "--http-proxy=false",
            "--isolation",
            self.isolation.as_str(),
        ]
        .map(str::to_owned)
        .into();
        let policy = site.conf("policy.json");
        arguments.extend(["--signature-policy".to_owned(), shown(&policy)]);
        arguments.extend(["--iidfile".to_owned(), shown(image), "--file".to_owned(), shown(file)]);
        arguments.extend(["--platform".to_owned(), order.platform.to_string()]);
        if self.isolation == Isolation::Oci {
            arguments.extend(["--runtime".to_owned(), "runc".to_owned()]);
        }
        // That of the sandbox, whichever it is.
        arguments.extend(["--network".to_owned(), "host".to_owned()]);
        if order.no_cache {
            arguments.push("--no-cache".to_owned());
        }
        if let Some(target) = order.target {
            arguments.extend(["--target".to_owned(), target.to_owned()]);
        }
        for (name, config) in order.bases {
            let context = format!("{name}=container-image://{}", config.hex());
            arguments.extend(["--build-context".to_owned(), context]);
        }
        for (name, value) in order.arguments {
            arguments.extend(["--build-arg".to_owned(), format!("{name}={value}")]);
        }
        for (name, value) in order.labels {
            arguments.extend(["--label".to_owned(), format!("{name}={value}")]);
        }
        arguments
    }
}

/// Files that hold secrets, for as long as a build lasts.
struct SecretFiles {
    files: Vec<(String, PathBuf)>,
}

impl SecretFiles {
    fn write(site: &Site, order: &BuildOrder<'_>) -> Result<Self, BuildError> {
        use std::io::Write as _;
        let mut written = Self { files: Vec::new() };
        for (number, (id, value)) in order.secrets.iter().enumerate() {
            let path = site.scratch("secrets").join(number.to_string());
            written.files.push((id.clone(), path.clone()));
            let file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path);
            file.and_then(|mut file| file.write_all(value.expose_secret().as_bytes()))
                .map_err(io_error("can't write a secret's file"))?;
        }
        Ok(written)
    }
}

impl Drop for SecretFiles {
    fn drop(&mut self) {
        for (_, path) in &self.files {
            // The directory goes in any case.
            let _ = fs::remove_file(path);
        }
    }
}
