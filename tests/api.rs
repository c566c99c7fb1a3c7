//! The HTTP face: the real router over the real queue and a real Postgres.

mod access;
mod events;
mod harness;
mod images;
mod jobs;
mod problems;
mod server;
mod starts;
mod storage;
mod tenants;
mod traces;
