//! Runs the commands of the pages as a user would, page by page, each from its top to its end in one shell.
//!
//! - A block of `sh` is run; every command in it has to succeed.
//! - A block of `console` has commands after `$ ` and what they print after them: `...` alone on a line stands for
//!   any lines, within a line for any characters.
//! - `<!-- not run: REASON -->` before a block keeps it from being run.
//!
//! What differs from machine to machine is replaced before: the public images by one in a registry of the
//! test under the same name, `registry.example` by that registry, the service's address and its data directory.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use super::root;
use crate::support::registry::Registry;
use crate::support::service::{Service, Settings};
use crate::support::upstream::make_image;

/// A block of a page.
#[derive(Debug)]
struct Block<'a> {
    language: &'a str,
    /// Where it begins.
    line: usize,
    text: Vec<&'a str>,
    /// Why it is not run.
    skipped: Option<&'a str>,
}

fn blocks(page: &str) -> Vec<Block<'_>> {
    let (mut found, mut open, mut skipped) = (Vec::new(), None::<Block<'_>>, None);
    for (line, text) in (1..).zip(page.lines()) {
        match (open.as_mut(), text.strip_prefix("```")) {
            (Some(_), Some("")) => found.extend(open.take()),
            (Some(block), _) => block.text.push(text),
            (None, Some(language)) => {
                open = Some(Block { language, line, text: Vec::new(), skipped: skipped.take() });
            }
            (None, None) => {
                let reason = text.strip_prefix("<!-- not run: ");
                if let Some(reason) = reason.and_then(|rest| rest.strip_suffix(" -->")) {
                    skipped = Some(reason);
                }
            }
        }
    }
    assert!(open.is_none(), "a block has no end");
    found
}

/// The commands of a session, and what each is to print.
fn session<'a>(block: &Block<'a>) -> Vec<(String, Vec<&'a str>)> {
    let mut found: Vec<(String, Vec<&str>)> = Vec::new();
    for line in &block.text {
        if let Some(command) = line.strip_prefix("$ ") {
            found.push((command.to_owned(), Vec::new()));
        } else if let Some(more) = line.strip_prefix("> ") {
            let (command, _) = found.last_mut().expect("a session begins with a command");
            write!(command, "\n{more}").unwrap();
        } else {
            found.last_mut().expect("a session begins with a command").1.push(line);
        }
    }
    found
}

/// Whether lines are what is expected, `...` standing for anything.
fn fits(expected: &[&str], found: &[&str]) -> bool {
    match (expected.split_first(), found.split_first()) {
        (None, None) => true,
        (Some((&"...", rest)), _) => {
            fits(rest, found) || found.split_first().is_some_and(|(_, later)| fits(expected, later))
        }
        (Some((line, rest)), Some((text, later))) => line_fits(line, text) && fits(rest, later),
        _ => false,
    }
}

fn line_fits(expected: &str, found: &str) -> bool {
    match expected.split_once("...") {
        None => expected.trim_end() == found.trim_end(),
        Some((before, after)) => found.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len())
                .filter(|at| rest.is_char_boundary(*at))
                .any(|at| line_fits(after, &rest[at..]))
        }),
    }
}

/// One shell for a page, and the sessions' expected output by number.
fn script<'a>(
    page: &str,
    blocks: &[Block<'a>],
    output: &Path,
) -> (String, Vec<(usize, Vec<&'a str>)>) {
    let (mut script, mut expected) = (String::from("set -euo pipefail\n"), Vec::new());
    for block in blocks.iter().filter(|block| block.skipped.is_none()) {
        writeln!(script, "echo '@@ {page}:{}' >&2", block.line).unwrap();
        match block.language {
            "sh" => writeln!(script, "{}", block.text.join("\n")).unwrap(),
            "console" => {
                for (command, lines) in session(block) {
                    let file = output.join(expected.len().to_string());
                    writeln!(script, "{{ {command}\n}} > {} 2>&1", file.display()).unwrap();
                    expected.push((block.line, lines));
                }
            }
            _ => {}
        }
    }
    (script, expected)
}

/// Runs a page's commands against a service of its own.
async fn run(page: &str) {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::start(directory.path());
    let layout = make_image("tiny", directory.path());
    let image = registry.push(&layout, "library/alpine");
    registry.push(&layout, "team-a/app");
    let host = image.split('/').next().unwrap();
    let settings = Settings::default()
        .argument("build-registry", host)
        .argument("build-repository", "clipwright");
    let service = Service::start(settings).await;

    let text = std::fs::read_to_string(root().join(page)).unwrap();
    let blocks = blocks(&text);
    let output = tempfile::tempdir().unwrap();
    let (script, expected) = script(page, &blocks, output.path());
    assert!(
        blocks.iter().any(|b| ["sh", "console"].contains(&b.language)),
        "{page} has no commands"
    );
    let here = |text: &str| {
        text.replace("docker.io/library/alpine:3.20", &image)
            .replace("alpine:3.20", &image)
            .replace("registry.example", host)
            .replace("http://127.0.0.1:8080", &service.url)
            .replace("/var/lib/clipwright", service.data().to_str().unwrap())
    };
    let binary = Path::new(env!("CARGO_BIN_EXE_clipwright"));
    let path = format!("{}:{}", binary.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let work = tempfile::tempdir().unwrap();
    let mut command = Command::new("bash");
    command.arg("-c").arg(here(&script)).current_dir(work.path()).env("PATH", path);
    command.env("CLIPWRIGHT_SERVER", &service.url).env("NO_PROXY", "127.0.0.1");
    command.env("CLIPWRIGHT_SPAN_CACHE_DIR", work.path().join("spans"));
    // The registry is on this machine.
    command.env("CLIPWRIGHT_PRIVATE_ADDRESSES", "true");
    // Without what libpq does not know.
    let (url, query) = service.database_url().split_once('?').unwrap_or_default();
    let query: Vec<_> = query.split('&').filter(|part| part.starts_with("host=")).collect();
    let database = format!("{url}?{}", query.join("&"));
    command.env("CLIPWRIGHT_DATA_DIR", service.data()).env("DATABASE_URL", database);
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let told = String::from_utf8_lossy(&ran.stderr);
    let printed = String::from_utf8_lossy(&ran.stdout);
    let read = |number: usize| {
        std::fs::read_to_string(output.path().join(number.to_string())).unwrap_or_default()
    };
    let outputs: String = (0..expected.len()).map(read).collect();
    assert!(ran.status.success(), "{page}: {}\n{told}\n{printed}\n{outputs}", ran.status);
    for (number, (line, lines)) in expected.iter().enumerate() {
        let wanted: Vec<_> = lines.iter().map(|line| here(line)).collect();
        let wanted: Vec<_> = wanted.iter().map(String::as_str).collect();
        let found = read(number);
        let found: Vec<_> = found.lines().collect();
        assert!(fits(&wanted, &found), "{page}:{line}: expected {wanted:#?}, found {found:#?}");
    }
}

#[tokio::test]
async fn of_the_quick_start() {
    run("docs/quick-start.md").await;
}

#[tokio::test]
async fn of_the_user_guide() {
    run("docs/user-guide.md").await;
}

#[tokio::test]
async fn of_mounting() {
    run("docs/mounting.md").await;
}

#[tokio::test]
async fn of_tenants() {
    run("docs/tenants.md").await;
}

#[tokio::test]
async fn of_rollouts() {
    run("docs/rollouts.md").await;
}

#[tokio::test]
async fn of_migration() {
    run("docs/migration.md").await;
}

#[tokio::test]
async fn of_operations() {
    run("docs/operations.md").await;
}

/// No command escapes: a block says that it has commands, and one that is not run says why.
#[test]
fn commands_are_in_blocks_that_are_run() {
    const PAGES: [&str; 7] =
        ["quick-start", "user-guide", "mounting", "tenants", "rollouts", "migration", "operations"];
    let pages = super::files("docs", ".md");
    for (name, text) in pages {
        let has_a_test = PAGES.iter().any(|page| name == format!("docs/{page}.md"));
        for block in blocks(&text) {
            let is_shell = ["sh", "console", "bash", "shell"].contains(&block.language);
            assert!(!block.language.is_empty(), "{name}:{}: a block says what it is", block.line);
            let is_run = has_a_test && ["sh", "console"].contains(&block.language);
            assert!(
                !is_shell || is_run || block.skipped.is_some(),
                "{name}:{}: is not run",
                block.line
            );
        }
        let mut inside = false;
        for (number, line) in (1..).zip(text.lines()) {
            inside ^= line.starts_with("```");
            let begins = |word: &&str| line.starts_with(&format!("    {word} "));
            let command =
                ["clipwright", "curl", "cargo", "apt-get", "psql"].iter().find(|word| begins(word));
            assert!(inside || command.is_none(), "{name}:{number}: a command outside of a block");
        }
    }
}
