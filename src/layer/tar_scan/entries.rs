//! One header and what came before it become an entry: its name, its kind, its attributes, and how
//! much content follows. Each entry counts against the limits.

use std::borrow::Cow;

use super::extensions::Extensions;
use super::header::{TarHeader, is_header_only};
use super::pseudo_links::is_pseudo_link;
use super::{BLOCK, ScanError, State, TarScanner, malformed, refused};
use crate::clip::node::{NodePath, Special};
use crate::layer::entry::{Entry, EntryKind, Meta, Name, classify, clean};
use crate::layer::limits::NODE_COST;
use crate::layer::pax::Pax;
use crate::layer::{Contents, Limit};

impl TarScanner {
    /// Takes an entry down and says what follows its header.
    pub(super) fn entry(
        &mut self,
        header: TarHeader<'_>,
        offset: u64,
        contents: &mut dyn Contents,
    ) -> Result<State, ScanError> {
        let Extensions { pax, long_name, long_link, .. } = std::mem::take(&mut self.extensions);
        let pax = Pax::parse(&pax).map_err(|e| malformed(offset, &e))?;
        let name = long_name.or_else(|| pax.path.clone()).unwrap_or_else(|| header.name());
        // As tars before POSIX say it.
        let kind = match header.kind() {
            b'\0' if name.last() == Some(&b'/') => b'5',
            b'\0' => b'0',
            kind => kind,
        };
        let form = pax.sparse.form().filter(|_| kind != b'S');
        // The name is in its headers twice, if the file is sparse.
        let raw_name = if form.is_some() && !pax.sparse.name.is_empty() {
            pax.sparse.name.clone()
        } else {
            name
        };
        let shown = String::from_utf8_lossy(&raw_name).chars().take(200).collect::<String>();
        let wrong = |detail: &str| malformed(offset, &format!("{shown:?}: {detail}"));
        let path = clean(&raw_name).map_err(|e| wrong(&e))?;
        self.check_length(path.as_bytes(), &shown)?;
        let link = long_link.or_else(|| pax.link_path.clone());
        let link = link.map_or(Cow::Borrowed(header.link_name()), Cow::Owned);

        let size = match (pax.size, is_header_only(kind)) {
            (_, true) => 0,
            (None, false) => header.size(),
            (Some(size), false) => {
                u64::try_from(size).map_err(|_| wrong(&format!("its size is {size}")))?
            }
        };
        if form.is_some() && is_header_only(kind) {
            return Err(wrong("a sparse file that is no file"));
        }
        let padding = size.next_multiple_of(BLOCK as u64).checked_sub(size);
        let (Some(padding), Some(_)) = (padding, self.position.checked_add(size)) else {
            return Err(wrong("its size is beyond any stream"));
        };
        let follows = State::Content { remaining: size, padding, wanted: false, expansion: None };

        let path = match classify(path).map_err(|e| wrong(&e))? {
            Name::Bookkeeping(path) => {
                self.pass()?;
                if is_pseudo_link(&path) && matches!(kind, b'0' | b'7') && form.is_none() {
                    let meta = meta(header, pax);
                    self.check_xattrs(&meta, &shown)?;
                    let bytes = meta.variable_bytes() + path.as_bytes().len() as u64;
                    self.cost.add(NODE_COST + bytes, String::new)?;
                    let follows = self.content(&path, size, padding, contents)?;
                    self.pseudo_links.keep(path, meta, self.position, size);
                    return Ok(follows);
                }
                self.bookkeeping.push(&shown);
                return Ok(follows);
            }
            Name::Whiteout(path) => return self.take(path, EntryKind::Whiteout, follows),
            Name::Opaque(path) => return self.take(path, EntryKind::Opaque, follows),
            Name::Path(path) => path,
        };
        if kind == b'1' {
            // Nothing else in its header means anything.
            if link.is_empty() {
                return Err(wrong("a hard link without a target"));
            }
            let target = clean(&link).map_err(|e| wrong(&e))?;
            self.check_length(target.as_bytes(), &shown)?;
            let entry = self.pseudo_links.link(&target);
            return self.take(path, entry.unwrap_or(EntryKind::HardLink { target }), follows);
        }
        let sparse = pax.sparse.clone();
        let meta = meta(header, pax);
        self.check_xattrs(&meta, &shown)?;
        if matches!(kind, b'0' | b'7' | b'S') && (form.is_some() || kind == b'S') {
            let file = (path, meta, size, padding);
            return self.sparse(header, file, &sparse, form, offset, contents);
        }
        let entry = match kind {
            b'5' => EntryKind::Directory(meta),
            b'0' | b'7' => EntryKind::File { meta, offset: self.position, length: size },
            b'2' => {
                if link.is_empty() {
                    return Err(wrong("a symbolic link without a target"));
                }
                if link.contains(&0) {
                    return Err(wrong("a symbolic link whose target is no path"));
                }
                // It is text to us: only its length costs.
                let place = || format!("{shown:?}");
                Limit::PathBytes.check(link.len() as u64, self.limits.path_bytes, place)?;
                EntryKind::Symlink { meta, target: link.into_owned() }
            }
            b'3' | b'4' | b'6' => {
                let (special, rdev) = match kind {
                    b'3' => (Special::CharDevice, header.device),
                    b'4' => (Special::BlockDevice, header.device),
                    _ => (Special::Fifo, 0),
                };
                EntryKind::Special { meta, special, rdev }
            }
            other => {
                let shown = char::from(other).escape_default();
                return Err(wrong(&format!("tar entry type '{shown}' is not supported")));
            }
        };
        let follows = match &entry {
            EntryKind::File { .. } => self.content(&path, size, padding, contents)?,
            _ => follows,
        };
        self.take(path, entry, follows)
    }

    /// The content of a file begins.
    fn content(
        &self,
        path: &NodePath,
        size: u64,
        padding: u64,
        contents: &mut dyn Contents,
    ) -> Result<State, ScanError> {
        let wanted = contents.begin(path, self.position, size).map_err(refused)?;
        if wanted && size == 0 {
            contents.end().map_err(refused)?;
        }
        let wanted = wanted && size > 0;
        Ok(State::Content { remaining: size, padding, wanted, expansion: None })
    }

    pub(super) fn take(
        &mut self,
        path: NodePath,
        kind: EntryKind,
        then: State,
    ) -> Result<State, ScanError> {
        let entry = Entry { path, kind };
        let count = self.passed + self.entries.len() as u64 + 1;
        Limit::Entries.check(count, self.limits.entries, String::new)?;
        self.cost.add(NODE_COST + entry.variable_bytes(), String::new)?;
        self.entries.push(entry);
        Ok(then)
    }

    /// Counts a header that makes no entry.
    pub(super) fn pass(&mut self) -> Result<(), ScanError> {
        self.passed += 1;
        let count = self.passed + self.entries.len() as u64;
        Ok(Limit::Entries.check(count, self.limits.entries, String::new)?)
    }

    fn check_xattrs(&self, meta: &Meta, shown: &str) -> Result<(), ScanError> {
        let place = || format!("{shown:?}");
        Ok(Limit::XattrBytes.check(meta.xattr_bytes(), self.limits.xattr_bytes, place)?)
    }

    fn check_length(&self, path: &[u8], shown: &str) -> Result<(), ScanError> {
        let place = || format!("{shown:?}");
        let depth = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).count();
        Limit::PathBytes.check(path.len() as u64, self.limits.path_bytes, place)?;
        Limit::PathDepth.check(depth as u64, self.limits.path_depth, place)?;
        Ok(())
    }
}

/// What PAX records say goes before the header.
fn meta(header: TarHeader<'_>, pax: Pax) -> Meta {
    let mtime = pax.mtime.unwrap_or(header.mtime);
    let [atime, ctime] = header.further_times;
    Meta {
        mode: header.mode,
        uid: pax.uid.unwrap_or(header.uid),
        gid: pax.gid.unwrap_or(header.gid),
        mtime,
        atime: pax.atime.or(atime).unwrap_or(mtime),
        ctime: pax.ctime.or(ctime).unwrap_or(mtime),
        xattrs: pax.xattrs,
    }
}
