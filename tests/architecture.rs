//! The house as `docs/architecture.md` has it: a floor uses those below it, and no two files import
//! each other. A module's own parent may be asked for what it holds for all its children.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// From the top down.
const FLOORS: [&str; 17] = [
    "cli",
    "api",
    "beta9",
    "rollouts",
    "workspaces",
    "jobs",
    "build",
    "publish",
    "archive",
    "mount",
    "content",
    "fetch",
    "store",
    "layer",
    "oci",
    "clip",
    "gzip",
];
/// What may be used from jobs upward, and by each other.
const FROM_JOBS_UPWARD: [&str; 3] = ["config", "database", "telemetry"];

/// Every module below `src` by its path, with the paths that it imports.
fn modules() -> BTreeMap<String, BTreeSet<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut sources, mut todo) = (BTreeMap::new(), vec![root.clone()]);
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().with_extension("");
                let name = name.to_str().unwrap().replace('/', "::");
                sources.insert(name, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    let names: BTreeSet<String> = sources.keys().cloned().collect();
    let tested = |name: &String| name.split("::").any(|part| part == "tests");
    let product = sources.iter().filter(|(name, _)| !tested(name));
    product.map(|(name, text)| (name.clone(), imports(name, text, &names))).collect()
}

/// The modules that `use` declarations outside of test modules name.
fn imports(name: &str, text: &str, names: &BTreeSet<String>) -> BTreeSet<String> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let mut found = BTreeSet::new();
    let mut statement = String::new();
    for line in text.lines() {
        let line = line.trim();
        let starts = line.starts_with("use ") || line.starts_with("pub") && line.contains(" use ");
        if !statement.is_empty() || starts {
            statement.push_str(line);
        }
        if statement.ends_with(';') {
            let tree = statement.split_once("use ").unwrap().1.trim_end_matches(';').to_owned();
            for path in expand(&tree) {
                found.extend(resolve(name, &path, names));
            }
            statement.clear();
        }
    }
    found
}

/// `a::{b, c::{d}}` as `a::b` and `a::c::d`.
fn expand(tree: &str) -> Vec<String> {
    let Some((prefix, rest)) = tree.split_once('{') else { return vec![tree.trim().to_owned()] };
    let inner = rest.trim_end().strip_suffix('}').unwrap();
    let (mut depth, mut part, mut paths) = (0, String::new(), Vec::new());
    for character in inner.chars().chain([',']) {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !part.trim().is_empty() {
                    paths.extend(expand(&format!("{}{}", prefix.trim(), part.trim())));
                }
                part.clear();
                continue;
            }
            _ => {}
        }
        part.push(character);
    }
    paths
}

/// The module that a path in module `name` leads to, if it is another one of ours.
fn resolve(name: &str, path: &str, names: &BTreeSet<String>) -> Option<String> {
    let mut base: Vec<&str> = name.split("::").collect();
    let mut rest = path;
    if let Some(below) = rest.strip_prefix("crate::") {
        (base, rest) = (Vec::new(), below);
    }
    while let Some(above) = rest.strip_prefix("super::") {
        base.pop();
        rest = above;
    }
    let mut parts: Vec<&str> = base.into_iter().chain(rest.split("::")).collect();
    while !parts.is_empty() {
        let module = parts.join("::");
        if names.contains(&module) {
            return (module != name).then_some(module);
        }
        parts.pop();
    }
    None
}

#[test]
fn no_two_files_import_each_other() {
    let modules = modules();
    assert!(modules.len() > 150, "{} modules found", modules.len());
    let above = |one: &str, other: &str| other.starts_with(&format!("{one}::"));
    for (name, imported) in &modules {
        for other in imported {
            let back = modules.get(other).is_some_and(|imported| imported.contains(name));
            let family = above(name, other) || above(other, name);
            assert!(!back || family, "{name} and {other} import each other");
        }
    }
}

#[test]
fn no_arrow_runs_back_up() {
    let room = |module: &str| module.split("::").next().unwrap().to_owned();
    let floor = |room: &str| FLOORS.iter().position(|name| *name == room);
    let jobs = floor("jobs").unwrap();
    for (name, imported) in modules() {
        let Some(from) = floor(&room(&name)) else { continue };
        for other in imported {
            let to = room(&other);
            if let Some(to) = floor(&to) {
                assert!(from <= to, "{name} imports {other}, which is above it");
            }
            let early = FROM_JOBS_UPWARD.contains(&to.as_str()) && from > jobs;
            assert!(!early, "{name} imports {other}, which is for jobs and those above");
        }
    }
    for room in FROM_JOBS_UPWARD {
        for (name, imported) in modules().into_iter().filter(|(name, _)| name.starts_with(room)) {
            let up = imported.iter().find(|other| {
                other.split("::").next().and_then(&floor).is_some_and(|to| to <= jobs)
            });
            assert_eq!(up, None, "{name} imports from a floor that uses it");
        }
    }
}
