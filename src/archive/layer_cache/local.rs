//! Layer indexes in a directory of this machine, of bounded size: those that were used longest ago
//! go first. Any number of processes may share it; files appear whole, and may go at any time.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::MAX_BYTES;

const TEMPORARY_PREFIX: &str = ".tmp-";
/// A younger temporary file may belong to a process that is still writing.
const LEFTOVER_AGE: Duration = Duration::from_hours(24);

/// The directory.
#[derive(Debug, Clone)]
pub(super) struct LocalCopy {
    directory: PathBuf,
    /// Bytes of all files together.
    limit: u64,
}

impl LocalCopy {
    pub(super) fn new(directory: PathBuf, limit: u64) -> Self {
        Self { directory, limit }
    }

    /// The bytes kept under `name`.
    pub(super) fn get(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.directory.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        let mut bytes = Vec::with_capacity(usize::try_from(length.min(MAX_BYTES)).unwrap_or(0));
        (&file).take(MAX_BYTES).read_to_end(&mut bytes)?;
        // Says when it was used last. Files of another user can't be told, and are as good.
        let _ = file.set_modified(SystemTime::now());
        Ok(Some(bytes))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.directory.join(name).is_file()
    }

    /// Keeps `bytes` under `name`, and lets others go if there are too many now.
    pub(super) fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() as u64 > self.limit {
            return Ok(());
        }
        // What an image holds is nobody else's business.
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let mut temporary =
            tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempfile_in(&self.directory)?;
        // Not synced: what a crash leaves half written is found by its checksum.
        temporary.write_all(bytes)?;
        temporary.persist(self.directory.join(name))?;
        self.shrink()
    }

    fn shrink(&self) -> io::Result<()> {
        let now = SystemTime::now();
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            // It may be gone already: others shrink too.
            let Ok((modified, size)) = entry.metadata().and_then(|m| facts(&m)) else { continue };
            if !entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
                files.push((modified, size, entry.path()));
            } else if now.duration_since(modified).is_ok_and(|age| age > LEFTOVER_AGE) {
                remove(&entry.path())?;
            }
        }
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        files.sort_unstable();
        for (_, size, path) in files {
            if total <= self.limit {
                break;
            }
            remove(&path)?;
            total -= size;
        }
        Ok(())
    }
}

fn facts(metadata: &Metadata) -> io::Result<(SystemTime, u64)> {
    Ok((metadata.modified()?, metadata.len()))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn age(copy: &LocalCopy, name: &str, hours: u64) {
        let file = File::options().write(true).open(copy.directory.join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_hours(hours)).unwrap();
    }

    fn names(copy: &LocalCopy) -> Vec<String> {
        let entries = fs::read_dir(&copy.directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let directory = tempfile::tempdir().unwrap();
        let copy = LocalCopy::new(directory.path().join("made/by/put"), 10);
        assert_eq!(copy.get("a").unwrap(), None);
        for (name, hours) in [("a", 9), ("b", 8), ("c", 7)] {
            copy.put(name, b"123").unwrap();
            age(&copy, name, hours);
        }
        assert_eq!(copy.get("a").unwrap().unwrap(), b"123");
        copy.put("d", b"4567").unwrap();
        assert_eq!(names(&copy), ["a", "c", "d"], "b was used before a");
        copy.put("a", b"other").unwrap();
        assert_eq!(copy.get("a").unwrap().unwrap(), b"other");
        assert_eq!(names(&copy), ["a", "d"]);
        copy.put("large", b"more than fits").unwrap();
        assert_eq!(names(&copy), ["a", "d"]);
    }

    #[test]
    fn leftovers_of_a_crash_go_once_they_are_old() {
        let directory = tempfile::tempdir().unwrap();
        let copy = LocalCopy::new(directory.path().to_owned(), 100);
        for name in [".tmp-old", ".tmp-young"] {
            fs::write(directory.path().join(name), b"x").unwrap();
        }
        age(&copy, ".tmp-old", 25);
        copy.put("a", b"1").unwrap();
        assert_eq!(names(&copy), [".tmp-young", "a"]);
    }

    #[test]
    fn many_at_once_keep_the_limit() {
        let directory = tempfile::tempdir().unwrap();
        let copy = LocalCopy::new(directory.path().to_owned(), 5000);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let copy = &copy;
                scope.spawn(move || {
                    for n in 0..30 {
                        let name = format!("{thread}-{n}");
                        copy.put(&name, &[n; 700]).unwrap();
                        let kept = copy.get(&name).unwrap();
                        assert!(kept.is_none_or(|bytes| bytes == [n; 700]));
                    }
                });
            }
        });
        copy.shrink().unwrap();
        assert!((1..=7).contains(&names(&copy).len()), "{:?}", names(&copy));
    }
}
