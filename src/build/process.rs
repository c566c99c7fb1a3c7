//! Running a program in a sandbox: its lines as they come, and its end, whoever wants it. From the first
//! moment it is a process group of its own that is told to end (SIGTERM) and then made to (SIGKILL);
//! dropping the future kills it too, and when this process dies, it dies by itself (`sandbox`).

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::BuildError;
use super::log::Stream;
use super::sandbox::{self, SandboxSpec};
use crate::local::io_error;

/// How long a program has to come to its end once it was told to.
const GRACE: Duration = Duration::from_secs(4);
/// Longer lines come in pieces of this many bytes.
const MAX_LINE: usize = 8 << 10;

/// Takes a program's lines, in the order in which they come.
#[async_trait]
pub(super) trait Lines: Send {
    /// One line without its end.
    async fn line(&mut self, stream: Stream, text: String);
}

/// Keeps the last lines, and nothing else.
#[derive(Debug, Default)]
pub(super) struct LastLines(pub(super) VecDeque<String>);

impl LastLines {
    /// Everything in one text.
    pub(super) fn text(&self) -> String {
        self.0.iter().map(String::as_str).collect::<Vec<_>>().join("; ")
    }
}

#[async_trait]
impl Lines for LastLines {
    async fn line(&mut self, _: Stream, text: String) {
        if self.0.len() == 200 {
            self.0.pop_front();
        }
        self.0.push_back(text);
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// By itself, with this code; 128 and the signal if it was killed.
    Exit(i32),
    /// It was made to, because the token fired.
    Cancelled,
    /// It was made to, because its time was over.
    TimedOut,
}

/// Runs programs in sandboxes.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The binary whose hidden command is the sandbox: this one.
    pub program: PathBuf,
}

impl Launcher {
    /// By this program itself.
    pub fn of_this_program() -> Result<Self, BuildError> {
        let program = std::env::current_exe().map_err(io_error("can't find this program"))?;
        Ok(Self { program })
    }

    /// Runs the program of `spec` to its end.
    pub(super) async fn run(
        &self,
        spec: &SandboxSpec,
        limit: Duration,
        lines: &mut dyn Lines,
        cancel: &CancellationToken,
    ) -> Result<End, BuildError> {
        let failed = || io_error("can't run the sandbox");
        let mut text = serde_json::to_vec(spec)
            .map_err(|error| io_error("can't write the sandbox's spec")(error.into()))?;
        text.push(b'\n');
        let mut child = Command::new(&self.program)
            .arg(sandbox::COMMAND)
            .env_clear()
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed())?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(|id| Pid::from_raw(-id));
        // Held until the end: it is what tells the sandbox that we live.
        let mut input = child.stdin.take();
        if let Some(input) = &mut input {
            // One that ended at once says why on standard error.
            let _ = input.write_all(&text).await;
        }
        let end = follow(&mut child, group, limit, lines, cancel).await;
        drop(input);
        end.map_err(failed()).map_err(BuildError::from)
    }
}

async fn follow(
    child: &mut Child,
    group: Option<Pid>,
    limit: Duration,
    lines: &mut dyn Lines,
    cancel: &CancellationToken,
) -> std::io::Result<End> {
    let mut output = child.stdout.take().map(LineReader::new);
    let mut errors = child.stderr.take().map(LineReader::new);
    let mut deadline = Instant::now() + limit;
    let mut stopped = None;
    let signal = |signal| {
        if let Some(group) = group {
            // It may have ended by itself.
            let _ = kill(group, signal);
        }
    };
    loop {
        tokio::select! {
            // What is written first is read first, as well as two pipes allow.
            biased;
            () = cancel.cancelled(), if stopped.is_none() => {
                (stopped, deadline) = (Some(End::Cancelled), Instant::now() + GRACE);
                signal(Signal::SIGTERM);
            }
            () = sleep_until(deadline) => {
                if stopped.is_none() {
                    (stopped, deadline) = (Some(End::TimedOut), Instant::now() + GRACE);
                    signal(Signal::SIGTERM);
                } else {
                    signal(Signal::SIGKILL);
                    break;
                }
            }
            line = next(&mut output), if output.is_some() => match line? {
                Some(text) => lines.line(Stream::Output, text).await,
                None => output = None,
            },
            line = next(&mut errors), if errors.is_some() => match line? {
                Some(text) => lines.line(Stream::Errors, text).await,
                None => errors = None,
            },
            else => break,
        }
        if output.is_none() && errors.is_none() {
            break;
        }
    }
    let ended = tokio::time::timeout(GRACE, child.wait()).await;
    let status = match ended {
        Ok(status) => status?,
        Err(_) => {
            signal(Signal::SIGKILL);
            child.wait().await?
        }
    };
    Ok(stopped.unwrap_or_else(|| End::Exit(status.code().unwrap_or(128 + 9))))
}

async fn next<R: AsyncRead + Unpin>(
    reader: &mut Option<LineReader<R>>,
) -> std::io::Result<Option<String>> {
    match reader {
        Some(reader) => reader.next().await,
        None => Ok(None),
    }
}

/// Lines of bounded length; bytes that are no UTF-8 are replaced. Safe to cancel.
struct LineReader<R> {
    reader: BufReader<R>,
    begun: Vec<u8>,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    fn new(reader: R) -> Self {
        Self { reader: BufReader::new(reader), begun: Vec::new() }
    }

    async fn next(&mut self) -> std::io::Result<Option<String>> {
        loop {
            let bytes = self.reader.fill_buf().await?;
            if bytes.is_empty() {
                let rest = std::mem::take(&mut self.begun);
                return Ok((!rest.is_empty()).then(|| text_of(&rest)));
            }
            let room = MAX_LINE - self.begun.len();
            let (taken, whole) = match bytes.iter().take(room).position(|byte| *byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (bytes.len().min(room), bytes.len() >= room),
            };
            self.begun.extend_from_slice(&bytes[..taken]);
            self.reader.consume(taken);
            if whole {
                let line = std::mem::take(&mut self.begun);
                return Ok(Some(text_of(&line)));
            }
        }
    }
}

/// The line as a terminal would show it: what was overwritten is gone.
fn text_of(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches(['\n', '\r']);
    text.rsplit('\r').next().unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_bounded_and_shown_as_on_a_terminal() {
        let long = "x".repeat(MAX_LINE + 3);
        let text = format!("one\r\n 10 %\r 20 %\n{long}\n\nlast");
        let mut reader = LineReader::new(text.as_bytes());
        let mut lines = Vec::new();
        while let Some(line) = reader.next().await.unwrap() {
            lines.push(line);
        }
        assert_eq!(lines, ["one", " 20 %", &long[..MAX_LINE], "xxx", "", "last"]);
    }
}
