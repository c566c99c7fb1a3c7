//! Builds through the real binary: buildah, a registry, Postgres, and what is left on the machine.

mod escapes;
mod export;
mod failures;
mod harness;
mod life;
mod limits;
mod network;
mod outage;
mod parallel;
mod provenance;
mod secrets;
mod sources;
mod way;
