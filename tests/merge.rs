//! Random stacks of layers: the merged tree, and what a v1 archive of them holds, is the one that
//! `umoci unpack` makes of the same layers, or both refuse.

use clipwright::memory::MemoryAccount;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;

use clipwright::archive::{PackOptions, PackedImage};
use clipwright::clip::node::{FileContent, Node, NodeKind, Special};
use clipwright::layer::{LayerError, LayerRead, Limits, NoContents, merge, read_layer};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use crate::support::layout::{Blob, Layout};
use crate::support::pack::Image;

#[derive(Debug, Clone)]
enum Op {
    Dir(String, u32),
    File(String, u8),
    Symlink(String, String),
    HardLink(String, String),
    Fifo(String),
    Whiteout(String),
    Opaque(String),
}

/// Few names, so that layers meet.
const NAMES: &[&str] = &["a", "b", "c"];

fn path(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(names), 1..=names.len())
        .prop_map(|components| components.join("/"))
}

fn target(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    let target = |(prefix, path): (&str, String)| format!("{prefix}{path}");
    (prop::sample::select(vec!["", "", "/", "../", "./", "../../"]), path(names)).prop_map(target)
}

fn op(names: &'static [&'static str]) -> impl Strategy<Value = Op> {
    let path = || path(names);
    prop_oneof![
        4 => (path(), prop::sample::select(vec![0o755, 0o700, 0o1777])).prop_map(|(p, m)| Op::Dir(p, m)),
        4 => (path(), any::<u8>()).prop_map(|(p, b)| Op::File(p, b)),
        2 => (path(), target(names)).prop_map(|(p, t)| Op::Symlink(p, t)),
        2 => (path(), path()).prop_map(|(p, t)| Op::HardLink(p, t)),
        1 => path().prop_map(Op::Fifo),
        2 => path().prop_map(Op::Whiteout),
        1 => path().prop_map(Op::Opaque),
    ]
}

/// A tar of operations; the number tells each one's time.
fn tar_of(ops: &[(u64, Op)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (number, op) in ops {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_mtime(1000 + number);
        header.set_uid(3);
        header.set_gid(4);
        let mut content = Vec::new();
        let name = match op {
            Op::Dir(path, mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                format!("{path}/")
            }
            Op::File(path, byte) => {
                content = vec![*byte; usize::from(*byte)];
                path.clone()
            }
            Op::Symlink(path, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_link_name(target).unwrap();
                path.clone()
            }
            Op::HardLink(path, target) => {
                header.set_entry_type(tar::EntryType::Link);
                header.set_link_name(target).unwrap();
                path.clone()
            }
            Op::Fifo(path) => {
                header.set_entry_type(tar::EntryType::Fifo);
                path.clone()
            }
            Op::Whiteout(path) => match path.rsplit_once('/') {
                Some((parent, name)) => format!("{parent}/.wh.{name}"),
                None => format!(".wh.{path}"),
            },
            Op::Opaque(path) => format!("{path}/.wh..wh..opq"),
        };
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, &*content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// umoci applies entries in their order, and so depends on it where a whiteout follows what it
/// makes room for. The image-spec does not: "Whiteout files MUST only apply to resources in
/// lower/parent layers." umoci gets the order in which that comes true by itself: whiteouts first,
/// but for those in directories that the layer speaks of, which stay behind them.
fn whiteouts_first(ops: &[(u64, Op)]) -> Vec<(u64, Op)> {
    let directories: Vec<_> = ops
        .iter()
        .filter_map(
            |(_, op)| if let Op::Dir(path, _) = op { Some(format!("{path}/")) } else { None },
        )
        .collect();
    let first = |(_, op): &(u64, Op)| match op {
        Op::Whiteout(path) => !directories.iter().any(|dir| path.starts_with(dir)),
        Op::Opaque(path) => !directories.iter().any(|dir| format!("{path}/").starts_with(dir)),
        _ => false,
    };
    let (mut sorted, rest): (Vec<_>, Vec<_>) = ops.iter().cloned().partition(first);
    sorted.extend(rest);
    sorted
}

/// What both sides say of a path. `links` is the smallest path of the same inode.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    kind: String,
    mode: u32,
    owner: (u32, u32),
    /// Absent where it is the time of unpacking.
    mtime: Option<i64>,
    nlink: Option<u64>,
    links: String,
}

fn ours(layers: &[Blob], tars: &[Vec<u8>]) -> Result<BTreeMap<String, Seen>, LayerError> {
    let indexes: Vec<_> = layers
        .iter()
        .map(|layer| {
            let read = LayerRead { digest: layer.digest, limits: Limits::default(), span: None };
            read_layer(read, &MemoryAccount::default(), &*layer.bytes, &mut NoContents)
        })
        .collect::<Result<_, _>>()?;
    let nodes = merge(&indexes, &Limits::default(), &MemoryAccount::default())?;
    Ok(seen(&nodes, "", |content| {
        let FileContent::Remote(remote) = content else { panic!("{content:?}") };
        let layer = layers.iter().position(|layer| layer.digest == remote.layer).unwrap();
        let start = usize::try_from(remote.offset).unwrap();
        tars[layer][start..start + usize::try_from(remote.length).unwrap()].to_vec()
    }))
}

/// What is below `root`, with the content that `bytes` finds.
fn seen<'a>(
    nodes: impl IntoIterator<Item = &'a Node>,
    root: &str,
    bytes: impl Fn(&FileContent) -> Vec<u8>,
) -> BTreeMap<String, Seen> {
    let content = |node: &Node| match &node.kind {
        NodeKind::Directory => "directory".to_owned(),
        NodeKind::Symlink { target } => format!("-> {}", String::from_utf8_lossy(target)),
        NodeKind::File(content) => format!("{:?}", bytes(content)),
        NodeKind::Special(Special::Fifo) => "fifo".to_owned(),
        other @ NodeKind::Special(_) => panic!("{other:?}"),
    };
    let mut first = BTreeMap::new();
    let below = |node: &'a Node| {
        let path = node.path.to_string();
        let path = path.strip_prefix(root)?;
        Some((if path.is_empty() { "/".to_owned() } else { path.to_owned() }, node))
    };
    nodes
        .into_iter()
        .filter_map(below)
        .map(|(path, node)| {
            let links = first.entry(node.attr.ino).or_insert_with(|| path.clone()).clone();
            let directory = node.kind == NodeKind::Directory;
            let seen = Seen {
                kind: content(node),
                mode: node.attr.mode & 0o7777,
                owner: (node.attr.uid, node.attr.gid),
                mtime: Some(node.attr.mtime),
                nlink: (!directory).then_some(node.attr.nlink.into()),
                links,
            };
            (path, seen)
        })
        .collect()
}

/// What a v1 archive of the image holds.
fn packed(layout: &Layout) -> (BTreeMap<String, Seen>, PackedImage) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let v1 = runtime.block_on(async {
        Image::open(layout.path()).await.pack(&PackOptions::default()).await.unwrap()
    });
    let archive = v1.archive();
    let seen = seen(archive.tree.iter(), "/rootfs", |content| v1.content(content).to_vec());
    (seen, v1.packed)
}

fn without_fifos(seen: &BTreeMap<String, Seen>) -> BTreeMap<String, Seen> {
    let mut seen = seen.clone();
    seen.retain(|_, seen| seen.kind != "fifo");
    seen
}

fn unpacked(layout: &Layout) -> Result<BTreeMap<String, Seen>, String> {
    let bundle = tempfile::tempdir().unwrap();
    let target = bundle.path().join("bundle");
    let image = format!("{}:latest", layout.path().display());
    let output = Command::new("umoci")
        .args(["unpack", "--image", &image])
        .arg(&target)
        .output()
        .expect("umoci must be installed");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let mut paths = BTreeMap::new();
    walk(&target.join("rootfs"), "/", &mut paths);
    let mut first = BTreeMap::new();
    for (path, (inode, seen)) in &mut paths {
        seen.links.clone_from(first.entry(*inode).or_insert_with(|| path.clone()));
    }
    Ok(paths.into_iter().map(|(path, (_, seen))| (path, seen)).collect())
}

fn walk(at: &Path, path: &str, paths: &mut BTreeMap<String, (u64, Seen)>) {
    let metadata = fs::symlink_metadata(at).unwrap();
    let kind = metadata.file_type();
    let content = if kind.is_dir() {
        "directory".to_owned()
    } else if kind.is_symlink() {
        let target = fs::read_link(at).unwrap();
        format!("-> {}", String::from_utf8_lossy(target.as_os_str().as_bytes()))
    } else if kind.is_fifo() {
        "fifo".to_owned()
    } else {
        format!("{:?}", fs::read(at).unwrap())
    };
    let seen = Seen {
        kind: content,
        mode: metadata.mode() & 0o7777,
        owner: (metadata.uid(), metadata.gid()),
        mtime: Some(metadata.mtime()).filter(|at| *at < 1_000_000),
        nlink: (!kind.is_dir()).then_some(metadata.nlink()),
        links: String::new(),
    };
    paths.insert(path.to_owned(), (metadata.ino(), seen));
    if kind.is_dir() {
        for entry in fs::read_dir(at).unwrap() {
            let name = entry.unwrap().file_name();
            let name = name.to_str().unwrap();
            let below = if path == "/" { format!("/{name}") } else { format!("{path}/{name}") };
            walk(&at.join(name), &below, paths);
        }
    }
}

#[test]
fn random_stacks_merge_as_umoci_unpacks_them() {
    let cases = std::env::var("CLIPWRIGHT_MERGE_CASES").map_or(60, |n| n.parse().unwrap());
    let config = Config {
        cases,
        rng_seed: RngSeed::Fixed(20_261_124),
        failure_persistence: None,
        max_shrink_iters: 300,
        ..Config::default()
    };
    let stacks = prop::collection::vec(prop::collection::vec(op(NAMES), 1..10), 1..4);
    TestRunner::new(config)
        .run(&stacks, |stack| {
            let stack: Vec<Vec<_>> =
                stack.into_iter().map(|ops| (0_u64..).zip(ops).collect()).collect();
            let tars: Vec<_> = stack.iter().map(|ops| tar_of(ops)).collect();
            let layers: Vec<_> = tars.iter().map(|tar| Blob::gzip(tar)).collect();
            let ours = ours(&layers, &tars);
            if let Ok(ours) = &ours {
                prop_assert_eq!(&packed(&Layout::of(&layers)).0, &without_fifos(ours));
            }
            let sorted = stack.iter().map(|ops| tar_of(&whiteouts_first(ops)));
            let layers: Vec<_> = sorted.map(|tar| Blob::gzip(&tar)).collect();
            let theirs = unpacked(&Layout::of(&layers));
            match (ours, theirs) {
                (Ok(mut ours), Ok(mut theirs)) => {
                    // Without an entry of its own the root is whatever the unpacker made.
                    ours.remove("/");
                    theirs.remove("/");
                    // umoci stamps directories that it made up, or made something up in, with the
                    // time of unpacking.
                    for (path, seen) in &mut ours {
                        let stamped = theirs.get(path).is_some_and(|theirs| theirs.mtime.is_none());
                        if stamped && seen.kind == "directory" {
                            seen.mtime = None;
                        }
                    }
                    prop_assert_eq!(ours, theirs);
                }
                (Err(_), Err(_)) => {}
                // A whiteout below a file or a symlink loop hides nothing, which is no error: the
                // spec asks of a whiteout only that what it names is not there afterwards.
                (Ok(_), Err(error)) if error.contains(".wh.") => {}
                (Ok(_), Err(error)) => prop_assert!(false, "only umoci refuses: {error}"),
                (Err(error), Ok(_)) => prop_assert!(false, "only we refuse: {error}"),
            }
            Ok(())
        })
        .unwrap();
}

/// Two names are so few that what literal paths tell of a layer is often wrong.
#[test]
fn random_stacks_pack_as_they_merge() {
    let config = Config {
        cases: 300,
        rng_seed: RngSeed::Fixed(20_261_125),
        failure_persistence: None,
        ..Config::default()
    };
    let stacks = prop::collection::vec(prop::collection::vec(op(&["a", "b"]), 1..7), 2..4);
    let (waste, read_again) = (Cell::new(0), Cell::new(0));
    TestRunner::new(config)
        .run(&stacks, |stack| {
            let tars: Vec<_> = stack
                .into_iter()
                .map(|ops| tar_of(&(0_u64..).zip(ops).collect::<Vec<_>>()))
                .collect();
            let layers: Vec<_> = tars.iter().map(|tar| Blob::gzip(tar)).collect();
            if let Ok(ours) = ours(&layers, &tars) {
                let (v1, packed) = packed(&Layout::of(&layers));
                prop_assert_eq!(v1, without_fifos(&ours));
                waste.set(waste.get() + packed.waste);
                read_again.set(read_again.get() + packed.read_again);
            }
            Ok(())
        })
        .unwrap();
    // Or the stacks were too tame to show anything.
    assert!(waste.get() > 0 && read_again.get() > 0, "{waste:?} {read_again:?}");
}
