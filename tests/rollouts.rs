//! What came of rollouts: counted, reported and guarded; over a real Postgres, and through the real service.

mod counts;
mod guard;
mod harness;
mod service;
