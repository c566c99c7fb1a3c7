//! Every capability against real servers. One crate, so that it links once; one file a capability.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on should panic")]
#![allow(clippy::cast_possible_truncation, reason = "test sizes are small")]
#![allow(clippy::panic, clippy::missing_panics_doc, reason = "it is a test")]

mod support;

mod admin;
mod api;
mod architecture;
mod artifacts;
mod beta9;
mod builds;
mod clients;
mod console;
mod database;
mod deployment;
mod docs;
mod docs_page;
mod export;
mod extract;
mod faults;
mod files;
mod gc;
mod gzip_encoders;
mod interop;
mod layer_cache;
mod merge;
mod migrate;
mod mount;
mod odd_images;
mod openapi;
mod pack;
mod push;
mod queue;
mod rollouts;
mod secrets;
mod service;
mod shutdown;
mod soak;
mod spans;
mod store;
mod tar_headers;
mod telemetry;
mod upgrade;
mod verify;
mod versions;
