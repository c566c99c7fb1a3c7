//! What of the floor `oci` a Dockerfile's reader needs.

mod platform;

pub use platform::Platform;
