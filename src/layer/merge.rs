//! Many layers become one tree, by the rules of the OCI image-spec ("Applying Changesets"), which
//! `umoci unpack` follows too:
//!
//! - a layer's whiteouts act first, and so on lower layers only, wherever they stand in the tar;
//! - a directory over a directory changes its attributes and keeps its children; everything else
//!   replaces what was there, children included;
//! - parents are resolved through symlinks, never out of the root; missing ones are made
//!   (0755, root, 1970), since upstream's readers find nothing without (CONTRACT A.7);
//! - a hard link is another name of the same inode, also when that came from a lower layer; the
//!   attributes in its own header mean nothing.

use std::collections::BTreeMap;

use foldhash::HashSet;

use super::entry::{Entry, EntryKind, Meta, Time};
use super::limits::NODE_COST;
use super::{Excess, LayerError, LayerIndex, Limit, Limits};
use crate::clip::node::{Node, NodePath, Special};
use crate::digest::Digest;
use crate::layer::limits::TreeCost;
use crate::memory::MemoryAccount;

mod nodes;

/// Symlinks followed on the way to one parent; Linux gives up at 40, umoci at 255.
const MAX_HOPS: usize = 255;
/// Components that symlinks may add on the way to one parent: an honest path has a few dozen.
const MAX_DETOUR: usize = 8192;

/// Applies `layers`, bottom to top, to an empty root. Gives the nodes sorted by path, the root
/// first. Every file's content is where its node says, which is impossible for sparse ones.
pub fn merge<'a>(
    layers: impl IntoIterator<Item = &'a LayerIndex>,
    limits: &Limits,
    account: &MemoryAccount,
) -> Result<Vec<Node>, LayerError> {
    let merged = merged(layers, limits, account)?.nodes();
    // What is hidden does no harm.
    match merged.sparse {
        Some((layer, path)) => Err(LayerError::Sparse { layer, path: path.to_string() }),
        None => Ok(merged.nodes),
    }
}

/// As [`merge`], for those who take the files' content whole as the layers go by: where a sparse
/// file's node points tells which file it is, and not where its content would be.
pub fn merge_whole<'a>(
    layers: impl IntoIterator<Item = &'a LayerIndex>,
    limits: &Limits,
    account: &MemoryAccount,
) -> Result<Vec<Node>, LayerError> {
    Ok(merged(layers, limits, account)?.nodes().nodes)
}

fn merged<'a>(
    layers: impl IntoIterator<Item = &'a LayerIndex>,
    limits: &Limits,
    account: &MemoryAccount,
) -> Result<Merger<'a>, LayerError> {
    let mut merger: Option<Merger<'a>> = None;
    for layer in layers {
        let merger = merger.get_or_insert_with(|| Merger::new(layer.digest, *limits, account));
        merger.layer = layer.digest;
        merger.apply(&layer.entries)?;
    }
    Ok(merger.unwrap_or_else(|| Merger::new(Digest::of(b""), *limits, account)))
}

type InodeId = usize;
type NameId = usize;
const ROOT: NameId = 0;

/// What one or more names refer to. What it says is the layer index's own.
struct Inode<'a> {
    kind: InodeKind<'a>,
    meta: &'a Meta,
    owner: Owner,
    /// The layer that made it or, for directories, last changed it.
    layer: Digest,
}

/// User and group.
#[derive(Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    const ROOT: Self = Self { uid: 0, gid: 0 };

    /// After what a tar says: to the kernel the largest number means "as it is".
    fn changed(self, meta: &Meta) -> Self {
        let of = |said, before| if said == u32::MAX { before } else { said };
        Self { uid: of(meta.uid, self.uid), gid: of(meta.gid, self.gid) }
    }
}

enum InodeKind<'a> {
    Directory,
    File { offset: u64, length: u64 },
    Sparse { offset: u64, length: u64 },
    Symlink { target: &'a [u8] },
    Special { special: Special, rdev: u32 },
}

/// A name in the tree; names that were removed stay in the arena, referred to by nobody.
struct Name<'a> {
    inode: InodeId,
    /// Bytes of its path.
    path_bytes: u64,
    /// Components of its path.
    depth: u64,
    /// Only directories have any.
    children: BTreeMap<&'a [u8], NameId>,
}

struct Merger<'a> {
    names: Vec<Name<'a>>,
    inodes: Vec<Inode<'a>>,
    layer: Digest,
    limits: Limits,
    /// Symlinks can make long paths of short ones.
    cost: TreeCost,
    /// Where the last entry went: the next one mostly goes there too. Forgotten when a name goes,
    /// which alone can make a path lead elsewhere.
    last: Option<(&'a [u8], NameId)>,
}

/// Why an entry can't be put into the tree.
enum Obstacle {
    Detail(String),
    Limit(Excess),
}

impl From<String> for Obstacle {
    fn from(detail: String) -> Self {
        Self::Detail(detail)
    }
}

impl From<Excess> for Obstacle {
    fn from(excess: Excess) -> Self {
        Self::Limit(excess)
    }
}

impl<'a> Merger<'a> {
    fn new(layer: Digest, limits: Limits, account: &MemoryAccount) -> Self {
        let root = Inode { kind: InodeKind::Directory, meta: &MADE_UP, owner: Owner::ROOT, layer };
        let names = vec![Name { inode: 0, path_bytes: 0, depth: 0, children: BTreeMap::new() }];
        Self {
            names,
            inodes: vec![root],
            layer,
            limits,
            cost: TreeCost::new(&limits, account),
            last: None,
        }
    }

    fn apply(&mut self, entries: &'a [Entry]) -> Result<(), LayerError> {
        self.last = None;
        self.names.reserve(entries.len());
        self.inodes.reserve(entries.len());
        self.whiteouts(entries);
        let layer = self.layer;
        for Entry { path, kind } in entries {
            let broken = |broken| match broken {
                Obstacle::Detail(detail) => {
                    LayerError::Merge { layer, path: path.to_string(), detail }
                }
                Obstacle::Limit(excess) => LayerError::Limit { layer, excess },
            };
            match kind {
                EntryKind::Whiteout | EntryKind::Opaque => {}
                _ => self.add(path, kind).map_err(broken)?,
            }
        }
        Ok(())
    }

    fn whiteouts(&mut self, entries: &[Entry]) {
        let whiteout = |e: &Entry| matches!(e.kind, EntryKind::Whiteout | EntryKind::Opaque);
        if !entries.iter().any(whiteout) {
            return;
        }
        let directories: HashSet<&[u8]> = entries
            .iter()
            .filter(|e| matches!(e.kind, EntryKind::Directory(_)))
            .map(|e| e.path.as_bytes())
            .collect();
        for Entry { path, kind } in entries.iter().filter(|e| whiteout(e)) {
            let opaque = *kind == EntryKind::Opaque;
            let whole = Some(path.as_bytes());
            let Some(directory) = (if opaque { whole } else { path.parent_bytes() }) else {
                continue;
            };
            // Through a symlink that this very layer turns into a directory, a whiteout would act
            // on what the layer doesn't speak of.
            let turned = std::iter::successors(Some(directory), |path| parent(path))
                .any(|here| directories.contains(here) && self.is_symlink(here));
            let Ok(Some(directory)) = self.find(directory) else { continue };
            if turned {
                continue;
            }
            if opaque {
                self.names[directory].children.clear();
            } else {
                self.names[directory].children.remove(path.name());
            }
        }
    }

    /// Whether the path itself, reached without following symlinks, is one.
    fn is_symlink(&self, path: &[u8]) -> bool {
        let mut at = ROOT;
        for component in components(path) {
            match self.names[at].children.get(component) {
                Some(child) => at = *child,
                None => return false,
            }
        }
        matches!(self.inode(at).kind, InodeKind::Symlink { .. })
    }

    fn add(&mut self, path: &'a NodePath, kind: &'a EntryKind) -> Result<(), Obstacle> {
        let Some(parent) = path.parent_bytes() else {
            let EntryKind::Directory(meta) = kind else {
                return Err(Obstacle::Detail("the root must be a directory".into()));
            };
            self.change(ROOT, meta);
            return Ok(());
        };
        let directory = match self.last.take() {
            Some((path, directory)) if path == parent => directory,
            _ => self.make(parent)?,
        };
        let existing = self.names[directory].children.get(path.name()).copied();
        let (kind, meta) = match kind {
            EntryKind::Directory(meta) => {
                if let Some(existing) = existing
                    && matches!(self.inode(existing).kind, InodeKind::Directory)
                {
                    self.change(existing, meta);
                    return Ok(());
                }
                (InodeKind::Directory, meta)
            }
            EntryKind::File { meta, offset, length } => {
                (InodeKind::File { offset: *offset, length: *length }, meta)
            }
            EntryKind::Sparse { meta, offset, length } => {
                (InodeKind::Sparse { offset: *offset, length: *length }, meta)
            }
            EntryKind::Symlink { meta, target } => (InodeKind::Symlink { target }, meta),
            EntryKind::Special { meta, special, rdev } => {
                (InodeKind::Special { special: *special, rdev: *rdev }, meta)
            }
            EntryKind::HardLink { target } => {
                // First, as everywhere: a link can't be made to what it replaces.
                self.names[directory].children.remove(path.name());
                let inode = self.link_target(target)?;
                self.put(directory, path.name(), inode)?;
                if existing.is_none() {
                    self.last = Some((parent, directory));
                }
                return Ok(());
            }
            EntryKind::Whiteout | EntryKind::Opaque => return Ok(()),
        };
        let target = match &kind {
            InodeKind::Symlink { target } => target.len() as u64,
            _ => 0,
        };
        self.cost.add(meta.variable_bytes() + target, String::new)?;
        let owner = Owner::ROOT.changed(meta);
        self.inodes.push(Inode { kind, meta, owner, layer: self.layer });
        self.put(directory, path.name(), self.inodes.len() - 1)?;
        if existing.is_none() {
            self.last = Some((parent, directory));
        }
        Ok(())
    }

    /// Gives an inode a name, in place of what had it before.
    fn put(
        &mut self,
        directory: NameId,
        name: &'a [u8],
        inode: InodeId,
    ) -> Result<NameId, Obstacle> {
        let parent = &self.names[directory];
        let (path_bytes, depth) = (parent.path_bytes + 1 + name.len() as u64, parent.depth + 1);
        let place = || format!("{:?}", String::from_utf8_lossy(name));
        Limit::PathBytes.check(path_bytes, self.limits.path_bytes, place)?;
        Limit::PathDepth.check(depth, self.limits.path_depth, place)?;
        Limit::Nodes.check(self.names.len() as u64 + 1, self.limits.nodes, place)?;
        self.cost.add(path_bytes + NODE_COST, place)?;
        self.names.push(Name { inode, path_bytes, depth, children: BTreeMap::new() });
        let id = self.names.len() - 1;
        self.names[directory].children.insert(name, id);
        Ok(id)
    }

    fn change(&mut self, directory: NameId, meta: &'a Meta) {
        let inode = &mut self.inodes[self.names[directory].inode];
        inode.meta = meta;
        inode.owner = inode.owner.changed(meta);
        inode.layer = self.layer;
    }

    /// The inode that a hard link's target names; a symlink there is linked, not followed.
    fn link_target(&self, target: &'a NodePath) -> Result<InodeId, String> {
        let missing = || format!("hard link to {target}, which is not there");
        let parent = target.parent_bytes().ok_or("hard link to the root")?;
        let directory = self.find(parent)?.ok_or_else(missing)?;
        let name = self.names[directory].children.get(target.name()).ok_or_else(missing)?;
        match self.inode(*name).kind {
            InodeKind::Directory => Err(format!("hard link to {target}, which is a directory")),
            _ => Ok(self.names[*name].inode),
        }
    }

    fn inode(&self, name: NameId) -> &Inode<'a> {
        &self.inodes[self.names[name].inode]
    }

    /// Finds a directory, following symlinks, the last one included. `None`: it isn't there.
    fn find(&self, path: &'a [u8]) -> Result<Option<NameId>, String> {
        let Walk { directory, missing } = self.walk(path)?;
        Ok(missing.is_empty().then_some(directory))
    }

    /// Finds a directory as [`Self::find`] does, and makes what is missing.
    fn make(&mut self, path: &'a [u8]) -> Result<NameId, Obstacle> {
        let Walk { mut directory, missing } = self.walk(path)?;
        for component in missing {
            let kind = InodeKind::Directory;
            self.inodes.push(Inode { kind, meta: &MADE_UP, owner: Owner::ROOT, layer: self.layer });
            directory = self.put(directory, component, self.inodes.len() - 1)?;
        }
        Ok(directory)
    }

    /// Walks as far as there are directories. `..` never leaves the root, and takes missing
    /// components back lexically.
    fn walk(&self, path: &'a [u8]) -> Result<Walk<'a>, String> {
        let mut todo: Vec<&'a [u8]> = components(path).collect();
        todo.reverse();
        let mut trail = vec![ROOT]; // the directories from the root to here
        let mut missing = Vec::new();
        let (mut hops, mut detour) = (0, 0);
        while let Some(component) = todo.pop() {
            let here = trail[trail.len() - 1];
            match component {
                b"" | b"." => continue,
                b".." => {
                    if missing.pop().is_none() && trail.len() > 1 {
                        trail.pop();
                    }
                    continue;
                }
                _ if !missing.is_empty() => {
                    missing.push(component);
                    continue;
                }
                _ => {}
            }
            let Some(child) = self.names[here].children.get(component) else {
                missing.push(component);
                continue;
            };
            match self.inode(*child).kind {
                InodeKind::Directory => trail.push(*child),
                InodeKind::Symlink { target } => {
                    hops += 1;
                    if hops > MAX_HOPS {
                        return Err(format!("more than {MAX_HOPS} symlinks on the way to it"));
                    }
                    if target.first() == Some(&b'/') {
                        trail.truncate(1);
                    }
                    let before = todo.len();
                    let steps = target.rsplit(|b| *b == b'/');
                    todo.extend(steps.filter(|step| !matches!(*step, b"" | b".")));
                    detour += todo.len() - before;
                    if detour > MAX_DETOUR {
                        let detail = "the symlinks on the way to it make a detour of more than";
                        return Err(format!("{detail} {MAX_DETOUR} components"));
                    }
                }
                InodeKind::File { .. } | InodeKind::Sparse { .. } | InodeKind::Special { .. } => {
                    let name = String::from_utf8_lossy(component).into_owned();
                    return Err(format!("its parent {name:?} is not a directory"));
                }
            }
        }
        Ok(Walk { directory: trail[trail.len() - 1], missing })
    }
}

/// How far a path leads.
struct Walk<'a> {
    /// The last directory that is there.
    directory: NameId,
    /// The components below it that are not.
    missing: Vec<&'a [u8]>,
}

/// Of directories that no layer speaks of.
static MADE_UP: Meta = Meta {
    mode: 0o755,
    uid: 0,
    gid: 0,
    mtime: Time::EPOCH,
    atime: Time::EPOCH,
    ctime: Time::EPOCH,
    xattrs: BTreeMap::new(),
};

/// The components of a clean path.
fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|component| !component.is_empty())
}

/// The path one up, of a clean one.
fn parent(path: &[u8]) -> Option<&[u8]> {
    let slash = path.iter().rposition(|byte| *byte == b'/')?;
    (path.len() > 1).then(|| &path[..slash.max(1)])
}

#[cfg(test)]
mod tests;
