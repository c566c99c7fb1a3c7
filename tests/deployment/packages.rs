//! What a package holds besides the program.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::upstream::{run, skip};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    run(Command::new(env!("CARGO_BIN_EXE_clipwright")).arg("man").arg(dir.path()));
    let page = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert!(page("clipwright-serve.1").contains("CLIPWRIGHT_OTLP_ENDPOINT"));
    assert!(page("clipwright-rollout-report.1").contains("report"));
    let help = run(Command::new(env!("CARGO_BIN_EXE_clipwright")).arg("--help"));
    let help = String::from_utf8(help).unwrap();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.len() > 15, "{commands:?}");
    for command in commands {
        assert!(page("clipwright.1").contains(command), "{command}");
        assert!(!page(&format!("clipwright-{command}.1")).is_empty());
    }
    // What nobody calls by hand has none.
    assert!(!dir.path().join("clipwright-inside.1").exists());
    let nowhere = dir.path().join("nowhere");
    let refused = Command::new(env!("CARGO_BIN_EXE_clipwright")).arg("man").arg(nowhere).output();
    assert!(!refused.unwrap().status.success());
}

#[test]
fn systemd_takes_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return skip("no systemd-analyze here");
    }
    let dir = tempfile::tempdir().unwrap();
    for unit in ["clipwright.service", "clipwright-mount@.service"] {
        let text = std::fs::read_to_string(root().join("packaging/systemd").join(unit)).unwrap();
        assert!(text.contains("ExecStart=/usr/bin/clipwright "), "{unit}");
        // It looks whether the program is there.
        let text = text.replace("/usr/bin/clipwright", env!("CARGO_BIN_EXE_clipwright"));
        let file = dir.path().join(unit);
        std::fs::write(&file, text).unwrap();
        let checked = Command::new("systemd-analyze")
            .args(["verify", "--man=no", "--recursive-errors=no"])
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8(checked.stderr).unwrap();
        assert!(checked.status.success() && !said.contains("Unknown"), "{unit}: {said}");
    }
}

#[test]
fn the_package_is_made_of_what_is_there() {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let deb = &metadata["packages"][0]["metadata"]["deb"];
    let assets = deb["assets"].as_array().unwrap();
    assert!(assets.len() > 10, "{deb}");
    let sources = assets.iter().map(|asset| asset[0].as_str().unwrap());
    let scripts = [deb["maintainer-scripts"].as_str().unwrap()];
    let units = deb["systemd-units"].as_array().unwrap().iter();
    let units = units.map(|unit| unit["unit-scripts"].as_str().unwrap());
    let own = sources.filter(|path| !path.starts_with("target/"));
    for path in own.chain(scripts).chain(units) {
        assert!(root().join(path.trim_end_matches("/*")).exists(), "{path}");
    }
}

#[test]
fn release_notes_are_the_changelogs() {
    let script = root().join("scripts/release_notes.sh");
    let notes = run(Command::new(&script).arg("unreleased"));
    let notes = String::from_utf8(notes).unwrap();
    assert!(notes.trim().len() > 100 && !notes.contains("\n## "), "{notes}");
    let unknown = Command::new(&script).arg("99.0.0").output().unwrap();
    assert!(!unknown.status.success());
    assert!(String::from_utf8(unknown.stderr).unwrap().contains("99.0.0"));
}
