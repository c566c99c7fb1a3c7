//! Images that say odd things of themselves, through the real binary.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::layout::{Blob, Layout, architecture, tar};
use crate::support::upstream::run;

fn clipwright(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipwright"));
    command.env_remove("CLIPWRIGHT_CREDENTIALS").args(arguments);
    command
}

fn name(layout: &Layout) -> String {
    format!("oci:{}:latest", layout.path().display())
}

fn index(layout: &Layout, platform: &str, archive: &Path) -> Output {
    clipwright(&["index", &name(layout), "--platform", platform, "-o"])
        .arg(archive)
        .output()
        .unwrap()
}

/// Another platform than this machine's.
const OTHER: &str = "linux/s390x";

fn platform(architecture: &str) -> Value {
    json!({ "os": "linux", "architecture": architecture })
}

#[test]
fn an_archive_is_verified_by_the_digest_that_it_pins() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = ["one", "other"].map(|text| [Blob::gzip(&tar(&[("a", text.as_bytes())]))]);
    // No config says what its image is made for.
    let images =
        [(platform(architecture()), &one[..], json!({})), (platform("s390x"), &other, json!({}))];
    let layout = Layout::several(&images);
    let archive = dir.path().join("image.clip");
    let indexed = index(&layout, OTHER, &archive);
    assert!(indexed.status.success(), "{}", String::from_utf8_lossy(&indexed.stderr));
    run(clipwright(&["verify", "--deep", "--source", &name(&layout)]).arg(&archive));
}

#[test]
fn the_index_goes_before_the_config_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let layers = [Blob::gzip(&tar(&[("a", b"x")]))];
    let config = platform(architecture());
    let layout = Layout::several(&[(platform("s390x"), &layers, config)]);
    let archive = dir.path().join("image.clip");
    let indexed = index(&layout, OTHER, &archive);
    let said = String::from_utf8_lossy(&indexed.stderr);
    assert!(indexed.status.success(), "{said}");
    let warning = format!("the index says {OTHER}, the image's config linux/{}", architecture());
    assert!(said.contains(&warning), "{said}");
    run(clipwright(&["verify", "--deep", "--source", &name(&layout)]).arg(&archive));
}

#[test]
fn foreign_layers_are_taken_where_they_are_held() {
    let dir = tempfile::tempdir().unwrap();
    for media_type in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ] {
        let foreign = Blob { media_type, ..Blob::gzip(&tar(&[("a", b"x")])) };
        let layout = Layout::of(&[Blob::gzip(&tar(&[("b", b"y")])), foreign.clone()]);
        for (command, archive) in [("index", "v2.clip"), ("pack", "v1.clip")] {
            let archive = dir.path().join(archive);
            run(clipwright(&[command, &name(&layout), "-o"]).arg(&archive));
            if command == "pack" {
                assert_eq!(run(clipwright(&["cat"]).arg(&archive).arg("/rootfs/a")), b"x");
            }
        }
        std::fs::remove_file(layout.blob(foreign.digest)).unwrap();
        for command in ["index", "pack"] {
            let archive = dir.path().join("none.clip");
            let refused =
                clipwright(&[command, &name(&layout), "-o"]).arg(&archive).output().unwrap();
            let said = String::from_utf8_lossy(&refused.stderr);
            assert!(!refused.status.success() && !archive.exists(), "{said}");
            let words =
                format!("layer {} ({media_type}) is kept outside of the registry", foreign.digest);
            assert!(said.contains(&words), "{said}");
        }
    }
}
