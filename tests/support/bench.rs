//! A service beside a registry, which most tests of jobs need.

use tempfile::TempDir;

use super::layout::{Blob, Layout};
use super::registry::Registry;
use super::service::{Service, Settings};

/// The image that tests of one image are about.
pub(crate) const IMAGE: &str = "0123456789abcdef";

/// A registry to pull from, which is the build registry too, and a service.
pub(crate) struct Bench {
    pub(crate) service: Service,
    pub(crate) registry: Registry,
    pub(crate) dir: TempDir,
}

impl Bench {
    pub(crate) async fn new(settings: Settings) -> Self {
        // On the disk that the build is on: whole images don't belong in memory.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let registry = Registry::start(dir.path());
        let settings = settings.argument("build-registry", &registry.address);
        Self { service: Service::start(settings).await, registry, dir }
    }

    /// Pushes an image of these layers; its reference.
    pub(crate) fn push(&self, layers: &[Blob]) -> String {
        self.registry.push(Layout::of(layers).path(), "images/source")
    }
}
