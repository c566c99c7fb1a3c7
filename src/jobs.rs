//! Jobs: what is asked for, how it waits, who works on it, what came of it.
//!
//! `job` holds the types, `queue` the SQL, `worker` the pool, `reconcile` what is done beside the
//! jobs, `pull` and `migrate` the way of one job each.

/// The way of a build.
pub mod build;
/// Webhooks on their way.
pub mod courier;
/// Which handler does which kind of job.
pub mod handlers;
/// The types.
pub mod job;
/// Which job an idempotency key stands for.
mod keys;
/// The way of a migration.
pub mod migrate;
/// Phases of attempts.
mod phase;
/// Progress, as events.
mod progress;
/// The way of a pull.
pub mod pull;
/// The queue in Postgres.
pub mod queue;
/// What is done beside the jobs.
pub mod reconcile;
/// JSON in rows, as it was written.
pub mod recorded;
/// Who is told when a job ends.
pub mod webhook;
/// The worker pool.
pub mod worker;
