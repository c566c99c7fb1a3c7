//! A real registry (`docker-registry`) on a loopback port of the kernel's choice, for one test.

use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use clipwright::digest::Digest;

/// Runs until dropped.
pub(crate) struct Registry {
    process: Child,
    /// `127.0.0.1:port`.
    pub(crate) address: String,
    storage: PathBuf,
}

impl Registry {
    /// Starts one over `directory`, which may hold the blobs of an earlier one.
    pub(crate) fn start(directory: &Path) -> Self {
        Self::configured(directory, "")
    }

    /// Starts one that lets only `clipper` with the password `correct horse` in.
    pub(crate) fn with_password(directory: &Path) -> Self {
        let users = directory.join("htpasswd");
        let hash = "$2b$04$9uRdXP/d1k6RZBsdqkRS8eyx6t5hasTpEv0m7KIPn0sDZLBC/aTMa";
        std::fs::write(&users, format!("clipper:{hash}\n")).unwrap();
        let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", users.display());
        Self::configured(directory, &auth)
    }

    fn configured(directory: &Path, more: &str) -> Self {
        let config = directory.join("registry.yml");
        let storage = directory.join("registry");
        std::fs::create_dir_all(&storage).unwrap();
        let text = format!(
            "version: 0.1\n\
             log: {{level: info}}\n\
             storage:\n  filesystem: {{rootdirectory: \"{}\"}}\n  delete: {{enabled: true}}\n\
             http: {{addr: \"127.0.0.1:0\"}}\n{more}",
            storage.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry is installed (scripts/setup.sh test)");
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let address = listening_address(&mut log).unwrap_or_else(|seen| {
            let _ = process.kill();
            panic!("the registry did not start; its log:\n{seen}");
        });
        // Read on, or it blocks when the pipe is full.
        std::thread::spawn(move || io::copy(&mut log, &mut io::sink()));
        Self { process, address, storage }
    }

    /// Where it keeps everything.
    pub(crate) fn storage(&self) -> &Path {
        &self.storage
    }

    /// The file that holds a blob.
    pub(crate) fn blob(&self, digest: Digest) -> PathBuf {
        let hex = digest.hex();
        let blobs = self.storage.join("docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    /// Where what belongs to a repository is.
    pub(crate) fn repository(&self, name: &str) -> PathBuf {
        self.storage.join("docker/registry/v2/repositories").join(name)
    }

    /// Copies the tag `latest` of an OCI layout, bytes unchanged; returns its reference here.
    pub(crate) fn push(&self, layout: &Path, repository: &str) -> String {
        self.push_with(layout, repository, &[])
    }

    /// As [`Self::push`], to a registry [`Self::with_password`].
    pub(crate) fn push_as(&self, layout: &Path, repository: &str, login: &str) -> String {
        self.push_with(layout, repository, &["--dest-creds", login])
    }

    fn push_with(&self, layout: &Path, repository: &str, options: &[&str]) -> String {
        let reference = format!("{}/{repository}:latest", self.address);
        let status = Command::new("skopeo")
            .args(["copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"])
            .args(options)
            .arg(format!("oci:{}:latest", layout.display()))
            .arg(format!("docker://{reference}"))
            .status()
            .expect("skopeo is installed (scripts/setup.sh test)");
        assert!(status.success(), "skopeo could not push {}", layout.display());
        reference
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Reads the log until it names the address; what was read when it ends without.
fn listening_address(log: &mut impl BufRead) -> Result<String, String> {
    let mut seen = String::new();
    loop {
        let start = seen.len();
        if log.read_line(&mut seen).unwrap_or(0) == 0 {
            return Err(seen);
        }
        if let Some((_, rest)) = seen[start..].split_once("listening on 127.0.0.1:") {
            let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
            return Ok(format!("127.0.0.1:{port}"));
        }
    }
}
