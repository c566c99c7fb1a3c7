//! The log of a build on its way to the database: one JSON object a line, gathered for a moment and written
//! in chunks of whole lines. It has an end: what comes beyond it is left out but for the last lines, with a
//! mark that says how much is missing. While the database is away lines are kept, as many as there is room for; then
//! the build waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
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
/// Bytes that wait for the database at most: when they are so many the build waits too.
const KEPT: usize = 1 << 20;
/// How long the end of a log is still tried to be written once the attempt is to end.
const LINGER: Duration = Duration::from_secs(10);
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
    lines: Arc<watch::Sender<Lines>>,
    events: EventSink,
    cancel: CancellationToken,
    attempt: i32,
    mask: Mask,
    _courier: AbortOnDropHandle<()>,
}

/// What is not in the database yet.
struct Lines {
    waiting: VecDeque<Vec<u8>>,
    /// Bytes of those that wait, and of those that are being written.
    kept: usize,
    /// Where the log ends when all of them are written.
    end: i64,
    last: VecDeque<Vec<u8>>,
    left_out: u64,
    /// Nothing follows.
    is_closed: bool,
    /// The lease is lost: the build is not ours any more.
    is_lost: bool,
}

impl JobLog {
    /// Begins where the attempts before have ended.
    pub(super) async fn open(attempt: &Attempt) -> Result<Self, QueueError> {
        let end = attempt.fence.log_end().await?;
        let lines = Arc::new(watch::Sender::new(Lines::from(end)));
        let courier = tokio::spawn(carry(lines.clone(), attempt.fence.clone(), end));
        Ok(Self {
            lines,
            events: attempt.events.clone(),
            cancel: attempt.cancel.clone(),
            attempt: attempt.job().attempt,
            mask: mask_of(attempt),
            _courier: AbortOnDropHandle::new(courier),
        })
    }

    /// Says something on the service's own part.
    pub(super) async fn say(&self, text: &str) {
        let (step, stream, text) = (None, Stream::Service, text.to_owned());
        self.write(LogLine { step, stream, text }).await;
    }

    /// Waits until everything is written, however long the database is away; not much longer, once the
    /// attempt is to end.
    pub(super) async fn close(&self) {
        self.lines.send_modify(|lines| {
            let last = std::mem::take(&mut lines.last);
            if lines.left_out > 0 {
                let missing = lines.left_out - last.len() as u64;
                let mark = self.record(LogLine {
                    step: None,
                    stream: Stream::Service,
                    text: format!("[the log is full: {missing} lines are left out here]"),
                });
                std::iter::once(mark).chain(last).for_each(|line| lines.push(line));
            }
            lines.is_closed = true;
        });
        let mut seen = self.lines.subscribe();
        let written = seen.wait_for(|lines| lines.kept == 0 || lines.is_lost);
        let given_up = async {
            self.cancel.cancelled().await;
            tokio::time::sleep(LINGER).await;
        };
        tokio::select! {
            _ = written => {}
            () = given_up => {}
        }
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
        let mut seen = self.lines.subscribe();
        let has_room = seen.wait_for(|lines| lines.kept + record.len() <= KEPT || lines.is_lost);
        tokio::select! {
            _ = has_room => {}
            () = self.cancel.cancelled() => {}
        }
        self.lines.send_modify(|lines| lines.write(record));
    }

    async fn silence(&self, since_start: Duration) {
        self.say(&format!("Still building image... ({}s elapsed)", since_start.as_secs())).await;
    }
}

impl From<i64> for Lines {
    /// None yet, in a log that ends there.
    fn from(end: i64) -> Self {
        Self {
            waiting: VecDeque::new(),
            kept: 0,
            end,
            last: VecDeque::new(),
            left_out: 0,
            is_closed: false,
            is_lost: false,
        }
    }
}

impl Lines {
    fn write(&mut self, record: Vec<u8>) {
        if self.left_out == 0 && self.end + length(&record) <= MAX_LOG {
            // There is no room only when the attempt is to end.
            if self.kept + record.len() <= KEPT {
                self.push(record);
            }
            return;
        }
        self.left_out += 1;
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(record);
    }

    fn push(&mut self, record: Vec<u8>) {
        if !self.is_lost {
            self.kept += record.len();
            self.end += length(&record);
            self.waiting.push_back(record);
        }
    }

    /// As many whole lines as a chunk holds.
    fn take(&mut self) -> Vec<u8> {
        let mut chunk = Vec::new();
        while let Some(line) = self.waiting.front()
            && chunk.len() + line.len() <= MAX_CHUNK
        {
            chunk.append(&mut self.waiting.pop_front().unwrap_or_default());
        }
        chunk
    }
}

fn length(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).unwrap_or(i64::MAX >> 1)
}

/// Writes the lines in their order, one chunk after the other, each until the database says that it has it.
async fn carry(lines: Arc<watch::Sender<Lines>>, fence: Fence, mut end: i64) {
    let mut seen = lines.subscribe();
    loop {
        // The sender is ours as well: this can't fail.
        let _ = seen.wait_for(|lines| !lines.waiting.is_empty()).await;
        let gathered = seen.wait_for(|lines| lines.kept >= MAX_CHUNK || lines.is_closed);
        let _ = tokio::time::timeout(GATHER, gathered).await;
        let mut chunk = Vec::new();
        lines.send_modify(|lines| chunk = lines.take());
        match fence.append_log(end, &chunk).await {
            Ok(new_end) => end = new_end,
            Err(error) => {
                tracing::warn!(%error, "the rest of a build's log is not recorded");
                lines.send_modify(|lines| {
                    lines.is_lost = true;
                    lines.waiting.clear();
                });
                return;
            }
        }
        lines.send_modify(|lines| lines.kept -= chunk.len());
    }
}
