//! Builds through the real binary: buildah, a registry, Postgres, and what is left on the machine.

mod export;
mod failures;
mod harness;
mod life;
mod provenance;
mod secrets;
mod way;
