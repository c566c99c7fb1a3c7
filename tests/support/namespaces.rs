//! Network and mount namespaces of a thread: another machine, and what it is connected to.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// This thread sees its own mounts from here on: what it mounts, nobody else sees.
pub(crate) fn own_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).expect("builds are tested as root");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
}

/// Shows one file at the place of another.
pub(crate) fn put_over(file: &Path, place: &Path) {
    mount(Some(file), place, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
}

/// Shows an empty directory at the place of another.
pub(crate) fn empty(place: &Path) {
    mount(Some("tmpfs"), place, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

/// This thread is on a network of its own from here on, on which only it is.
pub(crate) fn own_network() {
    unshare(CloneFlags::CLONE_NEWNET).expect("builds are tested as root");
    ip("link set lo up");
}

/// Runs `ip` with these arguments on the thread's network.
pub(crate) fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// What is connected to.
pub(crate) struct Server {
    pub(crate) port: u16,
    reached: Arc<Mutex<Vec<IpAddr>>>,
}

impl Server {
    /// At which of its addresses somebody connected since it was asked last.
    pub(crate) fn reached(&self) -> Vec<IpAddr> {
        std::mem::take(&mut self.reached.lock().unwrap())
    }
}

/// Serves a line to whoever connects, on this thread's network; at any port if it is 0.
pub(crate) fn serve(port: u16) -> Server {
    answer(port, "HTTP/1.0 200 OK\r\ncontent-length: 6\r\n\r\nhello\n".to_owned())
}

/// Sends whoever connects to another place.
pub(crate) fn redirect(to: &str) -> Server {
    answer(0, format!("HTTP/1.0 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"))
}

fn answer(port: u16, answer: String) -> Server {
    let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let reached = Arc::new(Mutex::new(Vec::new()));
    let seen = reached.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            seen.lock().unwrap().push(stream.local_addr().unwrap().ip());
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    Server { port, reached }
}

/// Answers each question for an address (RFC 1035) with `address`, on this thread's network.
pub(crate) fn answer_names(address: [u8; 4]) {
    const OF_TYPE_A: &[u8] = &[0, 1, 0, 1];
    let socket = UdpSocket::bind("0.0.0.0:53").unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, asker)) = socket.recv_from(&mut buffer) {
            let Some(end) = buffer[12..length].iter().position(|byte| *byte == 0) else { continue };
            let question = &buffer[12..12 + end + 5];
            let is_asked = question.ends_with(OF_TYPE_A);
            let mut answer = [&buffer[..2], &[0x81, 0x80, 0, 1, 0, u8::from(is_asked)]].concat();
            answer.extend_from_slice(&[0, 0, 0, 0]);
            answer.extend_from_slice(question);
            if is_asked {
                answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend_from_slice(&address);
            }
            socket.send_to(&answer, asker).unwrap();
        }
    });
}

/// Another machine behind a cable, at all of these addresses, which lives as long as this.
pub(crate) struct Internet {
    /// Listens at port 80.
    pub(crate) server: Server,
    /// Its thread ends with this, and its network with the thread.
    _alive: mpsc::Sender<()>,
}

impl Internet {
    /// Connects this thread's network, in which the thread is alone.
    pub(crate) fn connect(addresses: &'static [&'static str], names_are: [u8; 4]) -> Self {
        let (alive, until) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let (plug, plugged) = mpsc::channel::<()>();
        let (ready, is_ready) = mpsc::channel();
        std::thread::spawn(move || {
            own_network();
            for address in addresses {
                ip(&format!("address add {address} dev lo"));
            }
            answer_names(names_are);
            tell.send((nix::unistd::gettid(), serve(80))).unwrap();
            plugged.recv().unwrap();
            ip("address add 203.0.113.1/24 dev far");
            ip("link set far up");
            ready.send(()).unwrap();
            let _ = until.recv();
        });
        let (thread, server) = told.recv().unwrap();
        ip(&format!("link add near type veth peer name far netns {thread}"));
        ip("address add 203.0.113.2/24 dev near");
        ip("link set near up");
        plug.send(()).unwrap();
        is_ready.recv().unwrap();
        ip("route add default via 203.0.113.1");
        Self { server, _alive: alive }
    }
}
