//! Finding a PostgreSQL server on this machine.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{AccessFlags, access};

use super::DatabaseError;

/// Where Debian and its descendants put servers, which are not in PATH there.
const VERSIONS: &str = "/usr/lib/postgresql";

/// Where to look.
pub(super) struct Search {
    path: OsString,
    versions: PathBuf,
    pg_config: &'static str,
}

/// A directory with a `postgres` and an `initdb`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries(PathBuf);

impl Binaries {
    pub(super) fn postgres(&self) -> PathBuf {
        self.0.join("postgres")
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.0.join("initdb")
    }

    /// The major version, such as `15`: the name that data directories carry in `PG_VERSION`.
    fn major(&self) -> Option<String> {
        let text = output(&self.postgres(), "--version")?;
        // "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)", or "18beta1" before a release.
        let version = text.split_whitespace().nth(2)?;
        let end = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
        (end > 0).then(|| version[..end].to_owned())
    }
}

impl Search {
    pub(super) fn of_this_machine() -> Self {
        Self {
            path: env::var_os("PATH").unwrap_or_default(),
            versions: VERSIONS.into(),
            pg_config: "pg_config",
        }
    }

    /// The best server for `data`: the first found, or the first of the version that made it.
    pub(super) fn find(&self, data: &Path) -> Result<Binaries, DatabaseError> {
        let mut found = self.candidates();
        if found.is_empty() {
            let versions = self.versions.join("*/bin").display().to_string();
            return Err(DatabaseError::NotInstalled { versions });
        }
        let Ok(made_by) = fs::read_to_string(data.join("PG_VERSION")) else {
            return Ok(found.swap_remove(0));
        };
        let expected = made_by.trim();
        let majors: Vec<String> =
            found.iter().map(|b| b.major().unwrap_or_else(|| "unknown".to_owned())).collect();
        match majors.iter().position(|major| major == expected) {
            Some(index) => Ok(found.swap_remove(index)),
            None => Err(DatabaseError::WrongVersion {
                path: data.to_owned(),
                expected: expected.to_owned(),
                found: majors.join(", "),
            }),
        }
    }

    fn candidates(&self) -> Vec<Binaries> {
        let mut installed: Vec<(u32, PathBuf)> = fs::read_dir(&self.versions)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let major = entry.file_name().to_str()?.parse().ok()?;
                Some((major, entry.path().join("bin")))
            })
            .collect();
        installed.sort_by(|a, b| b.cmp(a));
        let mut found: Vec<Binaries> = env::split_paths(&self.path)
            .chain(installed.into_iter().map(|(_, path)| path))
            .chain(output(Path::new(self.pg_config), "--bindir").map(|s| s.trim().into()))
            .filter(|path| path.is_absolute())
            .map(Binaries)
            .filter(|b| [b.postgres(), b.initdb()].iter().all(|program| executable(program)))
            .collect();
        found.dedup();
        found
    }
}

fn executable(path: &Path) -> bool {
    path.is_file() && access(path, AccessFlags::X_OK).is_ok()
}

fn output(program: &Path, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn search(root: &Path) -> Search {
        Search { path: root.join("path").into(), versions: root.join("versions"), pg_config: "" }
    }

    /// Something that says it is `version`.
    fn install(directory: &Path, version: &str) {
        fs::create_dir_all(directory).unwrap();
        for name in ["postgres", "initdb"] {
            let path = directory.join(name);
            // Through a shell and not by writing here: a test that forks meanwhile would hold
            // the file open for writing, and running it then fails.
            let script =
                format!("printf '#!/bin/sh\necho postgres \"(PostgreSQL)\" {version}' >\"$0\"");
            assert!(
                Command::new("sh").args(["-c", &script]).arg(&path).status().unwrap().success()
            );
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    #[test]
    fn nothing_installed_says_what_to_install() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("versions/15/bin")).unwrap();
        let error = search(root.path()).find(root.path()).unwrap_err().to_string();
        assert!(error.contains("apt-get install postgresql"), "{error}");
        assert!(error.contains("versions/*/bin"), "{error}");
    }

    #[test]
    fn newest_first_unless_the_data_says_otherwise() {
        let root = tempfile::tempdir().unwrap();
        for version in ["9", "15", "17"] {
            install(&root.path().join("versions").join(version).join("bin"), version);
        }
        let search = search(root.path());
        let bin = |version| Binaries(root.path().join(format!("versions/{version}/bin")));
        assert_eq!(search.find(root.path()).unwrap(), bin("17"));

        fs::write(root.path().join("PG_VERSION"), "15\n").unwrap();
        assert_eq!(search.find(root.path()).unwrap(), bin("15"));

        fs::write(root.path().join("PG_VERSION"), "16\n").unwrap();
        let error = search.find(root.path()).unwrap_err().to_string();
        assert!(error.contains("PostgreSQL 16, but this machine has 17, 15, 9"), "{error}");

        install(&root.path().join("path"), "16beta2");
        assert_eq!(search.find(root.path()).unwrap(), Binaries(root.path().join("path")));
    }
}
