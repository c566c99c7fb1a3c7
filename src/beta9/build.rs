//! A build as beta9 asks after it: success, exit code and message.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::ExitCode;
use super::message::outcome;
use crate::jobs::job::{Job, JobState};

/// A build, as far as it has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(example = json!({
    "id": "0199d2a4-7c1e-7f0a-9a55-0d4b1a1c7e21", "image_id": "961eaef6668e480f",
    "state": "succeeded", "done": true, "success": true, "exit_code": 0,
    "msg": "Build completed successfully"
}))]
pub struct Build {
    /// The job that does it.
    pub id: Uuid,
    /// Names the archive.
    #[schema(value_type = String)]
    pub image_id: String,
    /// Where the job stands.
    pub state: JobState,
    /// Whether it has ended.
    pub done: bool,
    /// Whether the image is there.
    pub success: bool,
    /// The exit code that beta9's build container would have; once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u16>,
    /// How it ended, in a sentence; once it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msg: Option<String>,
}

impl Build {
    /// What a job tells of itself.
    pub fn of(job: &Job) -> Self {
        let code = ExitCode::of(job);
        Self {
            id: job.id,
            image_id: job.spec.json()["image_id"].as_str().unwrap_or_default().to_owned(),
            state: job.state.clone(),
            done: code.is_some(),
            success: code == Some(ExitCode::OK),
            exit_code: code.map(ExitCode::number),
            msg: code.map(|_| outcome(job)),
        }
    }
}
