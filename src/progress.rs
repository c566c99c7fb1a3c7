//! How progress leaves the lower floors: a callback that knows nothing of jobs or terminals.

use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

use crate::digest::Digest;

/// How often whoever waits for others says so.
const SAY_SO: Duration = Duration::from_mins(1);

/// One step forward in making an archive.
#[derive(Debug, Clone)]
pub enum Step {
    /// The image was found: its platform manifest and how much there is to read.
    Resolved {
        /// Digest of the platform manifest.
        manifest: Digest,
        /// How many layers it has.
        layers: usize,
        /// Sum of the compressed layer sizes, in bytes.
        compressed_bytes: u64,
    },
    /// A layer waits for others: for its turn, or for somebody else who reads it. Said now and then, for
    /// as long as that lasts.
    Waiting {
        /// Digest of the compressed layer.
        layer: Digest,
    },
    /// So many more compressed bytes of a layer were read.
    LayerBytes {
        /// Digest of the compressed layer.
        layer: Digest,
        /// Bytes read since the last step of this layer.
        bytes: u64,
    },
    /// A layer was read to its end and verified, or was known.
    LayerDone {
        /// Digest of the compressed layer.
        layer: Digest,
        /// Compressed bytes in it.
        compressed_bytes: u64,
        /// Uncompressed bytes in it.
        plain_bytes: u64,
        /// Tar entries in it.
        entries: usize,
        /// Whether its index was known, so that none of its bytes were read.
        cached: bool,
    },
    /// A layer that is being read was inflated to its end.
    Inflated {
        /// Digest of the compressed layer.
        layer: Digest,
        /// Processor time that it took.
        processor: Duration,
    },
    /// Something the user should know, such as a device node that readers can't show.
    Warning(String),
}

/// Receives steps; called from any thread and expected to return at once.
pub trait Progress: Send + Sync {
    /// Takes one step.
    fn step(&self, step: Step);
}

/// Ignores every step.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _step: Step) {}
}

/// Waits for others on behalf of `layer`, and says so.
pub(crate) async fn wait<T>(
    progress: &dyn Progress,
    layer: Digest,
    others: impl Future<Output = T>,
) -> T {
    self::others(others, || progress.step(Step::Waiting { layer })).await
}

/// Waits for others, and has `say` say so now and then.
pub(crate) async fn others<T>(others: impl Future<Output = T>, say: impl Fn()) -> T {
    let mut others = pin!(others);
    loop {
        match timeout(SAY_SO, &mut others).await {
            Ok(done) => return done,
            Err(_) => say(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    struct Said(AtomicU32);

    impl Progress for Said {
        fn step(&self, step: Step) {
            assert!(matches!(step, Step::Waiting { .. }), "{step:?}");
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_says_so_each_minute() {
        let said = Said(AtomicU32::new(0));
        let others = tokio::time::sleep(Duration::from_secs(5 * 60 + 30));
        wait(&said, Digest::of(b"l"), others).await;
        assert_eq!(said.0.into_inner(), 5);
    }
}
