//! How a build ended, in the numbers that beta9 gives its containers (CONTRACT D.5).

use crate::jobs::job::{Job, JobState};

/// A build's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitCode(u16);

impl ExitCode {
    /// All is well.
    pub const OK: Self = Self(0);
    /// No better number is known.
    pub const UNKNOWN: Self = Self(1);
    /// Memory ran out.
    pub const OUT_OF_MEMORY: Self = Self(137);
    /// The image is not there, may not be read, or is none.
    pub const INVALID_IMAGE: Self = Self(555);
    /// The image is for other machines.
    pub const WRONG_ARCHITECTURE: Self = Self(556);
    /// No worker took it in time.
    pub const SCHEDULER: Self = Self(558);
    /// It took too long.
    pub const TIME: Self = Self(559);
    /// Its user stopped it.
    pub const USER: Self = Self(560);

    /// The number.
    pub fn number(self) -> u16 {
        self.0
    }

    /// Of a job that ended; `None` of one that didn't.
    pub fn of(job: &Job) -> Option<Self> {
        Some(match job.state {
            JobState::Queued | JobState::Running => return None,
            JobState::Succeeded => Self::OK,
            JobState::Cancelled => Self::USER,
            JobState::Expired => Self::SCHEDULER,
            JobState::Failed => {
                let code = job.error.as_ref().and_then(|error| error.json()["code"].as_str());
                Self::of_error(code.unwrap_or_default())
            }
            JobState::Other(_) => job.finished_at.map(|_| Self::UNKNOWN)?,
        })
    }

    /// Of a job's error code. Images are asked for by their whole platform: where there is none for it,
    /// the system is nearly always right and the architecture is not.
    fn of_error(code: &str) -> Self {
        match code {
            "image_not_found"
            | "invalid_reference"
            | "registry_unauthorized"
            | "invalid_credentials"
            | "registry_not_allowed"
            | "address_refused"
            | "unsupported_manifest"
            | "broken_image"
            | "no_layers"
            | "layer_not_held"
            | "layer_unsupported"
            | "layer_corrupt"
            | "layer_not_tar"
            | "diff_id_mismatch" => Self::INVALID_IMAGE,
            "no_such_platform" => Self::WRONG_ARCHITECTURE,
            "limit_memory" | "build_out_of_memory" => Self::OUT_OF_MEMORY,
            "build_timed_out" => Self::TIME,
            _ => Self::UNKNOWN,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::jobs::recorded::Recorded;

    pub(in crate::beta9) fn job(state: &str, error: Option<&str>) -> Job {
        let finished = (!["queued", "running"].contains(&state)).then_some("2026-11-27T12:00:00Z");
        let error = error.map(|code| {
            let error = serde_json::json!({"code": code, "message": "told", "fault": "user", "transient": false});
            Recorded::<crate::jobs::job::JobError>::from_json(error)
        });
        serde_json::from_value(serde_json::json!({
            "id": "0199d2a4-7c1e-7f0a-9a55-0d4b1a1c7e21", "workspace": "default",
            "spec": {"kind": "pull", "image_id": "961eaef6668e480f", "source": "a", "platform": "linux/amd64"},
            "priority": 0, "state": state, "attempt": 1, "max_attempts": 3, "losses": 0,
            "created_at": "2026-11-27T12:00:00Z", "started_at": null, "finished_at": finished,
            "result": null, "error": error,
        }))
        .unwrap()
    }

    #[test]
    fn every_end_has_a_number() {
        for (state, error, expected) in [
            ("queued", None, None),
            ("running", Some("registry_unavailable"), None),
            ("succeeded", None, Some(0)),
            ("cancelled", None, Some(560)),
            ("expired", None, Some(558)),
            ("failed", Some("image_not_found"), Some(555)),
            ("failed", Some("no_such_platform"), Some(556)),
            ("failed", Some("limit_memory"), Some(137)),
            ("failed", Some("registry_unavailable"), Some(1)),
            ("of a later version", None, Some(1)),
        ] {
            let code = ExitCode::of(&job(state, error)).map(ExitCode::number);
            assert_eq!(code, expected, "{state} {error:?}");
        }
    }
}
