//! A TCP proxy that breaks what goes through it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use clipwright::digest::Digest;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Notify;

/// Runs until dropped.
pub(crate) struct Proxy {
    /// `127.0.0.1:PORT`.
    pub(crate) address: SocketAddr,
    faults: Arc<Faults>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Faults {
    /// Bytes of answers that may still pass before one connection is cut; negative: all may.
    budget: AtomicI64,
    /// What happens when the budget is used up.
    stalls: AtomicBool,
    /// Bytes of answers that passed.
    passed: AtomicI64,
    /// First lines of requests.
    requests: Mutex<Vec<String>>,
    /// New connections are dropped at once.
    down: AtomicBool,
    /// Nothing passes, and nobody is told: what a network does whose cable is pulled.
    silent: tokio::sync::watch::Sender<bool>,
    /// Pieces of traffic that were held back since somebody asked.
    held: tokio::sync::watch::Sender<i64>,
    /// A byte is changed when the budget is used up, and nothing is cut.
    garbles: AtomicBool,
    /// Connections of earlier ones stay silent.
    era: AtomicI64,
    /// Cuts open connections.
    cut: Notify,
    /// Something was broken.
    broken: Notify,
}

impl Proxy {
    pub(crate) async fn start(upstream: &str) -> Self {
        Self::to(Upstream::Address(upstream.to_owned())).await
    }

    /// In front of a server that listens on a unix socket.
    pub(crate) async fn to_socket(upstream: PathBuf) -> Self {
        Self::to(Upstream::Socket(upstream)).await
    }

    async fn to(upstream: Upstream) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let faults = Arc::new(Faults::default());
        faults.budget.store(-1, Ordering::SeqCst);
        let shared = faults.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if shared.down.load(Ordering::SeqCst) {
                    shared.broken.notify_one();
                    continue;
                }
                match &upstream {
                    Upstream::Address(address) => {
                        if let Ok(server) = TcpStream::connect(address).await {
                            let (read, write) = server.into_split();
                            tokio::spawn(connection(client, read, write, shared.clone()));
                        }
                    }
                    Upstream::Socket(path) => {
                        if let Ok(server) = UnixStream::connect(path).await {
                            let (read, write) = server.into_split();
                            tokio::spawn(connection(client, read, write, shared.clone()));
                        }
                    }
                }
            }
        });
        Self { address, faults, task }
    }

    /// Cuts one connection after so many bytes of answers, in the middle of whatever it says.
    pub(crate) fn cut_after(&self, bytes: i64) {
        self.faults.budget.store(bytes, Ordering::SeqCst);
    }

    /// Holds one connection up after so many bytes of answers, until everything is cut.
    pub(crate) fn stall_after(&self, bytes: i64) {
        self.faults.stalls.store(true, Ordering::SeqCst);
        self.cut_after(bytes);
    }

    /// Bytes of answers so far.
    pub(crate) fn passed(&self) -> i64 {
        self.faults.passed.load(Ordering::SeqCst)
    }

    /// First lines of requests so far, and what stood where parts of long ones began.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.faults.requests.lock().unwrap().clone()
    }

    /// How often a blob was asked for.
    pub(crate) fn fetches(&self, blob: Digest) -> usize {
        let requests = self.faults.requests.lock().unwrap();
        let asks =
            |line: &&String| line.starts_with("GET ") && line.contains(&format!("/blobs/{blob}"));
        requests.iter().filter(asks).count()
    }

    /// Cuts everything, and refuses what comes.
    pub(crate) fn go_down(&self) {
        self.faults.down.store(true, Ordering::SeqCst);
        self.faults.cut.notify_waiters();
    }

    /// Serves again after [`Self::go_down`].
    pub(crate) fn come_up(&self) {
        self.faults.down.store(false, Ordering::SeqCst);
    }

    /// Lets nothing pass from now on, over old connections and new ones, without closing any.
    pub(crate) fn fall_silent(&self) {
        self.faults.silent.send_replace(true);
    }

    /// Waits until so many pieces of traffic were held back by the silence.
    pub(crate) async fn held_back(&self, pieces: i64) {
        let _ = self.faults.held.subscribe().wait_for(|held| *held >= pieces).await;
        self.faults.held.send_replace(0);
    }

    /// Ends the silence: what was held back passes.
    pub(crate) fn speak(&self) {
        self.faults.silent.send_replace(false);
    }

    /// Changes one byte of the answers, so many bytes from now.
    pub(crate) fn garble_after(&self, bytes: i64) {
        self.faults.garbles.store(true, Ordering::SeqCst);
        self.cut_after(bytes);
    }

    /// Old connections stay silent when others speak again.
    pub(crate) fn cut_off_old_connections(&self) {
        self.faults.era.fetch_add(1, Ordering::SeqCst);
    }

    /// Cuts what is open, and goes on serving.
    pub(crate) fn cut_open_connections(&self) {
        self.faults.cut.notify_waiters();
    }

    /// Waits until somebody felt a fault.
    pub(crate) async fn broke_something(&self) {
        self.faults.broken.notified().await;
    }
}

impl Faults {
    /// Waits while there is silence; whether the connection's era goes on, else it stays silent for ever.
    async fn sound(&self, era: i64) -> bool {
        if *self.silent.borrow() {
            self.held.send_modify(|held| *held += 1);
        }
        let _ = self.silent.subscribe().wait_for(|silent| !silent).await;
        self.era.load(Ordering::SeqCst) == era
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

enum Upstream {
    Address(String),
    Socket(PathBuf),
}

async fn connection(
    client: TcpStream,
    mut server_in: impl AsyncRead + Unpin,
    mut server_out: impl AsyncWrite + Unpin,
    faults: Arc<Faults>,
) {
    let (mut client_in, mut client_out) = client.into_split();
    let era = faults.era.load(Ordering::SeqCst);
    let requests = async {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(read @ 1..) = client_in.read(&mut buffer).await {
            // Our requests are short, and each is written at once.
            let text = String::from_utf8_lossy(&buffer[..read]);
            let line = text.lines().next().unwrap_or_default().to_owned();
            faults.requests.lock().unwrap().push(line);
            if !faults.sound(era).await {
                // Until the client gives it up: then the server is rid of it too, as by its keepalives.
                continue;
            }
            if server_out.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    let answers = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let Ok(read @ 1..) = server_in.read(&mut buffer).await else { return };
            let allowed = faults.budget.load(Ordering::SeqCst);
            if allowed >= 0 {
                let left = allowed - i64::try_from(read).unwrap();
                if left < 0 {
                    faults.budget.store(-1, Ordering::SeqCst);
                    faults.broken.notify_one();
                    let part = usize::try_from(allowed).unwrap();
                    if faults.garbles.swap(false, Ordering::SeqCst) {
                        buffer[part] ^= 1;
                        let _ = client_out.write_all(&buffer[..read]).await;
                        continue;
                    }
                    let _ = client_out.write_all(&buffer[..part]).await;
                    if faults.stalls.swap(false, Ordering::SeqCst) {
                        std::future::pending::<()>().await;
                    }
                    return;
                }
                faults.budget.store(left, Ordering::SeqCst);
            }
            if !faults.sound(era).await {
                std::future::pending::<()>().await;
            }
            if client_out.write_all(&buffer[..read]).await.is_err() {
                return;
            }
            faults.passed.fetch_add(i64::try_from(read).unwrap(), Ordering::SeqCst);
        }
    };
    tokio::select! {
        () = requests => {}
        () = answers => {}
        () = faults.cut.notified() => faults.broken.notify_one(),
    }
}
