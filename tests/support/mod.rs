//! What several tests need: real servers, and images made by hand.

pub(crate) mod bench;
pub(crate) mod blob_server;
pub(crate) mod browser;
pub(crate) mod git;
pub(crate) mod layout;
pub(crate) mod namespaces;
pub(crate) mod pack;
pub(crate) mod postgres;
pub(crate) mod proxy;
pub(crate) mod registry;
pub(crate) mod s3;
pub(crate) mod service;
pub(crate) mod upstream;
pub(crate) mod v1;
