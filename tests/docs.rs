//! What the documentation says is so: its commands run, its links lead somewhere, every error code has a row,
//! and the pages in the binary are made of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// The commands in the pages, run against a real service.
mod commands;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a directory with such an ending, by their paths from the project's root.
fn files(directory: &str, ending: &str) -> BTreeMap<String, String> {
    let (mut found, mut todo) = (BTreeMap::new(), vec![root().join(directory)]);
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.to_str().unwrap().ends_with(ending) {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                found.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

/// The string literals in a piece of source.
fn literals(source: &str) -> impl Iterator<Item = &str> {
    source.split('"').skip(1).step_by(2)
}

fn is_code(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// The error codes in the sources: what `Classify::code` says, what the API makes itself, what is written
/// into a job's error, and the limits.
fn codes() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (name, text) in files("src", ".rs") {
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let mut add = |piece: &str| {
            found.extend(literals(piece).filter(|text| is_code(text)).map(str::to_owned));
        };
        // Functions that say a code.
        let methods = text.split("fn code(").skip(1);
        for body in methods.filter(|body| body.trim_start_matches('&').starts_with("self")) {
            let (end, closing) = (body.find(';'), body.find("\n    }"));
            let declared = end.is_some_and(|end| !body[..end].contains('{'));
            if !declared {
                add(&body[..closing.unwrap()]);
            }
        }
        // Problems of the API: the first literal is the code.
        if name.starts_with("src/api") {
            for call in ["ApiError::new(", "ApiError::not_found(", "Self::new(", "refused("] {
                for arguments in text.split(call).skip(1) {
                    let literal = literals(arguments.split(';').next().unwrap_or_default()).next();
                    found.extend(literal.filter(|text| is_code(text)).map(str::to_owned));
                }
            }
            for pair in
                text.split("=> (\"").skip(1).chain(text.split("\n                (\"").skip(1))
            {
                found
                    .extend(pair.split('"').next().filter(|text| is_code(text)).map(str::to_owned));
            }
        }
        for literal in text.split("code: \"").skip(1) {
            found.extend(literal.split('"').next().map(str::to_owned));
        }
        if name == "src/layer/limits.rs" {
            let limits = literals(text).filter(|text| text.starts_with("limit_"));
            found.extend(limits.map(str::to_owned));
        }
        if name == "src/jobs/worker/attempt.rs" {
            for arm in text.split("=> (\"").skip(1) {
                found.extend(arm.split('"').next().map(str::to_owned));
            }
        }
    }
    // Made in the tests of the retry helper alone.
    found.remove("failure");
    found
}

#[test]
fn every_error_code_has_a_row() {
    let page = std::fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let rows: BTreeSet<String> = page
        .split("<a id=\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap().to_owned())
        .collect();
    let codes = codes();
    assert!(codes.len() > 100, "only {} codes were found: {codes:?}", codes.len());
    let missing: Vec<_> = codes.difference(&rows).collect();
    assert!(missing.is_empty(), "docs/troubleshooting.md has no row for {missing:?}");
    let unknown: Vec<_> = rows.difference(&codes).collect();
    assert!(
        unknown.is_empty(),
        "docs/troubleshooting.md has rows for what is no code: {unknown:?}"
    );
    for row in page.lines().filter(|line| line.contains("<a id=\"")) {
        assert_eq!(row.matches(" | ").count(), 2, "a row has three cells: {row}");
    }
}

#[test]
fn the_site_is_what_the_docs_make() {
    let mut sources = files("docs", "");
    sources
        .insert("book.toml".to_owned(), std::fs::read_to_string(root().join("book.toml")).unwrap());
    let line = |(name, text): (&String, &String)| {
        format!("{}  {name}\n", hex::encode(Sha256::digest(text)))
    };
    let made_of = std::fs::read_to_string(root().join("site/sources.txt")).unwrap();
    let now: String = sources.iter().map(line).collect();
    assert_eq!(made_of, now, "run scripts/site.sh");
}

#[test]
fn every_page_is_in_the_book_and_every_link_leads_somewhere() {
    let pages = files("docs", ".md");
    let summary = &pages["docs/SUMMARY.md"];
    for name in pages.keys().filter(|name| !name.ends_with("SUMMARY.md")) {
        let link = format!("({})", name.trim_start_matches("docs/"));
        assert!(summary.contains(&link), "docs/SUMMARY.md does not list {name}");
    }
    for (name, text) in &pages {
        let made = name.replacen("docs/", "site/", 1).replace(".md", ".html");
        let made = if name.ends_with("SUMMARY.md") { "site/toc.html".to_owned() } else { made };
        assert!(root().join(&made).is_file(), "there is no {made}: run scripts/site.sh");
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            // Pages of the API are in the service alone.
            if link.starts_with("http") || link.ends_with("api/") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let here = root().join(name);
            let target: PathBuf =
                if path.is_empty() { here } else { here.parent().unwrap().join(path) };
            assert!(target.is_file(), "{name}: {link} leads nowhere");
            let outside = !target.canonicalize().unwrap().starts_with(root().join("docs"));
            assert!(!outside, "{name}: {link} leads out of the book");
            if !anchor.is_empty() {
                let site = target.canonicalize().unwrap();
                let site = site.strip_prefix(root().join("docs")).unwrap().with_extension("html");
                let html = std::fs::read_to_string(root().join("site").join(site)).unwrap();
                assert!(html.contains(&format!("id=\"{anchor}\"")), "{name}: no {link}");
            }
        }
    }
}
