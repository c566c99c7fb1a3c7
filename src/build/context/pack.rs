//! A directory as a context: a tar, compressed with gzip, that is the same bytes for the same content, so
//! that it is sent once. Owners and times are left out, and `.dockerignore` is followed; the Dockerfile and
//! `.dockerignore` themselves are always in it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::ignore::Ignore;
use super::{BuildError, ContextError};
use crate::local::io_error;

/// Where the rules are.
pub const IGNORE_FILE: &str = ".dockerignore";

/// Packs `directory` into `output`. `always` are paths in it that no rule leaves out.
pub fn pack(directory: &Path, always: &[&str], output: &Path) -> Result<(), BuildError> {
    let rules = match fs::read_to_string(directory.join(IGNORE_FILE)) {
        Ok(text) => Ignore::parse(&text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ignore::default(),
        Err(error) => return Err(io_error(format!("can't read {IGNORE_FILE}"))(error).into()),
    };
    let failed = || io_error(format!("can't write {}", output.display()));
    let file = BufWriter::new(File::create(output).map_err(failed())?);
    let mut packer = Packer {
        directory,
        rules,
        always,
        tar: tar::Builder::new(GzEncoder::new(file, Compression::fast())),
    };
    packer.tar.follow_symlinks(false);
    packer.walk("")?;
    let encoder = packer.tar.into_inner().map_err(failed())?;
    encoder.finish().and_then(|mut file| file.flush()).map_err(failed())?;
    Ok(())
}

struct Packer<'a, W: Write> {
    directory: &'a Path,
    rules: Ignore,
    always: &'a [&'a str],
    tar: tar::Builder<W>,
}

impl<W: Write> Packer<'_, W> {
    fn walk(&mut self, below: &str) -> Result<(), BuildError> {
        let directory = self.directory.join(below);
        let failed = || io_error(format!("can't read {}", directory.display()));
        let entries = fs::read_dir(&directory).map_err(failed())?;
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
            .map_err(failed())?;
        paths.sort();
        for path in paths {
            let name = path.strip_prefix(self.directory).unwrap_or(&path);
            let name = name.to_str().ok_or_else(|| ContextError::Entry {
                path: name.display().to_string(),
                reason: "has a name that is not UTF-8".to_owned(),
            })?;
            self.add(&path, name)?;
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, name: &str) -> Result<(), BuildError> {
        let failed = || io_error(format!("can't read {}", path.display()));
        let found = fs::symlink_metadata(path).map_err(failed())?;
        let wanted = name == IGNORE_FILE || self.always.contains(&name);
        let is_out = self.rules.leaves_out(name) && !wanted;
        let leads_to_wanted = self
            .always
            .iter()
            .any(|always| always.strip_prefix(name).is_some_and(|rest| rest.starts_with('/')));
        if is_out && !(found.is_dir() && (leads_to_wanted || self.rules.takes_back_below(name))) {
            return Ok(());
        }
        let mut header = tar::Header::new_gnu();
        header.set_mode(found.permissions().mode() & 0o777);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        if found.is_symlink() {
            let target = fs::read_link(path).map_err(failed())?;
            header.set_entry_type(tar::EntryType::Symlink);
            return Ok(self.tar.append_link(&mut header, name, target).map_err(failed())?);
        }
        if found.is_dir() {
            if !is_out {
                header.set_entry_type(tar::EntryType::Directory);
                self.tar.append_data(&mut header, name, io::empty()).map_err(failed())?;
            }
            return self.walk(name);
        }
        if !found.is_file() {
            let reason = "is neither a file, a directory nor a link".to_owned();
            return Err(ContextError::Entry { path: name.to_owned(), reason }.into());
        }
        let file = File::open(path).map_err(failed())?;
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(found.len());
        // One that grows meanwhile is cut, and one that shrinks is an error.
        let mut content = Exact { file, left: found.len() };
        Ok(self.tar.append_data(&mut header, name, &mut content).map_err(failed())?)
    }
}

/// So many bytes of a file, neither more nor fewer.
struct Exact {
    file: File,
    left: u64,
}

impl io::Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read(&mut buffer[..most])?;
        if read == 0 && most > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file has become shorter",
            ));
        }
        self.left -= read as u64;
        Ok(read)
    }
}
