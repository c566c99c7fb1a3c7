//! Clipwright: builds and pulls container images into CLIP archives.
//!
//! The modules form floors; a module may use those below it and never those above
//! (`docs/architecture.md` has the map):
//!
//! ```text
//! main -> cli -> api, beta9 -> jobs -> publish -> archive, mount -> content -> fetch
//!                               store                            -> layer, oci -> clip, gzip
//!                       database, telemetry, config: from jobs upward only
//! ```

/// HTTP: the router, one file per resource, problem+json, the docs page.
pub mod api;
/// Use cases: an image becomes an archive, which is what it should be.
pub mod archive;
/// beta9's words for what the service does.
pub mod beta9;
/// Dockerfile and context to image.
pub mod build;
/// The command line, one file per subcommand.
pub mod cli;
/// The archive format: header, index, storage info. No async, network, database or clock.
pub mod clip;
/// One `Config`: command line over environment over file over defaults.
pub mod config;
/// The bytes of files, wherever an archive says they live.
pub mod content;
/// The Postgres pool, its migrations, and the private server used when none is configured.
pub mod database;
/// `Digest`: the name of a sequence of bytes.
pub mod digest;
/// Which addresses may be reached where somebody else says whom to ask.
pub mod egress;
/// The error policy, stated once.
pub mod error;
/// Many of a kind: the first few are named, the rest counted.
mod examples;
/// How bytes of blobs come from where they are to the thread that wants them.
pub mod fetch;
/// Random access into gzip: inflating, checkpoints, spans. Knows only bytes.
pub mod gzip;
/// `ImageId`: the gateway's name of an image.
pub mod image_id;
/// The job, its queue, its worker pool and its events.
pub mod jobs;
/// One layer: tar scan to `LayerIndex`; many layers: merge by the OCI rules.
pub mod layer;
/// Files and threads of this machine, and how they fail.
pub mod local;
/// What all the work of a process may take of its memory together.
pub mod memory;
/// The lazy mount of archives.
pub mod mount;
/// References, credentials, platforms, registries and layout directories.
pub mod oci;
/// What is installed in an image.
pub mod packages;
/// How progress leaves the lower floors.
pub mod progress;
/// How an archive becomes public and stays right.
pub mod publish;
/// The one retry helper.
pub mod retry;
/// Rules that send a share of pulls to v2.
pub mod rollouts;
/// `ObjectStore`: where archives go.
pub mod store;
/// Tracing set-up.
pub mod telemetry;
/// What starts of an image touched.
pub mod trace;
/// `WorkspaceId`: a tenant's name.
pub mod workspace;
/// Tenants, their tokens, and the record of changes.
pub mod workspaces;
/// Files that are on the disk when they are done.
pub mod write_behind;
