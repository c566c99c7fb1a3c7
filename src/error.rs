//! The error policy, stated once.
//!
//! Below [`crate::api`] every module has its own error type made with `thiserror`. An error names
//! the thing, the place, what was expected and what was found, in one sentence that a user may
//! read: it never holds a credential. Through [`Classify`](crate::error::Classify) it says whether
//! trying again can help and whose fault it is; retries, job states and HTTP answers follow from
//! those two alone. `anyhow` appears only in `main` and `cli`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The request can't be served as it is: wrong reference, bad credentials, a broken image.
    User,
    /// A registry, store or database that we depend on misbehaved or could not be reached.
    Upstream,
    /// A defect or lack of resources on our side.
    Ours,
}

/// What every error of the lower floors can say of itself.
pub trait Classify: std::error::Error {
    /// Whether the same call may succeed later without anything being changed by the user.
    fn is_transient(&self) -> bool;
    /// Whose fault it is.
    fn fault(&self) -> Fault;
    /// A stable machine-readable code in `snake_case`, such as `image_not_found`.
    fn code(&self) -> &'static str;
    /// How long the other side asked to be left alone (`Retry-After`, RFC 9110 section 10.2.3).
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}
