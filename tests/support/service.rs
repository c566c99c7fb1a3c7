//! The real binary, `clipwright serve`, in a data directory of its own.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use base64::Engine as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::postgres::TestDatabase;
use super::s3::S3Server;
use super::upstream::run;

/// A service that was told to stop has ended by then.
const PATIENCE: std::time::Duration = std::time::Duration::from_mins(1);

/// Settings of one service; everything else is the default.
#[derive(Default)]
pub(crate) struct Settings {
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(&'static str, String)>,
    private_database: bool,
}

impl Settings {
    pub(crate) fn argument(mut self, name: &str, value: &str) -> Self {
        self.arguments.extend([format!("--{name}"), value.to_owned()]);
        self
    }

    pub(crate) fn env(mut self, name: &'static str, value: &str) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    /// The same database and keys as `other` has.
    pub(crate) fn beside(mut self, other: &Service) -> Self {
        let shared = ["DATABASE_URL", "CLIPWRIGHT_SECRET_KEY"];
        let of_other = other.settings.environment.iter();
        self.environment.extend(of_other.filter(|(name, _)| shared.contains(name)).cloned());
        self
    }

    /// Archives go to this bucket, not to the directory store.
    pub(crate) fn on_s3(self, s3: &S3Server) -> Self {
        self.argument("store", "s3")
            .argument("s3-bucket", &s3.bucket)
            .argument("s3-endpoint", &s3.endpoint)
            .argument("s3-force-path-style", "true")
            .env("CLIPWRIGHT_S3_ACCESS_KEY", &s3.access_key)
            .env("CLIPWRIGHT_S3_SECRET_KEY", &s3.secret_key)
    }

    /// A private Postgres, as without any settings. All others get a database of their own on the
    /// server that all tests share, unless they bring one.
    pub(crate) fn private_database(mut self) -> Self {
        self.private_database = true;
        self
    }
}

/// A running service; stopped in good order when dropped, and its database after it.
pub(crate) struct Service {
    process: Child,
    /// `http://127.0.0.1:PORT`.
    pub(crate) url: String,
    data: TempDir,
    settings: Settings,
    http: reqwest::Client,
    log: Option<JoinHandle<String>>,
    _database: Option<TestDatabase>,
}

impl Service {
    /// Bytes that it and the processes that it has waited for have written to files on disks.
    pub(crate) fn written(&self) -> u64 {
        let counts = std::fs::read_to_string(format!("/proc/{}/io", self.process.id())).unwrap();
        let written = counts.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        written.unwrap().parse().unwrap()
    }

    /// Starts one that makes v2, unless the settings say otherwise.
    pub(crate) async fn start(mut settings: Settings) -> Self {
        if !settings.arguments.iter().any(|argument| argument == "--clip-version") {
            settings = settings.argument("clip-version", "2");
        }
        let own = settings.environment.iter().any(|(name, _)| *name == "DATABASE_URL");
        let database = if settings.private_database || own {
            None
        } else {
            Some(TestDatabase::create().await)
        };
        if let Some(database) = &database {
            // A key is made for the private server alone, since replicas must share one.
            let key = base64::engine::general_purpose::STANDARD.encode(rand::random::<[u8; 32]>());
            settings =
                settings.env("DATABASE_URL", database.url()).env("CLIPWRIGHT_SECRET_KEY", &key);
        }
        let data = tempfile::tempdir().unwrap();
        // The private Postgres runs as another user, who must get here.
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(data.path(), permissions).unwrap();
        // reqwest is built without one; nothing here speaks TLS, but it asks all the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let (process, url, log) = spawn(data.path(), &settings).await;
        Self { process, url, data, settings, http, log: Some(log), _database: database }
    }

    /// Id of its process.
    pub(crate) fn process(&self) -> u32 {
        self.process.id()
    }

    /// Ends the process as a crash would, and starts another on the same data.
    pub(crate) async fn crash_and_restart(&mut self) {
        self.crash();
        let (process, url, log) = spawn(self.data.path(), &self.settings).await;
        (self.process, self.url, self.log) = (process, url, Some(log));
    }

    /// Stops it: what it has logged, and where its data is.
    pub(crate) fn stop(&mut self) -> (String, &Path) {
        self.terminate();
        (self.log.take().unwrap().join().unwrap(), self.data.path())
    }

    fn terminate(&mut self) {
        if matches!(self.process.try_wait(), Ok(Some(_))) {
            return;
        }
        let pid = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let told = std::time::Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) {
            if told.elapsed() > PATIENCE {
                self.crash();
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let status = self.process.wait();
        if !std::thread::panicking() {
            let status = status.unwrap();
            assert!(status.success(), "the service ended with {status}");
        }
    }

    /// Ends the process as a crash would.
    pub(crate) fn crash(&mut self) {
        self.process.kill().unwrap(); // SIGKILL
        self.process.wait().unwrap();
    }

    /// Kills the private Postgres, as the kernel would when memory runs out.
    pub(crate) fn kill_database(&self) {
        let file = self.data.path().join("postgres/postmaster.pid");
        let text = std::fs::read_to_string(file).unwrap();
        let pid = nix::unistd::Pid::from_raw(text.lines().next().unwrap().parse().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }

    /// As [`Self::finished`], where the database may be away for a while: the stream of events
    /// breaks then, and is asked for again.
    pub(crate) async fn finished_at_last(&self, job: &str) -> Value {
        loop {
            let (status, seen) = self.get(&format!("/v1/jobs/{job}")).await;
            let finals = ["succeeded", "failed", "cancelled"];
            if status == 200 && finals.iter().any(|state| seen["state"] == **state) {
                return self.finished(job).await;
            }
            let events = format!("{}/v1/jobs/{job}/events", self.url);
            if let Ok(answer) = self.http.get(events).send().await {
                let _ = answer.bytes().await;
            }
        }
    }

    /// Where the directory store keeps the archive of an image.
    pub(crate) fn archive(&self, image_id: &str) -> PathBuf {
        self.data.path().join("images").join(format!("{image_id}.clip"))
    }

    /// Its data directory.
    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    /// Its database, if that is no private one.
    pub(crate) fn database_url(&self) -> &str {
        let mut environment = self.settings.environment.iter();
        environment.find(|(name, _)| *name == "DATABASE_URL").map_or("", |(_, url)| url)
    }

    /// A file out of an archive in the directory store, through our own reader.
    pub(crate) fn cat(&self, image_id: &str, path: &str) -> Vec<u8> {
        run(Command::new(env!("CARGO_BIN_EXE_clipwright"))
            .arg("cat")
            .arg(self.archive(image_id))
            .arg(path))
    }

    /// What the directory store holds, leftovers included, but for layer indexes and contexts.
    pub(crate) fn stored(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.data.path().join("images")) else {
            return Vec::new();
        };
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !["layer-index", "context", ".lock"].contains(&name.as_str()))
            .collect()
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.bytes().await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// As [`Self::get`], for what is not JSON.
    pub(crate) async fn get_text(&self, path: &str) -> String {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{path}");
        answer.text().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send(self.http.post(format!("{}{path}", self.url)), body).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send(self.http.patch(format!("{}{path}", self.url)), body).await
    }

    /// Sends bytes as they are.
    pub(crate) async fn send_bytes(&self, path: &str, bytes: Vec<u8>) -> (u16, Value) {
        self.send_bytes_in("default", path, bytes).await
    }

    pub(crate) async fn send_bytes_in(
        &self,
        workspace: &str,
        path: &str,
        bytes: Vec<u8>,
    ) -> (u16, Value) {
        let request = self.http.post(format!("{}{path}", self.url));
        let answer =
            request.header("clipwright-workspace", workspace).body(bytes).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
    }

    /// Only the status.
    pub(crate) async fn head(&self, path: &str) -> u16 {
        self.head_in("default", path).await
    }

    pub(crate) async fn head_in(&self, workspace: &str, path: &str) -> u16 {
        let request = self.http.head(format!("{}{path}", self.url));
        let answer = request.header("clipwright-workspace", workspace).send().await.unwrap();
        answer.status().as_u16()
    }

    /// Runs a job of a workspace to its end.
    pub(crate) async fn run_in(&self, workspace: &str, body: Value) -> Value {
        let request = self.http.post(format!("{}/v1/jobs", self.url));
        let request = request.header("clipwright-workspace", workspace);
        let (status, job) = self.send(request, &body).await;
        assert_eq!(status, 202, "{job}");
        let path = format!("{}/v1/jobs/{}?wait=25", self.url, job["id"].as_str().unwrap());
        loop {
            let request = self.http.get(&path).header("clipwright-workspace", workspace);
            let job: Value =
                serde_json::from_slice(&request.send().await.unwrap().bytes().await.unwrap())
                    .unwrap();
            if !job["finished_at"].is_null() {
                return job;
            }
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder, body: &Value) -> (u16, Value) {
        let request = request.header("content-type", "application/json").body(body.to_string());
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
    }

    /// Submits a pull and gives its id.
    pub(crate) async fn pull(&self, image_id: &str, source: &str) -> String {
        self.submit(json!({ "kind": "pull", "image_id": image_id, "source": source })).await
    }

    /// Submits a job that is done in any case, also if the archive that it would make is there.
    pub(crate) async fn submit(&self, body: Value) -> String {
        let (mut status, mut job) = self.post("/v1/jobs", &body).await;
        if status == 200 && job["state"] == "succeeded" {
            let path = format!("/v1/jobs/{}/retry", job["id"].as_str().unwrap());
            let credentials =
                body.get("credentials").map_or(json!({}), |given| json!({"credentials": given}));
            (status, job) = self.post(&path, &credentials).await;
        }
        assert_eq!(status, 202, "{job}");
        job["id"].as_str().unwrap().to_owned()
    }

    /// Runs a job to its end.
    pub(crate) async fn run(&self, body: Value) -> Value {
        self.finished(&self.submit(body).await).await
    }

    /// All events of a job, once it is final: the stream ends by itself then.
    pub(crate) async fn events(&self, job: &str) -> Vec<Value> {
        let answer = self
            .http
            .get(format!("{}/v1/jobs/{job}/events", self.url))
            .header("accept", "application/x-ndjson")
            .send()
            .await
            .unwrap();
        let body = answer.text().await.unwrap();
        body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The job, once it is final; its events are checked on the way.
    pub(crate) async fn finished(&self, job: &str) -> Value {
        let events = self.events(job).await;
        let finals = ["succeeded", "failed", "cancelled"];
        let is_final = |event: &&Value| finals.iter().any(|name| event["event"] == **name);
        assert_eq!(events.iter().filter(is_final).count(), 1, "one final event: {events:#?}");
        assert!(is_final(&events.last().unwrap()), "the final event is the last: {events:#?}");
        for (number, event) in (1..).zip(&events) {
            assert_eq!(event["seq"], number, "no gaps: {events:#?}");
        }
        let (status, job) = self.get(&format!("/v1/jobs/{job}")).await;
        assert_eq!(status, 200);
        job
    }

    /// The first event of this name, as soon as it is there.
    pub(crate) async fn wait_for_event(&self, job: &str, name: &str) -> Value {
        use futures_util::StreamExt as _;
        let answer = self
            .http
            .get(format!("{}/v1/jobs/{job}/events", self.url))
            .header("accept", "application/x-ndjson")
            .send()
            .await
            .unwrap();
        let (mut stream, mut text) = (answer.bytes_stream(), String::new());
        while let Some(bytes) = stream.next().await {
            text.push_str(std::str::from_utf8(&bytes.unwrap()).unwrap());
            while let Some((line, rest)) = text.split_once('\n') {
                let event: Value = serde_json::from_str(line).unwrap();
                if event["event"] == name {
                    return event;
                }
                text = rest.to_owned();
            }
        }
        panic!("the job ended without {name}");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.terminate();
    }
}

async fn spawn(data: &Path, settings: &Settings) -> (Child, String, JoinHandle<String>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipwright"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CLIPWRIGHT_") || name == "DATABASE_URL" {
            command.env_remove(name);
        }
    }
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data)
        .env("RUST_LOG", "info")
        // The registries of tests are on this machine.
        .env("CLIPWRIGHT_PRIVATE_ADDRESSES", "true")
        // Nobody balances load here.
        .env("CLIPWRIGHT_SHUTDOWN_DELAY_SECONDS", "0")
        .args(&settings.arguments)
        .envs(settings.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut out = BufReader::new(process.stdout.take().unwrap());
    let mut log = process.stderr.take().unwrap();
    // Read on, or the service blocks when the pipe is full; what a test prints is shown if it fails.
    let logged = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = log.read_to_string(&mut text);
        text
    });
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        let _ = out.read_line(&mut line);
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        line
    })
    .await
    .unwrap();
    let Some(url) = line.split_whitespace().find(|word| word.starts_with("http://")) else {
        let _ = process.kill();
        let _ = process.wait();
        panic!("the service did not start: {}", logged.join().unwrap());
    };
    (process, url.to_owned(), logged)
}
