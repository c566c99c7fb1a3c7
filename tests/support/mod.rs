//! What several tests need: real servers, and images made by hand.

pub(crate) mod layout;
pub(crate) mod registry;
pub(crate) mod s3;
pub(crate) mod upstream;
