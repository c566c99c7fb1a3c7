//! Registries: which one images of our own making go to, and how any of them is reached.

use std::sync::Arc;

use super::layers::Layers;
use super::setting::{self, Setting};
use super::value::{from_str, registry_host, secret};
use super::{ConfigError, both};
use crate::egress::Egress;
use crate::oci::{
    AmbientCredentials, Credentials, DOCKER_HUB, OciSettings, Reference, is_local,
    normalise_registry,
};
use crate::telemetry::registry::RegistryMetrics;

/// The repository that images of our own making are pushed to.
#[derive(Debug, Clone)]
pub struct BuildRegistry {
    /// `host[:port]` in lower case.
    pub host: String,
    /// The repository.
    pub repository: String,
    /// How to log in; `None` leaves it to docker's config file.
    pub credentials: Option<Credentials>,
}

pub(super) fn build_registry(layers: &Layers<'_>) -> Result<BuildRegistry, ConfigError> {
    let host = layers.require(&setting::BUILD_REGISTRY, registry_host)?;
    let repository =
        layers.require(&setting::BUILD_REPOSITORY, |text| repository_name(&host, text))?;
    let credentials = layers.parse(&setting::BUILD_REGISTRY_CREDENTIALS, |text| {
        Credentials::parse(text, &host).ok().flatten()
    })?;
    Ok(BuildRegistry { host, repository, credentials })
}

/// A setting that is a repository of a registry.
pub(super) fn repository(
    layers: &Layers<'_>,
    setting: &Setting,
    host: &str,
) -> Result<Option<String>, ConfigError> {
    layers.parse(setting, |text| repository_name(host, text))
}

fn repository_name(host: &str, text: &str) -> Option<String> {
    let whole: Option<Reference> = from_str(&format!("{host}/{text}"));
    whole.filter(|whole| whole.repository() == text).map(|_| text.to_owned())
}

/// How registries are reached. `embedded`: the service is for this machine alone, where everything
/// may be reached with whatever credentials there are, unless said otherwise.
pub(super) fn oci(
    layers: &Layers<'_>,
    build_registry: &BuildRegistry,
    embedded: bool,
) -> Result<OciSettings, ConfigError> {
    let BuildRegistry { host, credentials, .. } = build_registry;
    let listed = layers.parse(&setting::INSECURE_REGISTRIES, hosts)?.unwrap_or_default();
    let insecure: Option<bool> = layers.parse(&setting::BUILD_REGISTRY_INSECURE, from_str)?;
    let private = layers.parse(&setting::PRIVATE_ADDRESSES, from_str)?.unwrap_or(embedded);
    let settings = OciSettings {
        own_hosts: vec![host.clone()],
        insecure_hosts: sorted(listed.into_iter().chain(own(host, insecure == Some(true)))),
        secure_hosts: own(host, insecure == Some(false)).collect(),
        egress: if private { Egress::Private } else { Egress::Public },
        ambient: match layers.parse(&setting::AMBIENT_CREDENTIALS, ambient)? {
            Some(ambient) => ambient,
            None if embedded => AmbientCredentials::All,
            // Where beta9 logs in by itself too.
            None => AmbientCredentials::Of(vec![DOCKER_HUB.to_owned()]),
        },
        default_hub_credentials: docker_hub(layers)?,
        observer: Arc::new(RegistryMetrics),
        ..OciSettings::default()
    };
    let secret = credentials.as_ref().is_some_and(|c| !matches!(c, Credentials::Anonymous));
    if secret && settings.is_plain(host) && !is_local(host) && insecure != Some(true) {
        return Err(ConfigError::CredentialsInClear { host: host.clone() });
    }
    Ok(settings)
}

fn own(host: &str, is: bool) -> impl Iterator<Item = String> {
    is.then(|| host.to_owned()).into_iter()
}

fn sorted(hosts: impl Iterator<Item = String>) -> Vec<String> {
    let mut hosts: Vec<String> = hosts.collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

fn hosts(text: &str) -> Option<Vec<String>> {
    text.split(',').map(|host| registry_host(host.trim())).collect()
}

fn ambient(text: &str) -> Option<AmbientCredentials> {
    match text {
        "all" => Some(AmbientCredentials::All),
        "none" => Some(AmbientCredentials::Of(Vec::new())),
        text => {
            let hosts = hosts(text)?.iter().map(|host| normalise_registry(host)).collect();
            Some(AmbientCredentials::Of(hosts))
        }
    }
}

fn docker_hub(layers: &Layers<'_>) -> Result<Option<Credentials>, ConfigError> {
    let user: &Setting = &setting::DOCKER_USERNAME;
    let username = layers.parse(user, secret)?;
    let password = layers.parse(&setting::DOCKER_PASSWORD, secret)?;
    let pair = both(username, user, password, &setting::DOCKER_PASSWORD)?;
    Ok(pair.map(|(username, password)| Credentials::Basic { username, password }))
}
