//! The command line: one file per subcommand. Only here and in `main` are errors `anyhow`, and
//! only here is a terminal known.

/// `clipwright cat`.
mod cat;
/// `clipwright index`.
mod index;
/// `clipwright inspect`.
mod inspect;
/// `clipwright ls`.
mod ls;
/// `clipwright openapi`.
mod openapi;
/// Progress bars and lines.
mod progress;
/// Options for commands that reach registries.
mod registry;
/// `clipwright serve`.
mod serve;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds and pulls container images into CLIP archives for beta9.
#[derive(Debug, Parser)]
#[command(name = "clipwright", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service: API, queue and workers
    Serve(serve::Serve),
    /// Index an image into a v2 archive, without a service
    Index(index::Index),
    /// Show what an archive is and where its content lives
    Inspect(inspect::Inspect),
    /// List the files in an archive
    Ls(ls::Ls),
    /// Write a file's content to standard output, read through the archive
    Cat(cat::Cat),
    /// Print the OpenAPI document
    Openapi,
}

/// Runs the command line; errors go to standard error, one line for each cause.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(command) => command.run(),
        Command::Index(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Ls(command) => command.run(),
        Command::Cat(command) => command.run(),
        Command::Openapi => openapi::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("clipwright: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the reader of our output (`head`, a pager) has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::BrokenPipe)
}

/// Runs a command's asynchronous part; Ctrl-C cancels it.
fn run_async<T>(
    work: impl AsyncFnOnce(tokio_util::sync::CancellationToken) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let cancel = tokio_util::sync::CancellationToken::new();
        let interrupt = cancel.clone();
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                interrupt.cancel();
            }
        });
        work(cancel).await
    })
}
