//! What a start is going to read, when no earlier one has told: the image's program, its interpreter, the
//! libraries that it is linked with, and the files that are its arguments. They are fetched ahead as they become
//! known, and only while readers want nothing; whoever is wrong about them has fetched a few files for nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::{HashSet, HashSetExt as _};

use super::shared::Shared;
use super::tree::{FileTree, Ino, Kind};
use crate::clip::storage_info::ImageMetadata;
use crate::content::lazy::Priority;

/// What programs say that they need.
mod program;

pub use program::Needs;

/// The largest file that is looked into and fetched whole.
const LARGEST: u64 = 32 << 20;
/// Files that are looked into at most.
const MOST: usize = 128;
/// The most symbolic links on the way to a file, as Linux has it.
const MAX_LINKS: usize = 40;
/// For images that say nothing of it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where libraries are, without what else is in there.
const LIBRARIES: [&str; 4] = ["/lib", "/usr/lib", "/lib64", "/usr/lib64"];

/// Fetches ahead what the program of an image is going to read.
pub(super) async fn fetch_ahead(shared: Arc<Shared>, image: ImageMetadata) {
    let Shared { tree, content, .. } = &*shared;
    let mut guess = Guess::new(tree, &image);
    loop {
        for (file, size) in guess.files.drain(..) {
            content.expect(tree, file, &(0..size), Priority::Trace);
        }
        let Some((program, size)) = guess.programs.pop_front() else { return };
        match content.read(tree, program, 0..size).await {
            Ok(bytes) => guess.found(program, &Needs::of(&bytes)),
            Err(error) => {
                tracing::debug!(%error, "could not look into a program");
                return;
            }
        }
    }
}

struct Guess<'a> {
    tree: &'a FileTree,
    path: Vec<Vec<u8>>,
    directory: Vec<u8>,
    libraries: Vec<Vec<u8>>,
    /// Files that are to be fetched, and their sizes.
    files: Vec<(Ino, u64)>,
    /// Those of them that are to be looked into.
    programs: VecDeque<(Ino, u64)>,
    known: HashSet<Ino>,
}

impl<'a> Guess<'a> {
    fn new(tree: &'a FileTree, image: &ImageMetadata) -> Self {
        let path = image.env.iter().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or(PATH);
        let directory = if image.working_dir.is_empty() { "/" } else { &image.working_dir };
        let mut guess = Self {
            tree,
            path: path.split(':').map(|part| part.as_bytes().to_vec()).collect(),
            directory: directory.as_bytes().to_vec(),
            libraries: library_directories(tree),
            files: Vec::new(),
            programs: VecDeque::new(),
            known: HashSet::new(),
        };
        let mut words = image.entrypoint.iter().chain(&image.cmd).map(String::as_bytes);
        if let Some(program) = words.next() {
            guess.add_program(program);
        }
        for word in words {
            // Arguments of a shell are not looked into.
            if let Some(file) = guess.resolve(word) {
                guess.add(file, false);
            }
        }
        guess
    }

    fn add(&mut self, file: Ino, is_program: bool) {
        let inode = self.tree.inode(file).filter(|inode| inode.kind() == Kind::File);
        let Some(size) = inode.map(|inode| inode.size).filter(|size| *size <= LARGEST) else {
            return;
        };
        if self.known.len() < MOST && self.known.insert(file) {
            self.files.push((file, size));
            if is_program {
                self.programs.push_back((file, size));
            }
        }
    }

    /// A program by its path, or by its name in PATH.
    fn add_program(&mut self, name: &[u8]) {
        let found = if name.contains(&b'/') {
            self.resolve(name)
        } else {
            self.path.iter().find_map(|part| self.resolve(&joined(part, name)))
        };
        if let Some(file) = found {
            self.add(file, true);
        }
    }

    fn found(&mut self, program: Ino, needs: &Needs) {
        for name in &needs.programs {
            self.add_program(name);
        }
        let own = self.tree.path(program);
        let own = own.rsplit_once('/').map_or("/", |(directory, _)| directory).as_bytes();
        let first: Vec<_> = needs.directories.iter().map(|part| with_origin(part, own)).collect();
        for name in &needs.libraries {
            let directories = first.iter().chain(&self.libraries);
            let found = directories.map(|part| joined(part, name));
            if let Some(file) = found.into_iter().find_map(|path| self.resolve(&path)) {
                self.add(file, true);
            }
        }
    }

    fn resolve(&self, path: &[u8]) -> Option<Ino> {
        let from = if path.starts_with(b"/") { Vec::new() } else { self.directory.clone() };
        resolve(self.tree, &joined(&from, path))
    }
}

/// Where the loader looks: these, and in them the directories of architectures.
fn library_directories(tree: &FileTree) -> Vec<Vec<u8>> {
    let mut directories = Vec::new();
    for base in LIBRARIES.map(str::as_bytes) {
        directories.push(base.to_vec());
        let Some(entries) = resolve(tree, base).and_then(|base| tree.entries(base, 0)) else {
            continue;
        };
        let architectures = entries.filter(|(name, _)| {
            name.ends_with(b"-linux-gnu") || name.ends_with(b"-linux-gnueabihf")
        });
        directories.extend(architectures.map(|(name, _)| joined(base, name)));
    }
    directories
}

fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    [directory, b"/", name].concat()
}

fn with_origin(part: &[u8], own: &[u8]) -> Vec<u8> {
    let rest = part.strip_prefix(b"$ORIGIN").or_else(|| part.strip_prefix(b"${ORIGIN}"));
    rest.map_or_else(|| part.to_vec(), |rest| [own, rest].concat())
}

/// The inode at an absolute path, through symbolic links.
fn resolve(tree: &FileTree, path: &[u8]) -> Option<Ino> {
    let mut parts: VecDeque<Vec<u8>> = parts_of(path);
    let (mut at, mut links) = (Ino::ROOT, 0);
    while let Some(part) = parts.pop_front() {
        let next = match &part[..] {
            b".." => tree.parent(at)?,
            name => tree.lookup(at, name)?,
        };
        let Some(target) = tree.target(next) else {
            at = next;
            continue;
        };
        links += 1;
        if links > MAX_LINKS {
            return None;
        }
        if target.starts_with(b"/") {
            at = Ino::ROOT;
        }
        let mut through = parts_of(target);
        through.append(&mut parts);
        parts = through;
    }
    Some(at)
}

fn parts_of(path: &[u8]) -> VecDeque<Vec<u8>> {
    let parts = path.split(|byte| *byte == b'/');
    parts.filter(|part| !part.is_empty() && part != b".").map(<[u8]>::to_vec).collect()
}
