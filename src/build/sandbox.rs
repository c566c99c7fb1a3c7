//! A process apart: in PID, mount, IPC and UTS namespaces of its own, with a filtered network, or without one;
//! in a root that holds the system's programs, read-only, and what the spec names. A builder that is tricked
//! out of the image's root finds nothing of the host there: no data directory, no disks, no other
//! workspace's layers.
//!
//! `clipwright build-sandbox` is this in two stages. The *outer* one reads the `SandboxSpec` from its
//! standard input, joins the cgroups, makes the namespaces and starts the *inner* one, which is process 1
//! in there: it builds the root, runs the program, and reaps whatever is left to it. When either ends,
//! however it ends, the kernel kills all that is in the namespace, daemons included, and the mounts go
//! with the last of them. The outer one ends when its standard input does, as it does when the service
//! dies.
//!
//! It runs in a process of its own and must not know buildah.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};

use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::SandboxError;
use super::network::{Network, NetworkException};

/// The filtered network.
mod network;
/// What root may do.
mod power;
/// The root of a sandbox.
mod root;

/// The hidden command that is this.
pub const COMMAND: &str = "build-sandbox";
/// Its argument in the inner stage.
pub const INNER: &str = "--inner";

/// The longest spec that is read, in bytes.
const MAX_SPEC: u64 = 32 << 20;
/// The exit code of a sandbox that could not be made; what is wrong is on standard error, behind [`FAILED`].
pub const CODE: i32 = 254;
/// How the line begins that tells what is wrong with the sandbox itself.
pub const FAILED: &str = "sandbox: ";

/// What runs in a sandbox, and what it sees.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The program and its arguments, which every process of the machine can read.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
    /// An empty directory, over which the new root is made.
    pub root: PathBuf,
    /// Paths that are there as they are here, and can't be written.
    pub read_only: Vec<PathBuf>,
    /// Paths that are there as they are here, and can be written.
    pub writable: Vec<PathBuf>,
    /// What is `/tmp` and `/var/tmp` there.
    pub temporary: PathBuf,
    /// Which network there is.
    pub network: Network,
    /// What the filtered one lets through beside the public internet.
    pub exceptions: Vec<NetworkException>,
    /// Files of cgroups that the process is written into.
    pub cgroups: Vec<PathBuf>,
    /// Whether cgroups can be made there, as an OCI runtime has to.
    pub makes_cgroups: bool,
}

/// Runs one of the stages, and gives the exit code for the process.
pub fn run(inner: bool) -> i32 {
    let done = if inner { run_inner() } else { run_outer() };
    done.unwrap_or_else(|error| {
        // Nobody is there to be told if this fails.
        let _ = writeln!(std::io::stderr(), "{FAILED}{error}");
        CODE
    })
}

fn run_outer() -> Result<i32, SandboxError> {
    // Whoever ends the build signals the whole group, and this waits for what becomes of it. Programs
    // that are started from here have their signals unblocked again.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().map_err(SandboxError::of("block signals"))?;
    let mut input = BufReader::new(std::io::stdin());
    let mut line = String::new();
    input
        .by_ref()
        .take(MAX_SPEC)
        .read_line(&mut line)
        .map_err(SandboxError::of("read the spec"))?;
    let spec: SandboxSpec =
        serde_json::from_str(&line).map_err(SandboxError::of("read the spec"))?;
    for cgroup in &spec.cgroups {
        std::fs::write(cgroup, std::process::id().to_string())
            .map_err(SandboxError::of(&format!("join {}", cgroup.display())))?;
    }
    // Lasts until this ends.
    let _network = match spec.network {
        Network::Filtered => Some(network::enter(&spec.exceptions)?),
        Network::Host | Network::None => None,
    };
    // When the service is gone, nobody waits for what is built. No thread can be made once processes are
    // to be in another namespace.
    let inner_process = Arc::new(OnceLock::new());
    let known = inner_process.clone();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut input, &mut std::io::sink());
        match known.get() {
            Some(process) => drop(kill(*process, Signal::SIGKILL)),
            None => std::process::exit(CODE),
        }
    });
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    if spec.network == Network::None {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    unshare(flags).map_err(SandboxError::of("make namespaces, which needs root"))?;
    let own = std::env::current_exe().map_err(SandboxError::of("find this program"))?;
    let mut inner = Command::new(own)
        .args([COMMAND, INNER])
        .env_clear()
        .stdin(Stdio::piped())
        .spawn()
        .map_err(SandboxError::of("start the inner process"))?;
    let process = Pid::from_raw(inner.id().cast_signed());
    if let Some(mut pipe) = inner.stdin.take() {
        pipe.write_all(line.as_bytes()).map_err(SandboxError::of("hand the spec on"))?;
    }
    let _ = inner_process.set(process);
    let status = inner.wait().map_err(SandboxError::of("wait for the inner process"))?;
    Ok(code(status))
}

fn code(status: ExitStatus) -> i32 {
    status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(CODE)
}

fn run_inner() -> Result<i32, SandboxError> {
    set_pdeathsig(Signal::SIGKILL).map_err(SandboxError::of("be killed with the outer process"))?;
    let mut line = String::new();
    let input = std::io::stdin().take(MAX_SPEC);
    BufReader::new(input).read_line(&mut line).map_err(SandboxError::of("read the spec"))?;
    let spec: SandboxSpec =
        serde_json::from_str(&line).map_err(SandboxError::of("read the spec"))?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    // Process 1 has no handlers: what is sent to it is taken by a thread that waits for it.
    signals.thread_block().map_err(SandboxError::of("block signals"))?;
    nix::unistd::sethostname("build").map_err(SandboxError::of("name the host"))?;
    root::enter(&spec)?;
    power::give_up()?;
    let [program, arguments @ ..] = &spec.arguments[..] else {
        return Err(SandboxError {
            what: "run nothing".to_owned(),
            reason: "no program".to_owned(),
        });
    };
    let null = File::open("/dev/null").map_err(SandboxError::of("open /dev/null"))?;
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(spec.environment.iter().map(|(name, value)| (name, value)))
        .stdin(null)
        .process_group(0)
        .spawn()
        .map_err(SandboxError::of(&format!("run {program}")))?;
    let process = Pid::from_raw(child.id().cast_signed());
    std::thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            let _ = kill(Pid::from_raw(-process.as_raw()), signal);
        }
    });
    // It is the parent of all orphans.
    loop {
        match waitpid(None, None).map_err(SandboxError::of("wait for the program"))? {
            WaitStatus::Exited(ended, code) if ended == process => return Ok(code),
            WaitStatus::Signaled(ended, signal, _) if ended == process => {
                return Ok(128 + signal as i32);
            }
            _ => {}
        }
    }
}
