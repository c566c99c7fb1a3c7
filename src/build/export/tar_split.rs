//! The tar of a layer as it was when the layer came into the storage, put together from what was kept of it
//! (vbatts/tar-split: lines of JSON, each a piece of the tar or the name of a file that follows) and the
//! layer's files. That it is the same to the last byte the diff id says, which is for the reader to check.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::fd::OwnedFd;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

use super::beneath::open_file;

/// The longest line: what lies between two files, of which only odd tars have much.
const MAX_LINE: u64 = 64 << 20;
/// A file that follows, in tar-split's words.
const FILE: u64 = 1;
/// A piece of the tar.
const SEGMENT: u64 = 2;

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: u64,
    #[serde(default)]
    name: String,
    /// In base64, where the name is no UTF-8.
    #[serde(default)]
    name_raw: String,
    #[serde(default)]
    size: u64,
    payload: Option<String>,
}

/// Reads the tar.
#[derive(Debug)]
pub(super) struct TarSplit<R> {
    lines: R,
    line: Vec<u8>,
    /// The layer's files.
    root: OwnedFd,
    current: Part,
}

/// What is read at the moment.
#[derive(Debug)]
enum Part {
    Segment { bytes: Vec<u8>, at: usize },
    File { file: File, name: String, left: u64 },
}

impl<R: BufRead> TarSplit<R> {
    /// Of the lines and of the directory that holds the files.
    pub(super) fn new(lines: R, root: OwnedFd) -> Self {
        let current = Part::Segment { bytes: Vec::new(), at: 0 };
        Self { lines, line: Vec::new(), root, current }
    }

    /// Goes on to the next line; `false` if there is none.
    fn advance(&mut self) -> io::Result<bool> {
        loop {
            self.line.clear();
            let read = (&mut self.lines).take(MAX_LINE).read_until(b'\n', &mut self.line)?;
            if read == 0 {
                return Ok(false);
            }
            if read as u64 == MAX_LINE {
                return Err(broken(format!("a line of it has more than {MAX_LINE} bytes")));
            }
            let line: Line =
                serde_json::from_slice(&self.line).map_err(|error| broken(error.to_string()))?;
            match line.kind {
                SEGMENT => {
                    let bytes = BASE64.decode(line.payload.unwrap_or_default());
                    let bytes = bytes.map_err(|error| broken(error.to_string()))?;
                    self.current = Part::Segment { bytes, at: 0 };
                    return Ok(true);
                }
                // Directories, links and empty files have nothing that is not in the header.
                FILE if line.size == 0 => {}
                FILE => {
                    self.current = self.file(&line)?;
                    return Ok(true);
                }
                kind => return Err(broken(format!("it has a line of kind {kind}"))),
            }
        }
    }

    /// The content of a file. No link leads to it: not out of the layer, and not to another file in it.
    fn file(&self, line: &Line) -> io::Result<Part> {
        let raw = match line.name_raw.as_str() {
            "" => line.name.clone().into_bytes(),
            raw => BASE64.decode(raw).map_err(|error| broken(error.to_string()))?,
        };
        let name = String::from_utf8_lossy(&raw).into_owned();
        let path = raw.iter().position(|byte| *byte != b'/').map_or(&raw[..0], |at| &raw[at..]);
        let file = open_file(&self.root, path).map_err(|error| named(&name, &error))?;
        let found = file.metadata().map_err(|error| named(&name, &error))?;
        if !found.is_file() || found.len() != line.size {
            let (expected, found) = (line.size, found.len());
            return Err(broken(format!(
                "{name}: expected a file of {expected} bytes, found {found}"
            )));
        }
        Ok(Part::File { file, name, left: line.size })
    }
}

impl<R: BufRead> Read for TarSplit<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let read = match &mut self.current {
                Part::Segment { bytes, at } => {
                    let read = (&bytes[*at..]).read(buffer)?;
                    *at += read;
                    read
                }
                Part::File { file, name, left } if *left > 0 => {
                    let room = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                    let read =
                        file.read(&mut buffer[..room]).map_err(|error| named(name, &error))?;
                    if read == 0 {
                        return Err(broken(format!("{name}: {left} bytes of it are missing")));
                    }
                    *left -= read as u64;
                    read
                }
                Part::File { .. } => 0,
            };
            if read > 0 {
                return Ok(read);
            }
            if !self.advance()? {
                return Ok(0);
            }
        }
    }
}

fn broken(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

fn named(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::build::export::beneath::open_root;

    fn read(lines: &str, root: &Path) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        let mut tar = TarSplit::new(lines.as_bytes(), open_root(root).unwrap());
        tar.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    #[test]
    fn pieces_and_files_take_turns() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("d")).unwrap();
        fs::write(root.path().join("d/file"), "content").unwrap();
        let lines = [
            r#"{"type":2,"payload":"aGVhZA=="}"#,
            r#"{"type":1,"name":"d/","payload":null,"position":1}"#,
            r#"{"type":1,"name":"/d/file","size":7,"payload":"AA==","position":2}"#,
            r#"{"type":2,"payload":"dGFpbA=="}"#,
            r#"{"type":1,"name_raw":"ZC9maWxl","size":7,"payload":"AA=="}"#,
        ];
        assert_eq!(read(&lines.join("\n"), root.path()).unwrap(), b"headcontenttailcontent");
        assert_eq!(read("", root.path()).unwrap(), b"");
    }

    #[test]
    fn what_leads_elsewhere_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        let (inside, outside) = (root.path().join("layer"), root.path().join("secret"));
        fs::create_dir_all(inside.join("real")).unwrap();
        fs::write(&outside, "secret!").unwrap();
        fs::write(inside.join("real/file"), "content").unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        std::os::unix::fs::symlink("real", inside.join("dir")).unwrap();
        std::os::unix::fs::symlink(root.path(), inside.join("up")).unwrap();
        let of = |name: &str| format!(r#"{{"type":1,"name":"{name}","size":7,"payload":""}}"#);
        assert_eq!(read(&of("real/file"), &inside).unwrap(), b"content");
        for name in
            ["link", "dir/file", "up/secret", "../secret", "real", "missing", "/../secret", ""]
        {
            assert!(read(&of(name), &inside).is_err(), "{name}");
        }
        let longer = of("real/file").replace('7', "8");
        assert!(
            read(&longer, &inside).unwrap_err().contains("expected a file of 8 bytes, found 7")
        );
        for line in ["{", r#"{"type":3,"payload":""}"#, r#"{"type":2,"payload":"?"}"#] {
            assert!(read(line, &inside).is_err(), "{line}");
        }
    }
}
