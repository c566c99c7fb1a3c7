//! The queue and the worker pool over a real Postgres, one database a test.

mod clients;
mod fair;
mod harness;
mod heads;
mod hosts;
mod images;
mod joining;
mod layer_claims;
mod leases;
mod outage;
mod plans;
mod silence;
mod webhooks;
mod workers;

pub(crate) use harness::{Fixture, claim, error, new_job, result_for};
