//! The page that shows the API, in a real browser that reaches this machine and nothing else.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::service::{Service, Settings};

/// What a page needs to come up on a machine that is busy.
const PATIENCE: Duration = Duration::from_mins(1);
/// The key of an element in answers (`WebDriver`, section 11).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Chromium without a window, by `WebDriver`; ends when dropped.
struct Browser {
    driver: Child,
    http: reqwest::Client,
    session: String,
}

impl Browser {
    async fn start() -> Self {
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

    async fn post(&self, path: &str, body: &Value) -> Value {
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
    async fn text(&self, selector: &str, is_it: impl Fn(&str) -> bool) -> String {
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
    async fn click(&self, selector: &str) {
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

    /// What was logged since this was asked last.
    async fn log(&self, kind: &str) -> Vec<Value> {
        let log = self.post("/se/log", &json!({"type": kind})).await;
        log.as_array().unwrap().clone()
    }

    /// Runs the example of an operation of the page; the status that it shows.
    async fn run_example(&self, tag: &str, operation: &str) -> String {
        let block = format!("#operations-{tag}-{operation}");
        self.click(&format!("{block} .opblock-summary-control")).await;
        self.click(&format!("{block} button.execute")).await;
        let status = format!("{block} .live-responses-table .response .response-col_status");
        let shown = self.text(&status, |text| !text.trim().is_empty()).await;
        shown.lines().next().unwrap_or_default().trim().to_owned()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends its browser when it is told to end.
        let pid = nix::unistd::Pid::from_raw(self.driver.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.driver.wait();
    }
}

#[tokio::test]
async fn the_page_comes_up_without_a_network_and_its_examples_run() {
    // Nobody works here: the example's image is in a registry that can't be reached.
    let service = Service::start(Settings::default().argument("role", "api")).await;
    let browser = Browser::start().await;
    browser.post("/url", &json!({"url": format!("{}/docs/", service.url)})).await;
    browser.text("h2.title, h1.title", |text| text.contains("Clipwright")).await;

    assert_eq!(browser.run_example("jobs", "submit_job").await, "202");
    assert_eq!(browser.run_example("images", "list_images").await, "200");
    let (_, jobs) = service.get("/v1/jobs").await;
    assert_eq!(jobs["jobs"][0]["spec"]["image_id"], "961eaef6668e480f", "{jobs}");

    let mut asked = Vec::new();
    for entry in browser.log("performance").await {
        let event: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
        if event["message"]["method"] == "Network.requestWillBeSent" {
            let url = event["message"]["params"]["request"]["url"].as_str().unwrap().to_owned();
            asked.push(url);
        }
    }
    assert!(asked.iter().any(|url| url.ends_with("/openapi.json")), "{asked:?}");
    let is_ours = |url: &&String| url.starts_with(&service.url) || url.starts_with("data:");
    let foreign: Vec<_> = asked.iter().filter(|url| !is_ours(url)).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    let complaints: Vec<_> =
        browser.log("browser").await.into_iter().filter(|e| e["level"] == "SEVERE").collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}
