//! Where a job stands.

use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// Where a job stands. All but `queued` and `running` are final.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum JobState {
    /// Waits for a worker, or for its next attempt.
    Queued,
    /// A worker holds its lease.
    Running,
    /// Its archive is in the store.
    Succeeded,
    /// It will not be tried again by itself.
    Failed,
    /// It was cancelled before it succeeded.
    Cancelled,
    /// No worker took it in time.
    Expired,
    /// A state of a later version of the service.
    Other(String),
}

impl JobState {
    /// Those that this version knows.
    pub const KNOWN: [Self; 6] = [
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
    ];

    /// As it stands in the database and in JSON.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Other(name) => name,
        }
    }
}

impl From<String> for JobState {
    fn from(name: String) -> Self {
        Self::KNOWN.into_iter().find(|state| state.as_str() == name).unwrap_or(Self::Other(name))
    }
}

impl From<JobState> for String {
    fn from(state: JobState) -> Self {
        state.as_str().to_owned()
    }
}

impl PartialSchema for JobState {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("Where a job stands. All but `queued` and `running` are final."))
            .enum_values(Some(Self::KNOWN.map(String::from)))
            .into()
    }
}

impl ToSchema for JobState {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_later_versions_are_kept() {
        for state in JobState::KNOWN.into_iter().chain([JobState::Other("paused".into())]) {
            let json = serde_json::to_value(&state).unwrap();
            assert_eq!(json, state.as_str());
            assert_eq!(serde_json::from_value::<JobState>(json).unwrap(), state);
        }
    }
}
