//! The program, in the image: a process that makes the mounted archive its root, in a mount namespace
//! of its own, and becomes the program.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Become a program of an image. `clipwright trace` runs this.
#[derive(Debug, Args)]
pub(in crate::cli) struct Inside {
    /// The new root
    root: PathBuf,
    /// Where the program begins
    directory: PathBuf,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl Inside {
    pub(in crate::cli) fn run(self) -> anyhow::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS).context("can't have mounts of one's own")?;
        let none: Option<&str> = None;
        // What is mounted from here on, nobody else is to see.
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        for (kind, point) in [("proc", "proc"), ("tmpfs", "tmp"), ("tmpfs", "run")] {
            let point = self.root.join(point);
            if point.is_dir() {
                mount(Some(kind), &point, Some(kind), MsFlags::empty(), none)
                    .with_context(|| format!("can't mount {kind} at {}", point.display()))?;
            }
        }
        nix::unistd::chroot(&self.root).context("can't change the root")?;
        std::env::set_current_dir(&self.directory).or_else(|_| std::env::set_current_dir("/"))?;
        let [program, arguments @ ..] = &self.command[..] else { return Ok(()) };
        let error = std::process::Command::new(program).args(arguments).exec();
        Err(error).with_context(|| format!("can't run {}", program.display()))
    }
}
