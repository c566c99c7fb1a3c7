//! Builds through the real binary: buildah, a registry, Postgres, and what is left on the machine.

mod export;
mod escapes;
mod failures;
mod harness;
mod life;
mod provenance;
mod limits;
mod network;
mod outage;
mod parallel;
mod secrets;
mod way;
