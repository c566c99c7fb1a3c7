//! Why the queue could not do what was asked.

use uuid::Uuid;

use crate::database;
use crate::error::{Classify, Fault};
use crate::retry::Retryable;
use crate::workspace::WorkspaceId;

/// What the schema calls the bound on webhooks of one job.
const WEBHOOK_BOUNDED: &str = "webhook_bounded";

/// Why the queue could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The database can't be reached, restarts or is overloaded.
    #[error("the database could not {action}: {reason}")]
    Unavailable {
        /// What was to be done, such as `submit a job`.
        action: &'static str,
        /// What the network or the database said.
        reason: String,
    },
    /// Our own connections are closed: the service stops.
    #[error("the connections to the database are closed: the service is stopping")]
    Closed,
    /// The database refused a statement: a defect of ours or of the schema.
    #[error("the database refused to {action}: {reason}")]
    Refused {
        /// What was to be done.
        action: &'static str,
        /// What the database said.
        reason: String,
    },
    /// The idempotency key belongs to a job of other content, of which nothing is told.
    #[error("the idempotency key was used for a request that asked for something else")]
    IdempotencyMismatch,
    /// As many jobs of the workspace wait as may.
    #[error("as many jobs of workspace {workspace} wait as may (max_queued)")]
    Full {
        /// Whose jobs.
        workspace: WorkspaceId,
    },
    /// As many jobs of all workspaces wait as may.
    #[error("as many jobs wait as the service lets wait (maxQueued)")]
    ServiceFull,
    /// As many webhooks of the job wait as may.
    #[error("no webhook can be added: 20 of this job wait, and no more may")]
    WebhooksFull,
    /// Secrets came, but there is no key to keep them with.
    #[error("credentials can't be accepted: the service has no secret key to encrypt them with")]
    NoSecretKey,
    /// A secret can't be read with the service's keys.
    #[error("the secret {name:?} of job {job} can't be decrypted: {reason}")]
    Undecipherable {
        /// The job.
        job: Uuid,
        /// What the secret is called.
        name: String,
        /// What doesn't fit.
        reason: &'static str,
    },
    /// A row holds what this version of the service doesn't understand.
    #[error("{what} of {of} can't be understood: {reason}")]
    Corrupt {
        /// Which part of the row.
        what: &'static str,
        /// Whose row it is.
        of: String,
        /// What doesn't fit.
        reason: String,
    },
    /// The worker doesn't hold the job any more; nothing was written.
    #[error("the lease of job {job} is lost: the job was taken from this worker")]
    LeaseLost {
        /// The job.
        job: Uuid,
    },
}

impl QueueError {
    /// Names the action to what sqlx says.
    pub(super) fn from_sqlx(action: &'static str, error: &sqlx::Error) -> Self {
        if matches!(error, sqlx::Error::PoolClosed) {
            return Self::Closed;
        }
        let refused_by = error.as_database_error().and_then(|error| error.constraint());
        if refused_by == Some(WEBHOOK_BOUNDED) {
            return Self::WebhooksFull;
        }
        let reason = error.to_string();
        if database::is_transient(error) {
            Self::Unavailable { action, reason }
        } else {
            Self::Refused { action, reason }
        }
    }
}

impl Retryable for QueueError {
    fn cancelled() -> Self {
        Self::Closed
    }
}

impl Classify for QueueError {
    fn is_transient(&self) -> bool {
        // A job whose lease was nearly over is tried again by whoever has it then.
        matches!(self, Self::Unavailable { .. } | Self::Closed | Self::LeaseLost { .. })
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Unavailable { .. } | Self::Closed | Self::ServiceFull => Fault::Upstream,
            Self::IdempotencyMismatch
            | Self::Full { .. }
            | Self::WebhooksFull
            | Self::NoSecretKey => Fault::User,
            Self::Refused { .. }
            | Self::Undecipherable { .. }
            | Self::Corrupt { .. }
            | Self::LeaseLost { .. } => Fault::Ours,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } | Self::Closed => "database_unavailable",
            Self::Refused { .. } => "database_refused",
            Self::IdempotencyMismatch => "idempotency_mismatch",
            Self::Full { .. } | Self::ServiceFull => "queue_full",
            Self::WebhooksFull => "webhooks_full",
            Self::NoSecretKey => "no_secret_key",
            Self::Undecipherable { .. } => "credentials_undecipherable",
            Self::Corrupt { .. } => "row_corrupt",
            Self::LeaseLost { .. } => "lease_lost",
        }
    }
}
