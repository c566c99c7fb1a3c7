//! Rollouts: rules that send a share of pulls to v2. What a rule decides is a pure function of the rule
//! and of what is pulled; the rules are in the database, and each attempt asks for them anew, so that
//! a rollback is obeyed by the next claim.
//!
//! What workers tell of starts comes here too: how they went, and what they touched (`traces`).
//!
//! What came of it is counted beside the jobs (`tally`): the report reads these counts, and the guard what
//! first came of each image.

use sqlx::PgPool;

/// Why a rollout could not be read or changed.
mod error;
/// Rolls back what is worse.
mod guard;
/// Kinds of jobs, by name.
mod kind;
/// Rules in the database.
mod records;
/// What came of a rollout.
mod report;
/// What a rule says.
pub mod rule;
/// Starts of images.
mod starts;
/// Counts what came of rollouts.
mod tally;
/// Removes what is not needed any more.
mod tidy;
/// What starts of images touched.
mod traces;
/// Which version a pull is to make.
mod versions;

pub use error::RolloutError;
pub use guard::Guard;
pub use kind::KindName;
pub use records::{NewRollout, Rollout, RolloutChanges};
pub use report::{Report, Window};
pub use rule::{RolloutState, Rule, SourcePattern, Sticky};
pub use starts::{MAX_AGE, NewStart, ReportedStarts, StartOutcome, Temperature};
pub use tally::Tally;
pub use tidy::Tidy;
pub use versions::Versions;

/// All rollouts. Clones share the pool.
#[derive(Debug, Clone)]
pub struct Rollouts {
    pool: PgPool,
}

impl Rollouts {
    /// Those in the database of `pool`, which must be migrated.
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }
}
