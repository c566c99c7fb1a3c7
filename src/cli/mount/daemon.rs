//! The process that goes on when the command has ended: the program once more, in a session of its
//! own. It says on a pipe when it is ready; if it ends before that, the command ends as it did.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// Starts it and waits until it is ready.
pub(super) fn start() -> anyhow::Result<()> {
    let program = std::env::current_exe().context("can't find the program itself")?;
    let mut arguments = std::env::args_os().skip(1);
    let mut process = Command::new(program)
        .args(arguments.next()) // the subcommand
        .arg("--detached")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("can't start the process that is to serve the mount")?;
    let mut said = String::new();
    if let Some(out) = process.stdout.take() {
        BufReader::new(out).read_line(&mut said)?;
    }
    if !said.is_empty() {
        print!("{said}");
        return Ok(());
    }
    let status = process.wait()?;
    match status.code() {
        // It has said why.
        Some(code) => std::process::exit(code.max(1)),
        None => bail!("the process that was to serve the mount has died: {status}"),
    }
}

/// Says that this process is ready; from now on it speaks to `log` alone.
pub(super) fn ready(what: &str, log: &Path) -> anyhow::Result<()> {
    let opened = log
        .parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| OpenOptions::new().create(true).append(true).open(log));
    let log = opened.with_context(|| format!("can't write {}", log.display()))?;
    // Whoever started us shall be able to end its session, and to unmount where it was.
    let _ = nix::unistd::setsid();
    std::env::set_current_dir("/")?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what}")?;
    out.flush()?;
    rustix::stdio::dup2_stderr(&log)?;
    rustix::stdio::dup2_stdout(&log)?;
    Ok(())
}
