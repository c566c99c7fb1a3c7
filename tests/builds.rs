//! Builds through the real binary: buildah, a registry, Postgres, and what is left on the machine.

mod failures;
mod harness;
mod life;
mod secrets;
mod sources;
mod way;
