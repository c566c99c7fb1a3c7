//! When blobs may be asked for: whoever opens a [source](crate::oci::Source) may say, and is told
//! what came of it.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use crate::oci::error::OciError;

/// Says when a connection may be used.
#[async_trait]
pub trait Gate: Debug + Send + Sync {
    /// Waits until one may be. It is in use until what is given is dropped.
    async fn admit(self: Arc<Self>) -> Box<dyn Admission>;
}

/// The use of one connection.
pub trait Admission: Send + Sync {
    /// So many bytes of a blob came over it.
    fn received(&self, bytes: usize);

    /// What was asked for did not come.
    fn failed(&self, error: &OciError);
}

/// Lets everybody in.
#[derive(Debug)]
pub(super) struct Open;

#[async_trait]
impl Gate for Open {
    async fn admit(self: Arc<Self>) -> Box<dyn Admission> {
        Box::new(Open)
    }
}

impl Admission for Open {
    fn received(&self, _bytes: usize) {}

    fn failed(&self, _error: &OciError) {}
}
