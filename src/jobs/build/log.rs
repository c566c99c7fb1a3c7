//! The log of a build on its way to the database: one JSON object a line, gathered for a moment and written
//! in chunks of whole lines. It has an end: what comes beyond it is left out but for the last lines, with a
//! mark that says how much is missing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use utoipa::ToSchema;

use super::mask_of;
use crate::build::{LogLine, LogSink, Mask, StepNumber, Stream};
use crate::jobs::queue::{MAX_CHUNK, QueueError};
use crate::jobs::worker::{Attempt, EventSink, Fence};

/// Bytes that a job's log may have, over all attempts.
const MAX_LOG: i64 = 16 << 20;
/// Lines of the end that are kept when there are more.
const LAST: usize = 200;
/// How long a line waits for others to be written with.
const GATHER: Duration = Duration::from_millis(200);
/// No line is longer as JSON.
const MAX_RECORD: usize = MAX_CHUNK / 2;

/// One line of a job's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogRecord {
    /// When it came.
    pub at: DateTime<Utc>,
    /// The attempt that it belongs to.
    pub attempt: i32,
    /// The step of the Dockerfile that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepNumber>,
    /// Where it comes from.
    pub stream: Stream,
    /// Without its end.
    pub text: String,
}

/// The log of one attempt.
pub(super) struct JobLog {
    shared: Arc<Mutex<Writer>>,
    events: EventSink,
    attempt: i32,
    mask: Mask,
    _flusher: AbortOnDropHandle<()>,
}

struct Writer {
    fence: Fence,
    /// Where the log ends in the database.
    offset: i64,
    waiting: Vec<u8>,
    since: Option<Instant>,
    last: VecDeque<Vec<u8>>,
    left_out: u64,
    /// The lease is lost, or the database takes nothing: the build goes on, as its end is told otherwise.
    is_broken: bool,
}

impl JobLog {
    /// Begins where the attempts before have ended.
    pub(super) async fn open(attempt: &Attempt) -> Result<Self, QueueError> {
        let writer = Writer {
            offset: attempt.fence.log_end().await?,
            fence: attempt.fence.clone(),
            waiting: Vec::new(),
            since: None,
            last: VecDeque::new(),
            left_out: 0,
            is_broken: false,
        };
        let shared = Arc::new(Mutex::new(writer));
        let flushed = shared.clone();
        let flusher = tokio::spawn(async move {
            loop {
                tokio::time::sleep(GATHER).await;
                let mut writer = flushed.lock().await;
                if writer.since.is_some_and(|since| since.elapsed() >= GATHER) {
                    writer.flush().await;
                }
            }
        });
        Ok(Self {
            shared,
            events: attempt.events.clone(),
            attempt: attempt.job().attempt,
            mask: mask_of(attempt),
            _flusher: AbortOnDropHandle::new(flusher),
        })
    }

    /// Says something on the service's own part.
    pub(super) async fn say(&self, text: &str) {
        let (step, stream, text) = (None, Stream::Service, text.to_owned());
        self.write(LogLine { step, stream, text }).await;
    }

    /// Writes what is left.
    pub(super) async fn close(&self) {
        let mut writer = self.shared.lock().await;
        if writer.left_out > 0 {
            let last = std::mem::take(&mut writer.last);
            let missing = writer.left_out - last.len() as u64;
            let mark = self.record(LogLine {
                step: None,
                stream: Stream::Service,
                text: format!("[the log is full: {missing} lines are left out here]"),
            });
            for line in std::iter::once(mark).chain(last) {
                writer.append(&line).await;
            }
        }
        writer.flush().await;
    }

    fn record(&self, line: LogLine) -> Vec<u8> {
        let LogLine { step, stream, text } = line;
        let text = self.mask.apply(text);
        let record = LogRecord { at: Utc::now(), attempt: self.attempt, step, stream, text };
        let bytes = |record: &LogRecord| {
            // Strings and numbers: this can't fail.
            let mut bytes = serde_json::to_vec(record).unwrap_or_default();
            bytes.push(b'\n');
            bytes
        };
        let whole = bytes(&record);
        if whole.len() <= MAX_RECORD {
            return whole;
        }
        let text = record.text.chars().take(MAX_RECORD / 16).collect();
        bytes(&LogRecord { text, ..record })
    }
}

#[async_trait]
impl LogSink for JobLog {
    async fn write(&self, line: LogLine) {
        // A build has a limit of time of its own: what it says is a sign that it lives.
        self.events.waits();
        let record = self.record(line);
        let mut writer = self.shared.lock().await;
        if writer.left_out > 0 || writer.end_with(&record) > MAX_LOG {
            writer.left_out += 1;
            if writer.last.len() == LAST {
                writer.last.pop_front();
            }
            writer.last.push_back(record);
            return;
        }
        writer.append(&record).await;
    }

    async fn silence(&self, since_start: Duration) {
        self.say(&format!("Still building image... ({}s elapsed)", since_start.as_secs())).await;
    }
}

impl Writer {
    /// Where the log would end with one record more.
    fn end_with(&self, record: &[u8]) -> i64 {
        self.offset + i64::try_from(self.waiting.len() + record.len()).unwrap_or(i64::MAX >> 1)
    }

    async fn append(&mut self, record: &[u8]) {
        if self.waiting.len() + record.len() > MAX_CHUNK {
            self.flush().await;
        }
        self.waiting.extend_from_slice(record);
        self.since.get_or_insert_with(Instant::now);
    }

    async fn flush(&mut self) {
        let bytes = std::mem::take(&mut self.waiting);
        self.since = None;
        if bytes.is_empty() || self.is_broken {
            return;
        }
        match self.fence.append_log(self.offset, &bytes).await {
            Ok(end) => self.offset = end,
            Err(error) => {
                tracing::warn!(%error, "the rest of a build's log is not recorded");
                self.is_broken = true;
            }
        }
    }
}
