//! Running git: nothing of the machine's or of a user's configuration, a process group that dies with the call, a
//! bound on each file that it writes and on its memory, and what it says, cut.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use crate::build::source::error::SourceError;

/// Bytes of memory that git may have.
const MEMORY: u64 = 2 << 30;
/// Seconds of a processor that it may take for one step.
const PROCESSOR: u32 = 300;
/// Bytes that are kept of what it says.
const MAX_SAID: u64 = 16 << 10;
/// What the system ends a program by whose file grows beyond its bound.
const TOO_LARGE: i32 = 25;
/// And by this, which has taken more of a processor than it may.
const TOO_LONG: i32 = 24;

/// How git is run for one context.
pub(super) struct Run<'a> {
    /// The context, for errors.
    pub(super) what: String,
    /// The repository.
    pub(super) home: &'a Path,
    /// All of its configuration.
    pub(super) config: &'a Path,
    /// What it gets of ours.
    pub(super) environment: Vec<(&'static str, OsString)>,
    /// Bytes of a file at most.
    pub(super) most: u64,
}

/// What it said on standard output.
pub(super) struct Said(String);

impl Said {
    /// The first line.
    pub(super) fn line(&self) -> String {
        self.0.lines().next().unwrap_or_default().trim().to_owned()
    }
}

/// The processes that a call began: none outlives it.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // There may be none left.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Run<'_> {
    /// Runs git with these arguments in the repository.
    pub(super) async fn git(&self, arguments: &[&str]) -> Result<Said, SourceError> {
        let failed = |error: std::io::Error| SourceError::Impossible {
            what: self.what.clone(),
            reason: format!("git can't be run: {error}"),
        };
        // It sets the bounds and becomes git.
        let mut child = Command::new("prlimit")
            .args([format!("--fsize={}", self.most), format!("--as={MEMORY}")])
            .arg(format!("--cpu={PROCESSOR}"))
            .args(["git", "--git-dir=."])
            .args(arguments)
            .current_dir(self.home)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.home)
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", self.config)
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "/bin/false")
            .env("GIT_PROTOCOL_FROM_USER", "0")
            .envs(ONE_COMMIT)
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let mut group = Group(id.map(Pid::from_raw));
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        let (status, said, complaint) = tokio::join!(child.wait(), all(output), all(errors));
        // They are at their end: the group's number may be another's from now on.
        group.0 = None;
        let status = status.map_err(failed)?;
        if status.success() {
            return Ok(Said(said));
        }
        Err(self.judge(status.signal(), &complaint))
    }

    /// What a failure means.
    fn judge(&self, signal: Option<i32>, complaint: &str) -> SourceError {
        let what = self.what.clone();
        let has = |words: &[&str]| words.iter().any(|word| complaint.contains(word));
        if signal == Some(TOO_LARGE) || has(&["died of signal 25", "File too large"]) {
            return SourceError::TooLarge { what, most: self.most };
        }
        // A few small objects can stand for millions of files.
        if signal == Some(TOO_LONG) || has(&["died of signal 24", "out of memory", "Out of memory"])
        {
            let reason = "its files are more than git can take in".to_owned();
            return SourceError::Denied { what, reason };
        }
        let reason = shown(complaint);
        if has(&["error: 301", "error: 302", "error: 303", "error: 307", "error: 308", "redirect"])
        {
            let reason = format!("{reason}; redirects are not followed");
            return SourceError::Denied { what, reason };
        }
        if has(&["Authentication failed", "could not read Username", "error: 401", "error: 403"]) {
            return SourceError::Denied { what, reason };
        }
        if has(&["find remote ref", "not our ref", "not found", "error: 404", "no such remote ref"])
        {
            return SourceError::NotFound { what, reason };
        }
        SourceError::Unavailable { what, reason }
    }
}

/// Who makes the commit that holds a context's files, and when: always the same.
const ONE_COMMIT: [(&str, &str); 6] = [
    ("GIT_AUTHOR_NAME", "clipwright"),
    ("GIT_AUTHOR_EMAIL", "clipwright"),
    ("GIT_AUTHOR_DATE", "@0 +0000"),
    ("GIT_COMMITTER_NAME", "clipwright"),
    ("GIT_COMMITTER_EMAIL", "clipwright"),
    ("GIT_COMMITTER_DATE", "@0 +0000"),
];

/// All that comes, of which the beginning is kept.
async fn all(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut kept = Vec::new();
    // What can't be read is not there.
    let _ = (&mut stream).take(MAX_SAID).read_to_end(&mut kept).await;
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&kept).into_owned()
}

/// The last words, as one line.
fn shown(complaint: &str) -> String {
    let lines: Vec<_> = complaint.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let text = lines[lines.len().saturating_sub(3)..].join("; ");
    let plain = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    let text: String = plain.take(400).collect();
    if text.is_empty() { "git said nothing".to_owned() } else { text }
}
