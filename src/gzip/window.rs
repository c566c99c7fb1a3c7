//! The history that inflating needs at a checkpoint, reduced to what is really referred to.

/// How large a window may be when decoded.
use super::inflate::WINDOW;

/// Higher levels save 5 % of a window and take longer than all else that a checkpoint costs.
const LEVEL: i32 = 3;

/// Up to 32 KiB of history, in which bytes that nothing refers to are zero, compressed.
///
/// Encoded form: one zstd frame (RFC 8878) without checksum, of at most 32,768 bytes; no bytes at
/// all for an empty history. Zeroing lets zstd spend almost nothing on the unused bytes while
/// every offset stays what it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SparseWindow {
    encoded: Vec<u8>,
}

/// A window that can't be encoded or decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a checkpoint's window of {length} encoded bytes is not a zstd frame of at most 32 KiB: {reason}"
)]
pub struct WindowError {
    /// The encoded length.
    pub length: usize,
    /// What zstd says.
    pub reason: String,
}

impl SparseWindow {
    /// Encodes `history`, keeping the bytes for which `is_used(back)` holds, `back` counted from
    /// its end, 1 being the last byte.
    pub(super) fn encode(
        mut history: Vec<u8>,
        is_used: impl Fn(usize) -> bool,
    ) -> Result<Self, WindowError> {
        let length = history.len();
        for (index, byte) in history.iter_mut().enumerate() {
            if !is_used(length - index) {
                *byte = 0;
            }
        }
        if history.is_empty() {
            return Ok(Self::default());
        }
        let encoded = zstd::bulk::compress(&history, LEVEL)
            .map_err(|error| WindowError { length: 0, reason: error.to_string() })?;
        Ok(Self { encoded })
    }

    /// Takes an encoded window as it was stored. It is looked at when it is used.
    pub fn from_encoded(encoded: Vec<u8>) -> Self {
        Self { encoded }
    }

    /// The encoded form.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// The history, with zeros where nothing is referred to.
    pub fn decode(&self) -> Result<Vec<u8>, WindowError> {
        if self.encoded.is_empty() {
            return Ok(Vec::new());
        }
        zstd::bulk::decompress(&self.encoded, WINDOW)
            .map_err(|error| WindowError { length: self.encoded.len(), reason: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_bytes_come_back_and_others_are_zero() {
        let history: Vec<u8> = (0..=255).cycle().take(WINDOW).collect();
        let window = SparseWindow::encode(history.clone(), |back| back.is_multiple_of(3)).unwrap();
        let decoded = window.decode().unwrap();
        for (index, (&old, &new)) in history.iter().zip(&decoded).enumerate() {
            assert_eq!(new, if (WINDOW - index).is_multiple_of(3) { old } else { 0 });
        }
        let none = SparseWindow::encode(history, |_| false).unwrap();
        assert!(none.encoded().len() < 32);
        assert_eq!(none.decode().unwrap(), vec![0; WINDOW]);
    }

    #[test]
    fn an_empty_history_takes_no_bytes() {
        let window = SparseWindow::encode(Vec::new(), |_| true).unwrap();
        assert_eq!((window.encoded(), window.decode().unwrap()), (&[][..], Vec::new()));
    }

    #[test]
    fn what_is_no_window_is_refused() {
        let large = zstd::bulk::compress(&vec![0; WINDOW + 1], 1).unwrap();
        let bomb = zstd::bulk::compress(&vec![0; 1 << 24], 1).unwrap();
        for encoded in [large, bomb, b"garbage".to_vec()] {
            assert!(SparseWindow::from_encoded(encoded).decode().is_err());
        }
    }
}
