//! The queue and the worker pool over a real Postgres, one database a test.

#![allow(missing_docs, reason = "a test")]

mod support;

#[path = "queue/clients.rs"]
mod clients;
#[path = "queue/harness.rs"]
mod harness;
#[path = "queue/leases.rs"]
mod leases;
#[path = "queue/outage.rs"]
mod outage;
#[path = "queue/workers.rs"]
mod workers;
