//! The bound server: documents, and its end.

use clipwright::api::{openapi_json, serve};
use nix::sys::resource::{Resource, getrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::harness::{App, request};
use axum::body::Body;
use axum::http::Method;

struct Server {
    address: std::net::SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    async fn start(app: &App) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(listener, app.state.clone(), shutdown.clone()));
        Self { address, shutdown, task }
    }

    async fn connect(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("{request} HTTP/1.1\r\nhost: {}\r\n\r\n", self.address);
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(end) {
        let n = stream.read(&mut buffer).await.unwrap();
        assert_ne!(n, 0, "closed before {end:?}: {text}");
        text.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
    }
    text
}

#[tokio::test]
async fn shutdown_ends_event_streams_in_good_order() {
    let app = App::start().await;
    let id = app.submit().await;
    let server = Server::start(&app).await;
    let mut stream = server.connect(&format!("GET /v1/jobs/{id}/events")).await;
    read_until(&mut stream, "event: queued").await;
    let mut idle = server.connect("GET /healthz").await;
    read_until(&mut idle, "{\"status\":\"ok\"}").await;

    server.shutdown.cancel();
    // The last chunk, not a broken connection.
    read_until(&mut stream, "0\r\n\r\n").await;
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    server.task.await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn there_may_be_as_many_files_as_connections() {
    let app = App::start().await;
    let server = Server::start(&app).await;
    let mut probe = server.connect("GET /healthz").await;
    read_until(&mut probe, "{\"status\":\"ok\"}").await;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(soft >= hard.min(65_536), "{soft} of {hard}");
}

/// It would keep its answer in memory, or one of the streams, for ever.
#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() {
    let app = App::start().await;
    let server = Server::start(&app).await;
    let stream = server.connect("GET /openapi.json").await;
    let request = format!("GET /openapi.json HTTP/1.1\r\nhost: {}\r\n\r\n", server.address);
    let given_up = async {
        loop {
            stream.writable().await.unwrap();
            match stream.try_write(request.as_bytes()) {
                // The server has stopped to read too, since it can't write.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return error,
                Ok(_) => {}
            }
        }
    };
    let patience = std::time::Duration::from_mins(2);
    let error = tokio::time::timeout(patience, given_up).await.expect("it is given up");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
}

#[tokio::test]
async fn the_document_and_the_pages_come_from_the_binary() {
    let app = App::start().await;
    let answer = app.get("/openapi.json").await;
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.text(), openapi_json());
    let page = app.get("/docs/api/").await;
    assert_eq!(page.status.as_u16(), 200);
    for file in ["swagger-ui-bundle.js", "swagger-ui.css", "swagger-initializer.js"] {
        let answer = app.get(&format!("/docs/api/{file}")).await;
        assert_eq!(answer.status.as_u16(), 200, "{file}");
    }
    let script = app.get("/docs/api/swagger-initializer.js").await;
    assert!(script.text().contains("/openapi.json"), "{}", script.text());
    for text in [page.text(), script.text()] {
        assert!(!text.contains("http://") && !text.contains("https://"), "{text}");
    }

    assert_eq!(app.get("/docs").await.header("location"), "/docs/");
    for path in ["/", "/docs/", "/docs/troubleshooting.html", "/console/console.js"] {
        let answer = app.get(path).await;
        assert_eq!(answer.status.as_u16(), 200, "{path}");
        let policy = answer.header("content-security-policy");
        let scripts = policy.split("script-src").nth(1).unwrap().split(';').next().unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
        assert!(!scripts.contains("unsafe"), "{path}: {policy}");
        let seen = [("if-none-match", answer.header("etag"))];
        let again = app.send(request(Method::GET, path, &seen, Body::empty())).await;
        assert_eq!(again.status.as_u16(), 304, "{path}");
    }
}
