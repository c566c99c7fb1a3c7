//! The floors that take bytes and a limits struct, compiled from the main package's sources (the
//! links beside this file): what is fuzzed is the code itself, built in a minute where the whole
//! package takes many. A floor that began to use one above it would no longer compile here.

pub mod clip;
pub mod digest;
pub mod error;
pub mod gzip;
pub mod layer;
pub mod write_behind;
