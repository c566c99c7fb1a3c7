//! Chromium, as its users have it, on a machine that reaches itself and nothing else.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};

/// What a page needs to come up on a machine that is busy.
const PATIENCE: Duration = Duration::from_mins(1);
/// The key of an element in answers (`WebDriver`, section 11).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Chromium without a window, by `WebDriver`; ends when dropped.
pub(crate) struct Browser {
    driver: Child,
    http: reqwest::Client,
    session: String,
}

impl Browser {
    pub(crate) async fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is installed (scripts/setup.sh test)");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines.find_map(|line| {
            let line = line.ok()?;
            let rest = line.split_once("started successfully on port ")?.1;
            rest.trim_end_matches('.').parse::<u16>().ok()
        });
        // Read on, or it blocks when the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        let server = format!("http://127.0.0.1:{}", port.expect("chromedriver says its port"));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut browser = Self { driver, http, session: format!("{server}/session") };
        let options = json!({
            "args": [
                "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            ],
        });
        let wanted = json!({
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
        });
        let made = browser.post("", &json!({"capabilities": {"alwaysMatch": wanted}})).await;
        browser.session = format!("{}/{}", browser.session, made["sessionId"].as_str().unwrap());
        browser
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Value {
        let (status, value) = self.try_post(path, body).await;
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    async fn try_post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = self.http.post(format!("{}{path}", self.session));
        let request = request.header("content-type", "application/json");
        let answer = request.body(body.to_string()).send().await.unwrap();
        let status = answer.status().as_u16();
        let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        (status, answer["value"].clone())
    }

    /// The text of the first element that the selector finds and `is_it` takes, once there is one.
    pub(crate) async fn text(&self, selector: &str, is_it: impl Fn(&str) -> bool) -> String {
        let since = Instant::now();
        loop {
            let script =
                "return Array.from(document.querySelectorAll(arguments[0]), e => e.innerText)";
            let found =
                self.post("/execute/sync", &json!({"script": script, "args": [selector]})).await;
            let texts: Vec<_> =
                found.as_array().unwrap().iter().filter_map(Value::as_str).collect();
            if let Some(text) = texts.iter().find(|text| is_it(text)) {
                return (*text).to_owned();
            }
            assert!(since.elapsed() < PATIENCE, "{selector} shows {texts:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Clicks on what the selector finds, as soon as that is possible.
    pub(crate) async fn click(&self, selector: &str) {
        let since = Instant::now();
        loop {
            let query = json!({"using": "css selector", "value": selector});
            let (_, found) = self.try_post("/element", &query).await;
            if let Some(element) = found[ELEMENT].as_str() {
                let script = "arguments[0].scrollIntoView({block: 'center'})";
                self.try_post("/execute/sync", &json!({"script": script, "args": [found]})).await;
                let (status, _) =
                    self.try_post(&format!("/element/{element}/click"), &json!({})).await;
                if status == 200 {
                    return;
                }
            }
            assert!(since.elapsed() < PATIENCE, "{selector} can't be clicked on: {found}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Goes to an address; a part behind `#` alone is a new page as well.
    pub(crate) async fn open(&self, url: &str) {
        self.post("/url", &json!({"url": "about:blank"})).await;
        self.post("/url", &json!({"url": url})).await;
    }

    /// What a script returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({"script": script, "args": []})).await
    }

    /// Writes into what the selector finds.
    pub(crate) async fn write(&self, selector: &str, text: &str) {
        let query = json!({"using": "css selector", "value": selector});
        let found = self.post("/element", &query).await;
        let element = found[ELEMENT].as_str().unwrap();
        self.post(&format!("/element/{element}/clear"), &json!({})).await;
        self.post(&format!("/element/{element}/value"), &json!({"text": text})).await;
    }

    /// Presses a key (`WebDriver`, section 17.4.2) in what has the focus.
    pub(crate) async fn press(&self, key: &str) {
        let press = ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key}));
        let keys = json!({"type": "key", "id": "keys", "actions": press});
        self.post("/actions", &json!({"actions": [keys]})).await;
    }

    /// A window of this size, with the colours that a user has chosen: `light` or `dark`.
    pub(crate) async fn look(&self, width: u32, height: u32, colours: &str) {
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.command("Emulation.setDeviceMetricsOverride", &size).await;
        let feature = json!({"name": "prefers-color-scheme", "value": colours});
        self.command("Emulation.setEmulatedMedia", &json!({"features": [feature]})).await;
    }

    /// The whole page as a picture; for people who look at it, kept where `CLIPWRIGHT_SCREENSHOTS` says.
    pub(crate) async fn picture(&self, name: &str) {
        let Some(directory) = std::env::var_os("CLIPWRIGHT_SCREENSHOTS") else { return };
        let picture = self.get_text("/screenshot").await;
        let picture = base64::engine::general_purpose::STANDARD.decode(picture).unwrap();
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(std::path::Path::new(&directory).join(format!("{name}.png")), picture)
            .unwrap();
    }

    async fn get_text(&self, path: &str) -> String {
        let answer = self.http.get(format!("{}{path}", self.session)).send().await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        answer["value"].as_str().unwrap().to_owned()
    }

    async fn command(&self, name: &str, params: &Value) {
        self.post("/goog/cdp/execute", &json!({"cmd": name, "params": params})).await;
    }

    /// The addresses that were asked for since this was asked last.
    pub(crate) async fn requests(&self) -> Vec<String> {
        let mut asked = Vec::new();
        for entry in self.log("performance").await {
            let event: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
            if event["message"]["method"] == "Network.requestWillBeSent" {
                let url = &event["message"]["params"]["request"]["url"];
                asked.push(url.as_str().unwrap().to_owned());
            }
        }
        asked
    }

    /// What the browser complained of since this was asked last: errors, and what a policy forbids.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let log = self.log("browser").await;
        let severe = log.into_iter().filter(|entry| entry["level"] == "SEVERE");
        severe.map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    /// What was logged since this was asked last.
    async fn log(&self, kind: &str) -> Vec<Value> {
        let log = self.post("/se/log", &json!({"type": kind})).await;
        log.as_array().unwrap().clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A driver that is told to end leaves its browser behind, unless it was told to close it before.
        let _ = close(&self.session);
        let pid = nix::unistd::Pid::from_raw(self.driver.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.driver.wait();
    }
}

/// Ends a session; nothing else may be waited for where this is called.
fn close(session: &str) -> io::Result<()> {
    let (_, rest) = session.split_once("http://").unwrap();
    let (server, path) = rest.split_once('/').unwrap();
    let mut connection = TcpStream::connect(server)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    write!(connection, "DELETE /{path} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n\r\n")?;
    // The answer comes when it is done; the connection is kept.
    connection.read_exact(&mut [0; 1])?;
    Ok(())
}
