//! Rollouts: rules that send a share of pulls to v2. What a rule decides is a pure function of the rule
//! and of what is pulled; the rules are in the database, and each attempt asks for them anew, so that
//! a rollback is obeyed by the next claim.

use sqlx::PgPool;

/// Why a rollout could not be read or changed.
mod error;
/// Rules in the database.
mod records;
/// What a rule says.
pub mod rule;
/// Which version a pull is to make.
mod versions;

pub use error::RolloutError;
pub use records::{NewRollout, Rollout, RolloutChanges};
pub use rule::{RolloutState, Rule, SourcePattern, Sticky};
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
