//! What a build says as it goes on, in the shape of beta9's `BuildImageResponse` (CONTRACT E). Its SDK
//! prints a message as it is, so that each ends its own line; stops at the first that is `done`; and takes
//! empty ones for a sign of life.

use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ExitCode;
use crate::image_id::ImageId;
use crate::jobs::job::{EventKind, Job, JobEvent};

/// Progress is told no more often than this.
const PROGRESS: TimeDelta = TimeDelta::seconds(10);

/// One message of a build, in the shape of beta9's `BuildImageResponse`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(example = json!({
    "image_id": "961eaef6668e480f", "msg": "Build completed successfully\n", "done": true,
    "success": true, "python_version": "python3.11", "warning": false, "exit_code": 0
}))]
pub struct Message {
    /// The image that is being made.
    #[schema(value_type = String)]
    pub image_id: String,
    /// Text to be printed as it is; empty for a sign of life.
    pub msg: String,
    /// No message follows: there is exactly one such.
    pub done: bool,
    /// Whether the image is there; of the last message.
    pub success: bool,
    /// What the request said of it.
    pub python_version: String,
    /// `msg` is a warning.
    pub warning: bool,
    /// The exit code that beta9's build container would have; of the last message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u16>,
}

/// A Python version as beta9 writes it, such as `python3.11`; may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[A-Za-z0-9._-]{0,32}$", examples("python3.11"))]
pub struct PythonVersion(String);

impl FromStr for PythonVersion {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if text.len() <= 32 && text.bytes().all(is_plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err("expected at most 32 letters, digits, '.', '_' and '-'")
        }
    }
}

impl TryFrom<String> for PythonVersion {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PythonVersion> for String {
    fn from(version: PythonVersion) -> Self {
        version.0
    }
}

/// Turns the events of one job into messages. The same events give the same messages, however late they
/// are told.
#[derive(Debug)]
pub struct Narrator {
    image_id: ImageId,
    python_version: PythonVersion,
    /// When progress was told last.
    progress_at: Option<DateTime<Utc>>,
}

impl Narrator {
    /// Of a job about this image.
    pub fn new(image_id: ImageId, python_version: PythonVersion) -> Self {
        Self { image_id, python_version, progress_at: None }
    }

    /// What is to be told of an event, if it is worth it.
    pub fn tell(&mut self, event: &JobEvent) -> Option<Message> {
        // What a later version tells has no words here.
        let (text, warning) = match event.kind.known()? {
            EventKind::Queued => (format!("Loading image <{}>...", self.image_id), false),
            EventKind::Started { .. } => {
                ("Inspecting image name and verifying architecture...".to_owned(), false)
            }
            EventKind::Resolved { layers, compressed_bytes, .. } => {
                (format!("Indexing image: {layers} layers, {}...", mib(compressed_bytes)), false)
            }
            EventKind::Progress { layers_done, layers_total, bytes_done, .. } => {
                let last = self.progress_at;
                if last.is_some_and(|last| event.at - last < PROGRESS) && layers_done < layers_total
                {
                    return None;
                }
                self.progress_at = Some(event.at);
                let bytes = mib(bytes_done);
                let told = format!(
                    "Image indexing: {layers_done}/{layers_total} layers complete, {bytes} processed"
                );
                (told, false)
            }
            EventKind::Warning { message } => (message, true),
            EventKind::FellBack(report) => {
                let reason = report.reason.unwrap_or_default();
                (format!("The image can't be loaded lazily and is packed instead: {reason}"), true)
            }
            EventKind::Republished { reference, layers } => {
                (format!("Published {layers} layers anew, as {reference}"), false)
            }
            EventKind::Retrying { error, .. } => {
                (format!("Another attempt will be made, for: {}", error.message), true)
            }
            EventKind::CancelRequested => ("Stopping the build...".to_owned(), false),
            EventKind::Succeeded { .. } => (format!("Image <{}> is ready", self.image_id), false),
            // What goes on in a phase is told; ends are told by how the job ended.
            EventKind::Phase { .. }
            | EventKind::Failed { .. }
            | EventKind::Cancelled
            | EventKind::Expired => return None,
        };
        Some(Message { msg: line(&text), warning, ..self.sign_of_life() })
    }

    /// What the build itself says, as it is.
    pub fn says(&self, text: &str) -> Message {
        Message { msg: line(text), ..self.sign_of_life() }
    }

    /// An empty message.
    pub fn sign_of_life(&self) -> Message {
        Message {
            image_id: self.image_id.to_string(),
            msg: String::new(),
            done: false,
            success: false,
            python_version: self.python_version.clone().into(),
            warning: false,
            exit_code: None,
        }
    }

    /// The last message. A job that is gone, or has not ended, ended in a way that nobody knows.
    pub fn end(&self, job: Option<&Job>) -> Message {
        let code = job.and_then(ExitCode::of).unwrap_or(ExitCode::UNKNOWN);
        let msg =
            line(&job.map_or_else(|| "Build failed: it is not there any more".into(), outcome));
        let (done, success) = (true, code == ExitCode::OK);
        let exit_code = Some(code.number());
        Message { msg, done, success, exit_code, ..self.sign_of_life() }
    }
}

/// How a job ended, in a sentence.
pub(super) fn outcome(job: &Job) -> String {
    let state = job.state.as_str();
    match (state, &job.error) {
        ("succeeded", _) => "Build completed successfully".to_owned(),
        ("failed", Some(error)) => {
            format!("Build failed: {}", error.json()["message"].as_str().unwrap_or_default())
        }
        ("cancelled", _) => "Build was stopped".to_owned(),
        ("expired", _) => "Build failed: no worker took it in time".to_owned(),
        _ => format!("Build failed: it ended as {state}"),
    }
}

/// One line that can't drive a terminal: parts of it come from images and registries.
fn line(text: &str) -> String {
    let plain = text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.chain(['\n']).collect()
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::beta9::exit_code::tests::job;

    fn event(second: u32, kind: Value) -> JobEvent {
        let mut event = kind;
        event["seq"] = json!(1);
        event["at"] = json!(format!("2026-11-27T12:00:{second:02}Z"));
        event["attempt"] = json!(1);
        serde_json::from_value(event).unwrap()
    }

    fn progress(second: u32, layers: u64) -> JobEvent {
        let data =
            json!({"layers_done": layers, "layers_total": 3, "bytes_done": 1, "bytes_total": 9});
        event(second, json!({"event": "progress", "data": data}))
    }

    fn narrator() -> Narrator {
        Narrator::new("961eaef6668e480f".parse().unwrap(), "python3.11".parse().unwrap())
    }

    #[test]
    fn progress_is_told_now_and_then_and_at_its_end() {
        let mut narrator = narrator();
        let events = [(0, 0), (5, 1), (9, 2), (10, 2), (12, 3)];
        let told: Vec<_> = events
            .iter()
            .filter_map(|(second, layers)| narrator.tell(&progress(*second, *layers)))
            .map(|message| message.msg)
            .collect();
        assert_eq!(
            told,
            [0, 2, 3].map(|n| format!("Image indexing: {n}/3 layers complete, 1 MiB processed\n"))
        );
    }

    #[test]
    fn each_message_is_one_line_whatever_a_registry_says() {
        let warning = json!({"event": "warning", "data": {"message": "a\u{1b}[2J\nb\n"}});
        let told = narrator().tell(&event(0, warning)).unwrap();
        assert_eq!((told.msg.as_str(), told.warning, told.done), ("a [2J b\n", true, false));
        assert_eq!(told.python_version, "python3.11");
        assert_eq!(narrator().tell(&event(0, json!({"event": "dreamt"}))), None);
        let silence = narrator().sign_of_life();
        assert_eq!((silence.msg.as_str(), silence.done), ("", false));
    }

    #[test]
    fn the_last_message_says_how_it_ended() {
        for (state, error, success, code, text) in [
            ("succeeded", None, true, 0, "Build completed successfully\n"),
            ("failed", Some("image_not_found"), false, 555, "Build failed: told\n"),
            ("cancelled", None, false, 560, "Build was stopped\n"),
            ("expired", None, false, 558, "Build failed: no worker took it in time\n"),
        ] {
            let end = narrator().end(Some(&job(state, error)));
            assert!(end.done);
            assert_eq!((end.success, end.exit_code), (success, Some(code)), "{state}");
            assert_eq!((end.msg.as_str(), end.image_id.as_str()), (text, "961eaef6668e480f"));
        }
        let gone = narrator().end(None);
        assert_eq!((gone.done, gone.success, gone.exit_code), (true, false, Some(1)));
    }

    #[test]
    fn python_versions_are_plain() {
        for good in ["", "python3.11", "python3", "micromamba3.9"] {
            assert!(good.parse::<PythonVersion>().is_ok(), "{good:?}");
        }
        for bad in ["python 3", "a\n", "é", &"3".repeat(33)] {
            assert!(bad.parse::<PythonVersion>().is_err(), "{bad:?}");
        }
    }
}
