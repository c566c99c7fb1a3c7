//! Contexts: what `COPY` and `ADD` take from. They come as a tar, plain or compressed with gzip or zstd, or
//! as a zip, and are unpacked into a directory that nobody else writes to. Links stay links, which the
//! builder follows within the context alone; nothing here follows any.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use flate2::read::MultiGzDecoder;

use super::error::ContextError;
use super::{BuildError, MAX_DOCKERFILE};
use crate::local::io_error;

/// What `.dockerignore` leaves out.
pub mod ignore;
/// A directory as a context.
pub mod pack;

/// What a context may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextLimits {
    /// Bytes of all files.
    pub bytes: u64,
    /// Files, links and directories, those too that no entry names and only stand in paths.
    pub entries: u64,
    /// Bytes of a path.
    pub path: usize,
    /// Names in a path.
    pub depth: usize,
    /// Bytes of what is held in memory at a time: the fields of a tar's entry, or the directory of a zip.
    pub fields: u64,
}

/// Bytes of a path in a context at most. The directory that the context is unpacked into stands before it, and
/// a system call takes 4096.
pub const MAX_PATH: usize = 3072;
/// Bytes of one name in a path, on every file system of Linux (`NAME_MAX`).
const MAX_NAME: usize = 255;

impl Default for ContextLimits {
    fn default() -> Self {
        Self { bytes: 8 << 30, entries: 1_000_000, path: MAX_PATH, depth: 256, fields: 64 << 20 }
    }
}

/// How a context is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Plain.
    Tar,
    /// Compressed with gzip.
    Gzip,
    /// Compressed with zstd.
    Zstd,
    /// A zip.
    Zip,
}

impl Format {
    /// By how it begins: 512 bytes, or all there are.
    pub fn of(start: &[u8]) -> Option<Self> {
        match start {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Some(Self::Zip),
            // A tar without entries is zeroes.
            start if start.get(257..262) == Some(b"ustar") => Some(Self::Tar),
            start if !start.is_empty() && start.iter().all(|byte| *byte == 0) => Some(Self::Tar),
            _ => None,
        }
    }
}

/// Unpacks the context in `file` into the empty directory `into`.
pub fn unpack(file: &Path, into: &Path, limits: ContextLimits) -> Result<(), BuildError> {
    let failed = || io_error(format!("can't read {}", file.display()));
    let mut opened = File::open(file).map_err(failed())?;
    let mut start = Vec::new();
    Read::by_ref(&mut opened).take(512).read_to_end(&mut start).map_err(failed())?;
    opened.seek(SeekFrom::Start(0)).map_err(failed())?;
    let format = Format::of(&start).ok_or_else(|| ContextError::Format {
        reason: format!("it begins with {:02x?}", &start[..start.len().min(8)]),
    })?;
    let mut tree = Tree { root: into.to_owned(), limits, bytes: 0, entries: 0 };
    let unpacked = match format {
        Format::Tar => unpack_tar(BufReader::new(opened), &mut tree),
        Format::Gzip => unpack_tar(MultiGzDecoder::new(BufReader::new(opened)), &mut tree),
        Format::Zstd => {
            let decoder = zstd::Decoder::new(opened).map_err(failed())?;
            unpack_tar(decoder, &mut tree)
        }
        Format::Zip => unpack_zip(opened, &mut tree),
    };
    unpacked?;
    Ok(settle(into).map_err(io_error("can't set the times of the context's directories"))?)
}

/// Gives all directories one time: the builder takes another for another content.
fn settle(directory: &Path) -> io::Result<()> {
    let mut below = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            below.push(entry.path());
        }
    }
    // The directory is closed by now: a deep tree takes no descriptor for each of its levels.
    for directory in below {
        settle(&directory)?;
    }
    File::open(directory)?.set_modified(std::time::UNIX_EPOCH)
}

fn broken(error: impl std::fmt::Display) -> ContextError {
    ContextError::Broken { reason: error.to_string() }
}

/// A reader that gives so many bytes and then fails: for libraries that read whatever an archive says that its
/// fields have into memory.
struct Meter<R> {
    reader: R,
    left: Rc<Cell<u64>>,
    limits: ContextLimits,
}

impl<R> Meter<R> {
    fn new(reader: R, limits: ContextLimits) -> Self {
        Self { reader, left: Rc::new(Cell::new(limits.fields)), limits }
    }
}

impl<R: Read> Read for Meter<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        let left = self.left.get().checked_sub(read as u64).ok_or_else(|| {
            io::Error::other(format!("its fields have more than {} bytes", self.limits.fields))
        })?;
        self.left.set(left);
        Ok(read)
    }
}

impl<R: Seek> Seek for Meter<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.reader.seek(to)
    }
}

fn unpack_tar(reader: impl Read, tree: &mut Tree) -> Result<(), BuildError> {
    let reader = Meter::new(reader, tree.limits);
    let left = reader.left.clone();
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = entry.path_bytes().into_owned();
        let link = entry.link_name_bytes().map(std::borrow::Cow::into_owned);
        let header = entry.header();
        let (kind, mode) = (header.entry_type(), header.mode().unwrap_or(0o644));
        let mtime = header.mtime().unwrap_or(0);
        let name = Name::new(&path, tree.limits)?;
        match kind {
            tar::EntryType::Directory => tree.directory(&name, mode)?,
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                // Its content is counted by the tree.
                left.set(u64::MAX);
                tree.file(&name, mode, mtime, &mut entry)?;
            }
            tar::EntryType::Symlink => tree.symlink(&name, &link.unwrap_or_default())?,
            tar::EntryType::Link => tree.hard_link(&name, &link.unwrap_or_default())?,
            tar::EntryType::XGlobalHeader => {}
            other => {
                let reason =
                    format!("is of the type {other:?}: expected a file, a directory or a link");
                return Err(name.wrong(reason).into());
            }
        }
        left.set(tree.limits.fields);
    }
    Ok(())
}

fn unpack_zip(file: File, tree: &mut Tree) -> Result<(), BuildError> {
    const LINK: u32 = 0o120_000;
    let reader = Meter::new(file, tree.limits);
    let left = reader.left.clone();
    let mut archive = zip::ZipArchive::new(BufReader::new(reader)).map_err(broken)?;
    left.set(u64::MAX);
    for number in 0..archive.len() {
        let mut entry = archive.by_index(number).map_err(broken)?;
        let name = Name::new(entry.name_raw(), tree.limits)?;
        let mode = entry.unix_mode().unwrap_or(0o644);
        if entry.is_dir() {
            tree.directory(&name, 0o755)?;
        } else if mode & 0o170_000 == LINK {
            let mut target = Vec::new();
            let most = tree.limits.path as u64 + 1;
            entry.by_ref().take(most).read_to_end(&mut target).map_err(broken)?;
            tree.symlink(&name, &target)?;
        } else {
            tree.file(&name, mode, 0, &mut entry)?;
        }
    }
    Ok(())
}

/// A path within the context, clean.
struct Name {
    path: PathBuf,
    shown: String,
}

impl Name {
    fn new(bytes: &[u8], limits: ContextLimits) -> Result<Self, ContextError> {
        use std::os::unix::ffi::OsStrExt as _;
        let shown: String = String::from_utf8_lossy(bytes).chars().take(200).collect();
        let wrong =
            |reason: &str| ContextError::Entry { path: shown.clone(), reason: reason.to_owned() };
        if bytes.len() > limits.path {
            return Err(wrong(&format!(
                "has {} bytes: expected at most {}",
                bytes.len(),
                limits.path
            )));
        }
        if bytes.contains(&0) {
            return Err(wrong("has a NUL in it"));
        }
        let mut path = PathBuf::new();
        for component in Path::new(std::ffi::OsStr::from_bytes(bytes)).components() {
            match component {
                Component::Normal(part) if part.len() > MAX_NAME => {
                    return Err(wrong(&format!(
                        "has a name of {} bytes in it: expected at most {MAX_NAME}",
                        part.len()
                    )));
                }
                Component::Normal(part) => path.push(part),
                Component::CurDir => {}
                Component::ParentDir => return Err(wrong("leads out of the context by \"..\"")),
                Component::RootDir | Component::Prefix(_) => {
                    return Err(wrong("is absolute: expected a path within the context"));
                }
            }
        }
        let depth = path.components().count();
        if depth > limits.depth {
            return Err(wrong(&format!("is {depth} deep: expected at most {}", limits.depth)));
        }
        Ok(Self { path, shown })
    }

    fn wrong(&self, reason: impl Into<String>) -> ContextError {
        ContextError::Entry { path: self.shown.clone(), reason: reason.into() }
    }
}

/// The directory that a context becomes.
struct Tree {
    root: PathBuf,
    limits: ContextLimits,
    bytes: u64,
    entries: u64,
}

impl Tree {
    fn count(&mut self) -> Result<(), ContextError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(ContextError::TooMuch { what: "entries", most: self.limits.entries });
        }
        Ok(())
    }

    /// Counts an entry, and makes the directories above it. One of them that is a link would lead
    /// elsewhere.
    fn place(&mut self, name: &Name) -> Result<PathBuf, BuildError> {
        self.count()?;
        let mut path = self.root.clone();
        let parents = name.path.parent().into_iter().flat_map(Path::components);
        for component in parents {
            path.push(component);
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => {
                    let at = path.strip_prefix(&self.root).unwrap_or(&path);
                    return Err(name
                        .wrong(format!("lies below {}, which is no directory", at.display()))
                        .into());
                }
                Err(_) => {
                    self.count()?;
                    fs::create_dir(&path)
                        .map_err(io_error("can't make a directory of the context"))?;
                }
            }
        }
        if let Some(last) = name.path.file_name() {
            path.push(last);
        }
        Ok(path)
    }

    /// Takes away what an earlier entry of the same name put there, unless it is a directory.
    fn clear(name: &Name, path: &Path) -> Result<(), BuildError> {
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => Err(name.wrong("is a directory already").into()),
            Ok(_) => {
                Ok(fs::remove_file(path)
                    .map_err(io_error("can't replace a file of the context"))?)
            }
            Err(_) => Ok(()),
        }
    }

    fn directory(&mut self, name: &Name, mode: u32) -> Result<(), BuildError> {
        let path = self.place(name)?;
        let failed = || io_error("can't make a directory of the context");
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(name.wrong("is something else already").into()),
            Err(_) => fs::create_dir(&path).map_err(failed())?,
        }
        // Whoever may not enter it can't put anything into it: the owner always may.
        let mode = fs::Permissions::from_mode(mode & 0o777 | 0o700);
        Ok(fs::set_permissions(&path, mode).map_err(failed())?)
    }

    fn file(
        &mut self,
        name: &Name,
        mode: u32,
        mtime: u64,
        content: &mut impl Read,
    ) -> Result<(), BuildError> {
        let path = self.place(name)?;
        Self::clear(name, &path)?;
        let failed = || io_error("can't write a file of the context");
        // Such bits would count on this machine, and Docker's own contexts are of no use for them.
        let mode = mode & 0o777;
        let mut file = fs::OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(mode)
            .open(&path)
            .map_err(failed())?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(error).into()),
            };
            self.bytes += read as u64;
            if self.bytes > self.limits.bytes {
                return Err(ContextError::TooMuch { what: "bytes", most: self.limits.bytes }.into());
            }
            file.write_all(&buffer[..read]).map_err(failed())?;
        }
        file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed())?;
        let time = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(mtime));
        // A time that can't be kept is not worth failing for.
        let _ = file.set_modified(time.unwrap_or(std::time::UNIX_EPOCH));
        Ok(())
    }

    fn symlink(&mut self, name: &Name, target: &[u8]) -> Result<(), BuildError> {
        use std::os::unix::ffi::OsStrExt as _;
        if target.is_empty() || target.len() > self.limits.path || target.contains(&0) {
            return Err(name.wrong("is a link without a usable target").into());
        }
        let path = self.place(name)?;
        Self::clear(name, &path)?;
        let target = std::ffi::OsStr::from_bytes(target);
        Ok(symlink(target, &path).map_err(io_error("can't make a link of the context"))?)
    }

    /// A second name of a file that came before.
    fn hard_link(&mut self, name: &Name, target: &[u8]) -> Result<(), BuildError> {
        let first = Name::new(target, self.limits).map_err(|error| {
            name.wrong(format!("is a link to what can't be in a context: {error}"))
        })?;
        let from = plain_file(&self.root, &first.path);
        let from = from.ok_or_else(|| {
            name.wrong(format!("is a link to {:?}, which is no file before it", first.shown))
        })?;
        let path = self.place(name)?;
        Self::clear(name, &path)?;
        Ok(fs::hard_link(from, &path).map_err(io_error("can't make a link of the context"))?)
    }
}

/// A regular file below `root`, if no link leads there.
fn plain_file(root: &Path, relative: &Path) -> Option<PathBuf> {
    let mut path = root.to_owned();
    let mut found = None;
    for component in relative.components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => continue,
            _ => return None,
        }
        let metadata = fs::symlink_metadata(&path).ok()?;
        if metadata.is_symlink() {
            return None;
        }
        found = Some(metadata);
    }
    found.filter(fs::Metadata::is_file).map(|_| path)
}

/// The text of the Dockerfile at `path` in a context.
pub fn read_text(root: &Path, path: &str) -> Result<String, BuildError> {
    let wrong = |reason: &str| {
        let shown = path.chars().take(200).collect();
        BuildError::from(ContextError::Entry { path: shown, reason: reason.to_owned() })
    };
    let file = plain_file(root, Path::new(path))
        .ok_or_else(|| wrong("is no file in the context: expected the Dockerfile"))?;
    let mut text = String::new();
    let opened = File::open(&file).map_err(io_error("can't read the Dockerfile"))?;
    let most = MAX_DOCKERFILE as u64;
    opened.take(most + 1).read_to_string(&mut text).map_err(|_| wrong("is not text in UTF-8"))?;
    if text.len() as u64 > most {
        return Err(wrong(&format!("has more than the {most} bytes that a Dockerfile may have")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
