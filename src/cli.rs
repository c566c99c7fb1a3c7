//! The command line: one file per subcommand. Only here and in `main` are errors `anyhow`, and
//! only here is a terminal known.

/// `clipwright workspace`, `token` and `rollout`.
mod admin;
/// `clipwright build`.
mod build;
/// The sandbox that a builder runs in.
mod build_sandbox;
/// Options for commands that keep layer indexes.
mod cache;
/// `clipwright cat`.
mod cat;
/// A client of the service.
mod client;
/// `clipwright completion`.
mod completion;
/// Options for commands that read content.
mod content;
/// `clipwright extract`.
mod extract;
/// What happens to a job of the service, to its end.
mod follow;
/// `clipwright gc`.
mod gc;
/// `clipwright images`.
mod images;
/// `clipwright index`.
mod index;
/// `clipwright inspect`.
mod inspect;
/// Progress of a job of the service.
mod job_progress;
/// `clipwright jobs`.
mod jobs;
/// `clipwright ls`.
mod ls;
/// `clipwright man`.
mod man;
/// `clipwright migrate`.
mod migrate;
/// `clipwright mount`.
mod mount;
/// `clipwright mounts`.
mod mounts;
/// `clipwright openapi`.
mod openapi;
/// `clipwright pack`.
mod pack;
/// Where an archive is.
mod place;
/// Progress bars and lines.
mod progress;
/// Options for commands that reach registries.
mod registry;
/// What a command that made an archive says.
mod report;
/// `clipwright rollout report`.
mod rollout_report;
/// `clipwright schema`.
mod schema;
/// `clipwright serve`.
mod serve;
/// Options for commands that work through a service.
mod service;
/// `clipwright workspace storage`.
mod storage;
/// `clipwright submit`.
mod submit;
/// `clipwright submit build`.
mod submit_build;
/// `clipwright trace`.
mod trace;
/// `clipwright unmount`.
mod unmount;
/// `clipwright verify`.
mod verify;
mod webhooks;

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
#[expect(clippy::large_enum_variant, reason = "a process has one")]
enum Command {
    /// Run the service: API, queue and workers
    Serve(serve::Serve),
    /// Index an image into a v2 archive, without a service
    Index(index::Index),
    /// Pack an image into a v1 archive, which carries the files' content, without a service
    Pack(pack::Pack),
    /// Build an image from a Dockerfile, push it, and index it into an archive, without a service
    Build(build::Build),
    /// Show what an archive is and where its content lives
    Inspect(inspect::Inspect),
    /// List the files in an archive
    Ls(ls::Ls),
    /// Write a file's content to standard output, read through the archive
    Cat(cat::Cat),
    /// Find what lies in the store and serves nobody, and remove it if told to
    Gc(gc::Gc),
    /// Unpack an archive, or a directory of it, into a new directory
    Extract(extract::Extract),
    /// Mount an archive; what is read is fetched when it is read
    Mount(mount::Mount),
    /// Unmount an archive
    Unmount(unmount::Unmount),
    /// List the archives that are mounted on this machine
    Mounts(mounts::Mounts),
    /// Run a program of an image, and write a trace of what it reads
    Trace(trace::Trace),
    #[command(hide = true)]
    Inside(trace::inside::Inside),
    #[command(hide = true, name = crate::build::sandbox::COMMAND)]
    BuildSandbox(build_sandbox::BuildSandbox),
    /// Check an archive: its structure, its tree, where its content is, and with --deep every byte
    Verify(verify::Verify),
    /// Bring archives to the other version, through a service
    Migrate(migrate::Migrate),
    /// Submit a job to a service, and follow it to its end
    Submit(submit::SubmitCommand),
    /// Show and change jobs, through a service
    Jobs(jobs::JobsCommand),
    /// Show images, through a service
    Images(images::ImagesCommand),
    /// Show webhooks and send them again, through a service
    Webhooks(webhooks::WebhooksCommand),
    /// Show and change workspaces, through a service
    Workspace(admin::WorkspaceCommand),
    /// Show and change tokens, through a service
    Token(admin::TokenCommand),
    /// Show and change rollouts, through a service
    Rollout(admin::RolloutCommand),
    /// Bring the schema of the database to this version, and end
    Schema(schema::Schema),
    /// Print the OpenAPI document
    Openapi,
    /// Print what makes a shell complete these commands
    Completion(completion::Completion),
    /// Write a manual page for each command into a directory
    Man(man::ManPages),
}

/// Runs the command line; errors go to standard error, one line for each cause.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(command) => command.run(),
        Command::Index(command) => command.run(),
        Command::Pack(command) => command.run(),
        Command::Build(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Ls(command) => command.run(),
        Command::Cat(command) => command.run(),
        Command::Gc(command) => command.run(),
        Command::Extract(command) => command.run(),
        Command::Mount(command) => command.run(),
        Command::Unmount(command) => command.run(),
        Command::Mounts(command) => command.run(),
        Command::Trace(command) => command.run(),
        Command::Inside(command) => command.run(),
        Command::BuildSandbox(command) => command.run(),
        Command::Verify(command) => command.run(),
        Command::Migrate(command) => command.run(),
        Command::Submit(command) => command.run(),
        Command::Jobs(command) => command.run(),
        Command::Images(command) => command.run(),
        Command::Webhooks(command) => command.run(),
        Command::Workspace(command) => command.run(),
        Command::Token(command) => command.run(),
        Command::Rollout(command) => command.run(),
        Command::Schema(command) => command.run(),
        Command::Openapi => openapi::run(),
        Command::Completion(command) => command.run::<Cli>(),
        Command::Man(command) => command.run::<Cli>(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("clipwright: {}", in_one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, but for those that the text before has told already.
fn in_one_line(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| {
        if told.is_empty() {
            cause
        } else if told.contains(&cause) {
            told
        } else {
            format!("{told}: {cause}")
        }
    })
}

/// Control characters and bytes that are no UTF-8 escaped: a name must not drive the terminal.
fn printable(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        text.push_str(&chunk.invalid().escape_ascii().to_string());
    }
    text
}

/// Opens an archive that a user named; what is wrong with it is told with its name.
fn open_archive(file: &std::path::Path) -> anyhow::Result<crate::clip::reader::Archive> {
    use anyhow::Context as _;
    crate::clip::reader::Archive::open(file)
        .with_context(|| format!("can't read the archive {}", file.display()))
}

/// The same, of one that is to be mounted.
fn open_to_mount(
    file: &std::path::Path,
    cache: Option<&crate::content::SpanCache>,
) -> anyhow::Result<crate::mount::MountArchive> {
    use anyhow::Context as _;
    crate::mount::MountArchive::open(file, cache)
        .with_context(|| format!("can't read the archive {}", file.display()))
}

/// Writes a line to standard output, as `println!` does, which panics when nobody reads it.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::print_line(format_args!($($text)*)) };
}
use say;

/// A reader that has seen enough (`head`, a pager) ends the command, in good order.
fn print_line(line: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    let Err(error) = writeln!(std::io::stdout().lock(), "{line}") else { return };
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    eprintln!("clipwright: can't write to standard output: {error}");
    std::process::exit(1);
}

/// Whether the reader of our output (`head`, a pager) has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::BrokenPipe)
}

/// Runs a command's asynchronous part; Ctrl-C cancels it, and warnings go to standard error.
fn run_async<T>(
    work: impl AsyncFnOnce(tokio_util::sync::CancellationToken) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    crate::telemetry::init(&crate::telemetry::LogSettings::warnings());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let cancel = tokio_util::sync::CancellationToken::new();
        let interrupt = cancel.clone();
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                interrupt.cancel();
            }
            // Whoever asks twice does not want to wait for good order.
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(130);
            }
        });
        work(cancel).await
    })
}
