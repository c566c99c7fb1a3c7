//! What a build says while the database is away.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::harness::{Yard, build, until};
use crate::support::postgres::TestDatabase;
use crate::support::proxy::Proxy;
use crate::support::service::Settings;

/// Lines that are written while it is away: more than one chunk of them.
const LINES: usize = 3000;

/// How long it is away.
const OUTAGE: Duration = Duration::from_secs(7);

/// Where a build waits until the test lets it go on.
struct Gate(TcpListener);

impl Gate {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// A command that waits there.
    fn command(&self) -> String {
        format!("wget -q -O /dev/null http://{}/", self.0.local_addr().unwrap())
    }

    /// Waits until the build is there.
    async fn reached(&self) -> TcpStream {
        let listener = self.0.try_clone().unwrap();
        tokio::task::spawn_blocking(move || listener.accept().unwrap().0).await.unwrap()
    }
}

fn open(mut stream: TcpStream) {
    let _ = stream.read(&mut [0; 1024]).unwrap();
    stream.write_all(b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
}

#[tokio::test]
async fn lines_that_the_database_did_not_take_arrive_when_it_is_back() {
    let database = TestDatabase::create().await;
    let near = PgConnectOptions::clone(&database.pool().connect_options());
    // The server of the tests listens on a socket alone.
    let proxy = Proxy::to_socket(near.get_socket().unwrap().join(".s.PGSQL.5432")).await;
    let far = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(proxy.address.port())
        .username(near.get_username())
        .database(near.get_database().unwrap())
        .ssl_mode(PgSslMode::Disable);
    let settings = Settings::default().env("DATABASE_URL", far.to_url_lossy().as_ref());
    let yard = Yard::with(settings.argument("build-network", "host")).await;
    let (first, second) = (Gate::new(), Gate::new());
    let rest = format!(
        "RUN echo before; {}; i=0; while [ $i -lt {LINES} ]; do echo line $i of what is said meanwhile; i=$((i+1)); done; {}; echo after\n",
        first.command(),
        second.command(),
    );
    let job = yard.service.submit(build("000000000000f001", &yard.on_base(&rest))).await;
    let waiting = first.reached().await;
    until("what was said before is there", async || {
        yard.log(&job).await.iter().any(|line| line["text"] == "before")
    })
    .await;
    proxy.go_down();
    open(waiting);
    let waiting = second.reached().await;
    // Longer than any single statement is tried for.
    tokio::time::sleep(OUTAGE).await;
    proxy.come_up();
    open(waiting);
    let done = yard.service.finished_at_last(&job).await;
    assert_eq!(done["state"], "succeeded", "{done:#}");
    let log = yard.log(&job).await;
    let said: Vec<&str> = log.iter().filter_map(|line| line["text"].as_str()).collect();
    let meanwhile: Vec<&str> =
        said.iter().copied().filter(|text| text.ends_with("of what is said meanwhile")).collect();
    let expected: Vec<String> =
        (0..LINES).map(|number| format!("line {number} of what is said meanwhile")).collect();
    assert_eq!(meanwhile, expected, "each once, and in order");
    assert!(said.contains(&"after"), "{:?}", said.last());
}
