//! The floors that take bytes and a limits struct, compiled from the main package's sources (the
//! links beside this file): what is fuzzed is the code itself, built in a minute where the whole
//! package takes many. A floor that began to use one above it would no longer compile here.

pub mod build;
mod challenge;
pub mod clip;
pub mod digest;
pub mod error;
mod examples;
pub mod gzip;
pub mod layer;
pub mod local;
pub mod memory;
pub mod oci;
pub mod packages;
pub mod program;
pub mod trace;
pub mod write_behind;

/// The challenges in a `WWW-Authenticate` header: their schemes, and the names and values of their
/// parameters.
pub fn challenges(header: &str) -> Vec<(String, Vec<(String, String)>)> {
    let challenges = challenge::challenges(header).into_iter();
    challenges.map(|challenge| (challenge.scheme, challenge.parameters)).collect()
}
