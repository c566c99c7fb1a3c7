//! A context that is a commit of a git repository: fetched alone, without history, tags and submodules, and written
//! as a tar that depends on its files alone. git is told by a configuration of its own where it may go: to the
//! addresses that the egress policy allows, by one protocol, and after no redirect. Hooks, filters, helpers and
//! what the machine or a user configures play no part. Credentials are in that file, which lives as long
//! as the call.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;

use super::error::SourceError;
use super::{FetchedContext, SourceLimits, digest_of};
use crate::build::BuildError;
use crate::egress::{AddressRefused, Egress};
use crate::local::io_error;

/// Which commit of which repository.
mod name;
/// Running git.
mod run;

pub use name::{GitContext, InvalidGitContext};

use run::{Run, Said};

/// The first git that goes to the addresses that it is told.
const LEAST: (u32, u32) = (2, 37);
/// What says which proxy is to be used, as curl reads it.
const PROXIES: [&str; 5] = ["https_proxy", "HTTPS_PROXY", "http_proxy", "all_proxy", "ALL_PROXY"];
const NO_PROXY: [&str; 2] = ["no_proxy", "NO_PROXY"];
/// Files with certificates to be trusted, the first that is named.
const TRUSTED: [&str; 2] = ["GIT_SSL_CAINFO", "SSL_CERT_FILE"];

/// Fetches contexts from git repositories.
#[derive(Debug, Clone)]
pub struct Git {
    /// Which addresses may be reached.
    pub egress: Egress,
    /// What a context may cost.
    pub limits: SourceLimits,
    /// Where repositories are while they are fetched.
    pub scratch: PathBuf,
}

impl Git {
    /// Writes the commit's files to `file`, as a tar. `login` is `user:password`.
    pub async fn fetch(
        &self,
        context: &GitContext,
        login: Option<&SecretString>,
        file: &Path,
        cancel: &CancellationToken,
    ) -> Result<FetchedContext, BuildError> {
        let limit = self.limits.time;
        let fetching = self.try_fetch(context, login, file);
        let fetching = cancel.run_until_cancelled(tokio::time::timeout(limit, fetching));
        match fetching.await {
            None => Err(BuildError::Cancelled),
            Some(Ok(fetched)) => fetched,
            Some(Err(_)) => Err(SourceError::TimedOut { what: context.to_string(), limit }.into()),
        }
    }

    async fn try_fetch(
        &self,
        context: &GitContext,
        login: Option<&SecretString>,
        file: &Path,
    ) -> Result<FetchedContext, BuildError> {
        let home = tempfile::tempdir_in(&self.scratch)
            .map_err(io_error("can't make a directory for a git repository"))?;
        let addresses = self.addresses(context).await?;
        let config = home.path().join("settings");
        write_config(&config, &config_of(context, addresses.as_deref(), login, self.limits))
            .map_err(io_error("can't write git's configuration"))?;
        let run = Run {
            what: context.to_string(),
            home: home.path(),
            config: &config,
            environment: environment(context, addresses.is_some()),
            most: self.limits.bytes,
        };
        check_version(&run.git(&["version"]).await?, &run)?;
        run.git(&["init", "--quiet", "--bare", "--template=", "."]).await?;
        // Archives leave out and rewrite what these say, which no checkout does.
        std::fs::create_dir_all(home.path().join("info"))
            .and_then(|()| {
                let text = "* -export-ignore -export-subst -filter\n";
                std::fs::write(home.path().join("info/attributes"), text)
            })
            .map_err(io_error("can't write git's attributes"))?;
        let reference = context.reference().unwrap_or("HEAD");
        let (url, depth) = (context.repository(), "--depth=1");
        let fetch = ["fetch", "--quiet", depth, "--no-tags", "--no-recurse-submodules", "--"];
        run.git(&[&fetch[..], &[url, reference]].concat()).await?;
        let commit = run.git(&["rev-parse", "--verify", "FETCH_HEAD^{commit}"]).await?.line();
        let tree = match context.directory() {
            None => format!("{commit}^{{tree}}"),
            Some(directory) => format!("{commit}:{directory}"),
        };
        let missing = |_| SourceError::NotFound {
            what: run.what.clone(),
            reason: "the commit has no such directory".to_owned(),
        };
        let tree = run.git(&["rev-parse", "--verify", "--end-of-options", &tree]).await;
        let tree = tree.map_err(missing)?.line();
        // Times and ids of the commit would make another context of the same files.
        let alone = run.git(&["commit-tree", "-m", "context", &tree]).await.map_err(missing)?;
        let output = format!("--output={}", file.display());
        run.git(&["archive", "--format=tar", &output, &alone.line()]).await?;
        Ok(FetchedContext { digest: digest_of(file).await?, commit: Some(commit) })
    }

    /// Where the repository's host is, as far as that may be reached. `None`: only a proxy knows.
    async fn addresses(
        &self,
        context: &GitContext,
    ) -> Result<Option<Vec<SocketAddr>>, SourceError> {
        let (host, port) = (context.host(), context.port());
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        let found: Vec<SocketAddr> = match tokio::net::lookup_host((literal, port)).await {
            Ok(found) => found.collect(),
            Err(_) if has_proxy() => return Ok(None),
            Err(error) => {
                let reason = format!("{host} can't be resolved: {error}");
                return Err(SourceError::Unavailable { what: context.to_string(), reason });
            }
        };
        let allowed: Vec<_> =
            found.iter().copied().filter(|found| self.egress.allows(found.ip())).collect();
        if allowed.is_empty() {
            return Err(AddressRefused { host: host.to_owned() }.into());
        }
        Ok(Some(allowed))
    }
}

fn has_proxy() -> bool {
    PROXIES.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// What git gets of this process's environment: how to reach other machines, if that is by a proxy. Where only the proxy
/// knows the host, nothing goes past it.
fn environment(
    context: &GitContext,
    knows_addresses: bool,
) -> Vec<(&'static str, std::ffi::OsString)> {
    if context.is_here() {
        return Vec::new();
    }
    let names = PROXIES.iter().chain(NO_PROXY.iter().filter(|_| knows_addresses));
    names.filter_map(|name| Some((*name, std::env::var_os(name)?))).collect()
}

/// Read by its owner alone.
fn write_config(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

/// All of git's configuration. Writing into a text can't fail.
fn config_of(
    context: &GitContext,
    addresses: Option<&[SocketAddr]>,
    login: Option<&SecretString>,
    limits: SourceLimits,
) -> String {
    let mut text = format!(
        "[protocol]\n\tallow = never\n[protocol \"{}\"]\n\tallow = always\n\
         [http]\n\tfollowRedirects = false\n\tlowSpeedLimit = 1\n\tlowSpeedTime = {}\n",
        context.scheme(),
        limits.silence.as_secs(),
    );
    // Such as `host:443:192.0.2.1,2001:db8::1`.
    if let Some(addresses) = addresses {
        let host = context.host();
        let name = host.trim_start_matches('[').trim_end_matches(']');
        // An address is gone to as it is.
        if name.parse::<std::net::IpAddr>().is_err() {
            let list: Vec<_> = addresses.iter().map(|found| found.ip().to_string()).collect();
            let pinned = format!("{host}:{}:{}", context.port(), list.join(","));
            let _ = writeln!(text, "\tcurloptResolve = {}", quoted(&pinned));
        }
    }
    let trusted = TRUSTED.iter().find_map(|name| std::env::var(name).ok());
    if let Some(file) = trusted.filter(|file| !file.is_empty()) {
        let _ = writeln!(text, "\tsslCAInfo = {}", quoted(&file));
    }
    if let Some(login) = login {
        let header = STANDARD.encode(login.expose_secret());
        let header = quoted(&format!("Authorization: Basic {header}"));
        let origin =
            quoted(&format!("{}://{}:{}/", context.scheme(), context.host(), context.port()));
        let _ = writeln!(text, "[http {origin}]\n\textraHeader = {header}");
    }
    text.push_str(
        "[core]\n\thooksPath = /dev/null\n\tattributesFile = /dev/null\n\
         [fetch]\n\tunpackLimit = 1\n\trecurseSubmodules = false\n\
         [transfer]\n\tunpackLimit = 1\n\tbundleURI = false\n\
         [submodule]\n\trecurse = false\n[credential]\n\thelper =\n\
         [gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n[pack]\n\tthreads = 1\n\
         [tar]\n\tumask = 0022\n",
    );
    text
}

/// A value, or a section's name, as git reads it.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

fn check_version(said: &Said, run: &Run<'_>) -> Result<(), SourceError> {
    let text = said.line();
    let mut numbers = text.split([' ', '.']).filter_map(|part| part.parse::<u32>().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found >= LEAST {
        return Ok(());
    }
    let reason = format!("it has {text}: expected {}.{} or later", LEAST.0, LEAST.1);
    Err(SourceError::Impossible { what: run.what.clone(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_is_told_where_to_go_and_what_to_say() {
        let context: GitContext = "https://git.example/team/app#main".parse().unwrap();
        let addresses: Vec<SocketAddr> =
            vec!["192.0.2.1:443".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap()];
        let login = SecretString::from("user:hunter2");
        let limits = SourceLimits::default();
        let text = config_of(&context, Some(&addresses), Some(&login), limits);
        for line in [
            "\tcurloptResolve = \"git.example:443:192.0.2.1,2001:db8::1\"",
            "[protocol]\n\tallow = never\n[protocol \"https\"]\n\tallow = always",
            "\tfollowRedirects = false",
            "[http \"https://git.example:443/\"]\n\textraHeader = \"Authorization: Basic dXNlcjpodW50ZXIy\"",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        let alone = config_of(&context, None, None, limits);
        assert!(!alone.contains("curloptResolve") && !alone.contains("extraHeader"), "{alone}");
    }
}
