//! A registry of one blob that does as a test tells it.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};

/// What the server does with a request for a range. Without one the whole blob is sent, as it is
/// but for [`Answer::Half`] and [`Answer::Of`].
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// 206 and the bytes.
    Right,
    /// 200 and the whole blob.
    Whole,
    /// 206 and the bytes one further on, as its headers say.
    OtherRange,
    /// 206 and the bytes one further on, though its headers say otherwise.
    Misplaced,
    /// 206 and the bytes, but nothing that says which they are.
    Unsaid,
    /// 206 and at most so many of the bytes, as its headers say.
    Short(usize),
    /// Half of the bytes, and then the end of the connection.
    Half,
    /// 206 and the bytes that another blob has there.
    Of(Vec<u8>),
    /// Nothing, until [`BlobServer::release`]; then [`Answer::Right`].
    Held,
}

/// Runs until dropped.
pub(crate) struct BlobServer {
    /// `127.0.0.1:PORT`.
    pub(crate) address: String,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    blob: Vec<u8>,
    answer: Mutex<Answer>,
    /// The ranges that were asked for.
    requests: Mutex<Vec<Range<usize>>>,
    asked: Notify,
    released: Semaphore,
    /// A client went away while it was held.
    abandoned: Notify,
}

impl BlobServer {
    pub(crate) async fn start(blob: &[u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            blob: blob.to_vec(),
            answer: Mutex::new(Answer::Right),
            requests: Mutex::default(),
            asked: Notify::new(),
            released: Semaphore::new(0),
            abandoned: Notify::new(),
        });
        let server = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move { server.serve(stream).await });
            }
        });
        Self { address, shared, task }
    }

    pub(crate) fn answer(&self, answer: Answer) {
        *self.shared.answer.lock().unwrap() = answer;
    }

    /// The ranges that were asked for since the last time.
    pub(crate) fn requests(&self) -> Vec<Range<usize>> {
        std::mem::take(&mut self.shared.requests.lock().unwrap())
    }

    /// Waits for a request.
    pub(crate) async fn asked(&self) {
        self.shared.asked.notified().await;
    }

    /// Lets one held answer go.
    pub(crate) fn release(&self) {
        self.shared.released.add_permits(1);
    }

    /// Waits until a client has left without the answer that was held.
    pub(crate) async fn abandoned(&self) {
        self.shared.abandoned.notified().await;
    }
}

impl Drop for BlobServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    /// One request a connection.
    async fn serve(&self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        let mut range = 0..self.blob.len();
        let mut partial = false;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            let line = line.trim_end().to_ascii_lowercase();
            if let Some((from, to)) =
                line.strip_prefix("range: bytes=").and_then(|r| r.split_once('-'))
            {
                partial = true;
                range = from.parse().unwrap()..to.parse::<usize>().unwrap() + 1;
            }
            if line.is_empty() {
                break;
            }
        }
        self.requests.lock().unwrap().push(range.clone());
        self.asked.notify_one();
        let answer = self.answer.lock().unwrap().clone();
        if matches!(answer, Answer::Held) {
            let mut byte = [0];
            tokio::select! {
                permit = self.released.acquire() => permit.unwrap().forget(),
                // Clients have nothing more to say: this is the end of the connection.
                _ = stream.read(&mut byte) => return self.abandoned.notify_one(),
            }
        }
        let total = self.blob.len();
        let partial = partial && !matches!(answer, Answer::Whole);
        let mut sent = if partial { range } else { 0..total };
        let mut stated = sent.clone();
        match answer {
            Answer::OtherRange | Answer::Misplaced if partial => {
                sent = sent.start + 1..total.min(sent.end + 1);
                if matches!(answer, Answer::OtherRange) {
                    stated = sent.clone();
                }
            }
            Answer::Short(most) if partial => {
                sent.end = sent.end.min(sent.start + most);
                stated = sent.clone();
            }
            _ => {}
        }
        let body = match &answer {
            Answer::Of(other) => &other[sent],
            _ => &self.blob[sent],
        };
        let status = if partial { "206 Partial Content" } else { "200 OK" };
        let range = if partial && !matches!(answer, Answer::Unsaid) {
            format!("Content-Range: bytes {}-{}/{total}\r\n", stated.start, stated.end - 1)
        } else {
            String::new()
        };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{range}\r\n"
        );
        let body = if matches!(answer, Answer::Half) { &body[..body.len() / 2] } else { body };
        // A client that has gone has read enough.
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(body).await;
    }
}
