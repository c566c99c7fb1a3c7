//! `OciSettings`: how images are reached. What the names of registries say of them is told here too;
//! nothing is asked of anybody.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::egress::Egress;
use crate::oci::credentials::Credentials;
use crate::oci::observe::{RequestObserver, Unobserved};
use crate::retry::RetrySettings;

/// How images are reached.
#[derive(Debug, Clone)]
pub struct OciSettings {
    /// `host` or `host:port` of registries that are spoken to over plain HTTP, beside those whose
    /// names say so (CONTRACT B.2).
    pub insecure_hosts: Vec<String>,
    /// The same of those that are spoken to over TLS, whatever their names or the other list say.
    pub secure_hosts: Vec<String>,
    /// Which addresses may be reached.
    pub egress: Egress,
    /// Registries that the operator uses, `host[:port]`: those, the insecure ones, and what they
    /// point to, may be at private addresses.
    pub own_hosts: Vec<String>,
    /// For which registries ambient credentials are used, where none are given.
    pub ambient: AmbientCredentials,
    /// Docker's configuration file with ambient credentials; `None` is where Docker keeps it.
    pub docker_config: Option<PathBuf>,
    /// Where the credentials that are given for an image were read: they are read again there when the
    /// registry refuses them.
    pub credentials_file: Option<PathBuf>,
    /// For images on Docker Hub that come without credentials; they go before those of docker's
    /// file (CONTRACT F.5).
    pub default_hub_credentials: Option<Credentials>,
    /// How often and how fast to try again.
    pub retry: RetrySettings,
    /// The longest silence within an answer that is borne.
    pub idle_timeout: Duration,
    /// Who is told of requests.
    pub observer: Arc<dyn RequestObserver>,
}

impl OciSettings {
    /// The settings for what the operator asks for: the ambient credentials are his.
    #[must_use]
    pub fn of_operator(&self) -> Self {
        Self { ambient: AmbientCredentials::All, ..self.clone() }
    }

    /// Whether a registry (`host[:port]`) is spoken to without TLS: by the lists, and else by its
    /// name alone as go-containerregistry does (CONTRACT B.2).
    pub fn is_plain(&self, registry: &str) -> bool {
        !lists(&self.secure_hosts, registry)
            && (is_local(registry) || lists(&self.insecure_hosts, registry))
    }

    /// Which addresses may be reached for the sake of a registry (`host[:port]`).
    pub(super) fn egress_for(&self, registry: &str) -> Egress {
        let own = self.own_hosts.iter().any(|host| host.eq_ignore_ascii_case(registry));
        if own || lists(&self.insecure_hosts, registry) { Egress::Private } else { self.egress }
    }
}

/// For which registries ambient credentials are used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AmbientCredentials {
    /// All.
    #[default]
    All,
    /// Those listed, `host` or `host:port`, as [`crate::oci::normalise_registry`] writes them.
    Of(Vec<String>),
}

impl AmbientCredentials {
    pub(super) fn are_for(&self, registry: &str) -> bool {
        match self {
            Self::All => true,
            Self::Of(hosts) => lists(hosts, registry),
        }
    }
}

/// Whether a registry is on a list of `host` or `host:port`.
fn lists(hosts: &[String], registry: &str) -> bool {
    let host = host_name(registry);
    let is =
        |entry: &String| entry.eq_ignore_ascii_case(registry) || entry.eq_ignore_ascii_case(host);
    hosts.iter().any(is)
}

impl Default for OciSettings {
    fn default() -> Self {
        Self {
            insecure_hosts: Vec::new(),
            secure_hosts: Vec::new(),
            egress: Egress::default(),
            own_hosts: Vec::new(),
            ambient: AmbientCredentials::default(),
            docker_config: None,
            credentials_file: None,
            default_hub_credentials: None,
            retry: RetrySettings::default(),
            idle_timeout: Duration::from_mins(1),
            observer: Arc::new(Unobserved),
        }
    }
}

/// Whether the name of a host (`host[:port]`) says that it is on this machine or its network.
pub fn is_local(registry: &str) -> bool {
    let host = host_name(registry);
    [".localhost", ".local"].iter().any(|suffix| host.ends_with(suffix))
        || is_loopback(host)
        || host.parse().is_ok_and(|address: Ipv4Addr| address.is_private())
}

pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback())
        || host.parse().is_ok_and(|address: Ipv6Addr| address.is_loopback())
}

/// `host[:port]` without the port, `[v6]:port` without brackets and port.
pub(super) fn host_name(registry: &str) -> &str {
    match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => registry.split(':').next().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_by_name_or_list() {
        for http in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "127.1.2.3",
            "[::1]:5000",
            "registry.localhost:5000",
            "nas.local",
            "10.0.0.1",
            "192.168.1.1:80",
            "172.16.0.1",
            "Listed.example:5000",
            "bare.example:1",
        ] {
            let listed = vec!["listed.example:5000".to_owned(), "bare.example".to_owned()];
            let settings = OciSettings { insecure_hosts: listed, ..OciSettings::default() };
            assert!(settings.is_plain(http), "{http}");
            let secure_hosts = vec![http.to_owned()];
            let settings = OciSettings { secure_hosts, ..settings };
            assert!(!settings.is_plain(http), "{http}");
        }
        for https in
            ["index.docker.io", "ghcr.io", "localhost.evil.com", "1.2.3.4", "172.32.0.1", "local"]
        {
            assert!(!OciSettings::default().is_plain(https), "{https}");
        }
    }
}
