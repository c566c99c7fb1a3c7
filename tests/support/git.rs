//! A git server in this process: git's own `http-backend` behind HTTP on a loopback port.

use std::path::Path;
use std::process::{Command as Program, Stdio};
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode, header};
use base64::Engine as _;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::task::JoinHandle;

/// A running server; it stops when dropped.
pub(crate) struct GitServer {
    /// `http://127.0.0.1:PORT`.
    pub(crate) url: String,
    root: TempDir,
    task: JoinHandle<()>,
}

struct Site {
    root: std::path::PathBuf,
    authorization: Option<String>,
}

impl GitServer {
    /// Serves the repository `app.git`, to whoever logs in as `login` says (`user:password`). What is asked of
    /// `/elsewhere/` is sent on to the same server.
    pub(crate) async fn start(login: Option<&str>) -> Self {
        let root = tempfile::tempdir().unwrap();
        git(root.path(), &["init", "--quiet", "--initial-branch=main", "work"]);
        git(root.path(), &["init", "--quiet", "--bare", "--initial-branch=main", "app.git"]);
        let authorization = login.map(|login| {
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(login))
        });
        let site = Arc::new(Site { root: root.path().to_owned(), authorization });
        let router = Router::new().fallback(answer).with_state(site);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, root, task }
    }

    /// Commits these files, and nothing else, to `main`, and gives the commit's id.
    pub(crate) fn commit(&self, files: &[(&str, &str)]) -> String {
        let work = self.root.path().join("work");
        git(&work, &["rm", "--quiet", "-rf", "--ignore-unmatch", "."]);
        for (name, content) in files {
            let path = work.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        git(&work, &["add", "--all"]);
        git(&work, &["commit", "--quiet", "--allow-empty", "-m", "a commit"]);
        git(&work, &["push", "--quiet", "../app.git", "main"]);
        git(&work, &["rev-parse", "HEAD"])
    }

    /// Gives the last commit another name.
    pub(crate) fn tag(&self, name: &str) {
        let work = self.root.path().join("work");
        git(&work, &["tag", "-a", "-m", "a tag", name]);
        git(&work, &["push", "--quiet", "../app.git", name]);
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Program::new("git")
        .args(["-c", "user.name=tests", "-c", "user.email=tests@example.com"])
        .args(arguments)
        .current_dir(directory)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn answer(State(site): State<Arc<Site>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let text = |name: &str| {
        parts.headers.get(name).map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
    };
    let plain = |status: StatusCode| Response::builder().status(status);
    if let Some(rest) = parts.uri.path_and_query().unwrap().as_str().strip_prefix("/elsewhere") {
        return plain(StatusCode::FOUND)
            .header(header::LOCATION, rest)
            .body(Body::empty())
            .unwrap();
    }
    if site.authorization.as_ref().is_some_and(|wanted| *wanted != text("authorization")) {
        let answer = plain(StatusCode::UNAUTHORIZED);
        let answer = answer.header(header::WWW_AUTHENTICATE, "Basic realm=\"tests\"");
        return answer.body(Body::empty()).unwrap();
    }
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let mut backend = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", &site.root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", parts.uri.path())
        .env("QUERY_STRING", parts.uri.query().unwrap_or_default())
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("CONTENT_TYPE", text("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", text("content-encoding"))
        .env("GIT_PROTOCOL", text("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = backend.stdin.take().unwrap();
    input.write_all(&body).await.unwrap();
    drop(input);
    let output = backend.wait_with_output().await.unwrap().stdout;
    let end = output.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let mut answer = Response::builder();
    for line in std::str::from_utf8(&output[..end]).unwrap().lines() {
        let (name, value) = line.split_once(": ").unwrap();
        answer = match name {
            "Status" => answer.status(value[..3].parse::<u16>().unwrap()),
            name => answer.header(name, value),
        };
    }
    answer.body(Body::from(output[end + 4..].to_vec())).unwrap()
}
