//! Runs of a migration, and what it leaves.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::bench::{Bench, IMAGE};
use crate::support::service::{Service, Settings};
use crate::support::upstream::run;
use crate::support::v1::bundle_archive;

impl Bench {
    /// Runs a migration to its end.
    pub(crate) async fn migrate(&self, to: u8, discard: bool) -> Value {
        self.service.run(submission(to, discard)).await
    }
}

impl Service {
    /// A v1 archive of these files in the directory store, made by hand.
    pub(crate) fn put_v1(&self, id: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let path = self.archive(id);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bundle_archive(files)).unwrap();
        path
    }
}

pub(crate) fn submission(to: u8, discard: bool) -> Value {
    json!({ "kind": "migrate", "image_id": IMAGE, "to": to, "discard_kept": discard })
}

/// The migration of a job that succeeded.
pub(crate) fn migration(job: &Value) -> &Value {
    assert_eq!(job["state"], "succeeded", "{job:#}");
    &job["result"]["migration"]
}

/// Archives name images so that upstream's older readers find them too.
pub(crate) fn settings() -> Settings {
    Settings::default()
        .argument("build-repository", "migrated/images")
        .argument("reference-form", "tag-and-digest")
}

/// What is below a directory, sorted, with its size; directories left out.
pub(crate) fn files_in(directory: &Path) -> Vec<(String, u64)> {
    let listing =
        run(Command::new("find").arg(directory).args(["-type", "f", "-printf", "%P %s\n"]));
    let mut files: Vec<_> = String::from_utf8(listing)
        .unwrap()
        .lines()
        .map(|line| {
            let (name, size) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), size.parse().unwrap())
        })
        .filter(|(name, _)| !name.starts_with("layer-index/") && name != ".lock")
        .collect();
    files.sort();
    files
}
