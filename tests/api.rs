//! The HTTP face: the real router over the real queue and a real Postgres.
#![allow(clippy::unwrap_used, reason = "a panic is how a test's helper fails")]

mod support;

mod api {
    mod access;
    mod events;
    mod harness;
    mod jobs;
    mod problems;
    mod server;
}
