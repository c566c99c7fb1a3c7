//! Tenants: workspaces and what they set, tokens and what these may do, and the record of who changed
//! what. It must not know HTTP, nor what jobs do.

use std::sync::Arc;

use sqlx::PgPool;
use tokio::sync::Semaphore;

use crate::jobs::queue::Vault;

/// Who asks, and what he may.
pub mod access;
/// The record of changes.
pub mod audit;
/// Why a tenant's thing could not be read or changed.
mod error;
/// The end of an image.
pub mod images;
/// The buckets of workspaces.
pub mod storage;
/// Bearer tokens.
pub mod token;
/// Workspaces and their settings.
pub mod workspace;

pub use access::{Access, Actor, Role, Scope};
pub use audit::{AuditEvent, Change};
pub use error::WorkspaceError;
pub use images::ImageEnd;
pub use storage::{NewStorage, Storage, StorageSecrets};
pub use token::{NewToken, Token, TokenSecret};
pub use workspace::{Workspace, WorkspaceSettings};

/// Everything about tenants that is in the database. Clones share the pool.
#[derive(Debug, Clone)]
pub struct Workspaces {
    pool: PgPool,
    vault: Vault,
    /// Places for those who delete images.
    deleting: Arc<Semaphore>,
}

impl Workspaces {
    /// Those in the database of `pool`, which must be migrated.
    pub fn new(pool: PgPool) -> Self {
        Self { pool, vault: Vault::new([]), deleting: Arc::new(Semaphore::new(images::DELETING)) }
    }

    /// With keys for the secrets of storages: without one there are none.
    #[must_use]
    pub fn with_vault(self, vault: Vault) -> Self {
        Self { vault, ..self }
    }
}
