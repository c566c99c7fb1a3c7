//! Files of many megabytes that must be on the disk when they are done: the system writes the first
//! of them while the last are still to come, instead of all of them in the end.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

/// Bytes gathered before they are handed to the system.
const BUFFER: usize = 256 << 10;
/// Bytes after which the system is told to write.
const STRIDE: u64 = 32 << 20;

/// A file that is written from its start to its end. Flushing ends it; what is left to do then is
/// `sync_all`.
#[derive(Debug)]
pub struct WriteBehind {
    file: BufWriter<File>,
    /// Bytes since the system was last told.
    untold: u64,
    behind: Option<Behind>,
}

/// The thread that waits for the disk.
#[derive(Debug)]
struct Behind {
    due: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl WriteBehind {
    /// Starts at the file's position.
    pub fn new(file: File) -> Self {
        Self { file: BufWriter::with_capacity(BUFFER, file), untold: 0, behind: None }
    }

    fn tell(&mut self) -> io::Result<()> {
        self.untold = 0;
        let behind = if let Some(behind) = &self.behind {
            behind
        } else {
            let file = self.file.get_ref().try_clone()?;
            let (due, dues) = sync_channel(1);
            let sync = move || dues.iter().try_for_each(|()| file.sync_data());
            let thread = thread::Builder::new().name("write-behind".into()).spawn(sync)?;
            self.behind.insert(Behind { due, thread })
        };
        // Full: it has that before it already. Closed: it failed, which flushing tells.
        let _ = behind.due.try_send(());
        Ok(())
    }
}

impl Write for WriteBehind {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.untold += written as u64;
        if self.untold >= STRIDE {
            self.tell()?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()?;
        let Some(Behind { due, thread }) = self.behind.take() else { return Ok(()) };
        drop(due);
        // The system tells of a failed write once: whoever syncs next would not hear of it.
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that syncs panicked")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_arrives_and_the_thread_ends() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut out = WriteBehind::new(file.reopen().unwrap());
        let piece: Vec<u8> = (0..=250).cycle().take(1_000_003).collect();
        for _ in 0..70 {
            out.write_all(&piece).unwrap();
        }
        assert!(out.behind.is_some());
        out.flush().unwrap();
        assert!(out.behind.is_none());
        let written = std::fs::read(file.path()).unwrap();
        assert!(written.len() == 70 * piece.len());
        assert!(written.chunks(piece.len()).all(|chunk| chunk == piece));
    }
}
