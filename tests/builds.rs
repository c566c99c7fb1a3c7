//! Builds through the real binary: buildah, a registry, Postgres, and what is left on the machine.

mod escapes;
mod failures;
mod harness;
mod life;
mod limits;
mod network;
mod outage;
mod parallel;
mod secrets;
mod way;
