//! The queue and the worker pool over a real Postgres, one database a test.

mod clients;
mod harness;
mod leases;
mod outage;
mod workers;
