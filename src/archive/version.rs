//! Which of the two an archive is.

/// An archive's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClipVersion {
    /// With the files' content.
    V1 = 1,
    /// An index that points into layers.
    V2 = 2,
}

impl TryFrom<u8> for ClipVersion {
    type Error = u8;

    fn try_from(number: u8) -> Result<Self, u8> {
        match number {
            1 => Ok(Self::V1),
            2 => Ok(Self::V2),
            other => Err(other),
        }
    }
}
