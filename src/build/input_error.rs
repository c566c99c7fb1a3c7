//! What is wrong with what somebody sent: a Dockerfile, a context or a rule in one.

/// What is wrong with a Dockerfile, as far as its text alone tells.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Dockerfile line {line}: {reason}")]
pub struct DockerfileError {
    /// Counts from 1.
    pub line: usize,
    /// One sentence without its full stop.
    pub reason: String,
}

/// What is wrong with a context or one of its entries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// It is none of the formats.
    #[error(
        "the context is neither a tar, plain or compressed with gzip or zstd, nor a zip: {reason}"
    )]
    Format {
        /// What was found.
        reason: String,
    },
    /// It breaks off, or is damaged.
    #[error("the context can't be read: {reason}")]
    Broken {
        /// What is wrong.
        reason: String,
    },
    /// An entry that would leave the context, or can't be in one.
    #[error("context entry {path:?}: {reason}")]
    Entry {
        /// Its path, cut to 200 characters.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// More than may be.
    #[error("the context has more than {most} {what}")]
    TooMuch {
        /// What is counted.
        what: &'static str,
        /// So much may be.
        most: u64,
    },
    /// A rule of `.dockerignore` can't be understood.
    #[error(".dockerignore line {line}: {reason}")]
    Ignore {
        /// Counts from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}
