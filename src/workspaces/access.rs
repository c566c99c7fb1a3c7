//! Who asks, and what he may: a role says whose things are his, scopes say what he may do with them.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::workspace::WorkspaceId;

/// Whose things a token may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everybody's, and the service's own: workspaces, tokens, rollouts.
    Admin,
    /// Everybody's jobs and images: a gateway that acts for its tenants. Workspaces that it names come
    /// into being.
    Gateway,
    /// Those of one workspace.
    Workspace,
}

impl Role {
    /// As it stands in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Gateway => "gateway",
            Self::Workspace => "workspace",
        }
    }

    /// Of its name.
    pub fn of(name: &str) -> Option<Self> {
        [Self::Admin, Self::Gateway, Self::Workspace].into_iter().find(|r| r.as_str() == name)
    }

    /// The most that a token of this role may do.
    pub fn scopes(self) -> BTreeSet<Scope> {
        let all = Scope::ALL.into_iter();
        match self {
            Self::Admin => all.collect(),
            Self::Gateway | Self::Workspace => all.filter(|scope| !scope.is_for_admins()).collect(),
        }
    }
}

/// What a token may do.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
pub enum Scope {
    /// See jobs, their events and logs.
    #[serde(rename = "jobs:read")]
    JobsRead,
    /// Submit, cancel and retry jobs.
    #[serde(rename = "jobs:write")]
    JobsWrite,
    /// See images and their archives.
    #[serde(rename = "images:read")]
    ImagesRead,
    /// Delete images.
    #[serde(rename = "images:write")]
    ImagesWrite,
    /// Report how images started and what they touched, and see what others did. Of its own, so that what a
    /// worker holds is good for nothing else.
    #[serde(rename = "starts:write")]
    StartsWrite,
    /// See workspaces and what they set.
    #[serde(rename = "workspaces:read")]
    WorkspacesRead,
    /// Make workspaces and change what they set.
    #[serde(rename = "workspaces:write")]
    WorkspacesWrite,
    /// Make, show, rotate and revoke tokens.
    #[serde(rename = "tokens:write")]
    TokensWrite,
    /// See who changed what.
    #[serde(rename = "audit:read")]
    AuditRead,
    /// See rollouts and their reports.
    #[serde(rename = "rollouts:read")]
    RolloutsRead,
    /// Make, change and roll back rollouts.
    #[serde(rename = "rollouts:write")]
    RolloutsWrite,
}

impl Scope {
    /// All there are.
    pub const ALL: [Self; 11] = [
        Self::JobsRead,
        Self::JobsWrite,
        Self::ImagesRead,
        Self::ImagesWrite,
        Self::StartsWrite,
        Self::WorkspacesRead,
        Self::WorkspacesWrite,
        Self::TokensWrite,
        Self::AuditRead,
        Self::RolloutsRead,
        Self::RolloutsWrite,
    ];

    /// As it stands in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::JobsRead => "jobs:read",
            Self::JobsWrite => "jobs:write",
            Self::ImagesRead => "images:read",
            Self::ImagesWrite => "images:write",
            Self::StartsWrite => "starts:write",
            Self::WorkspacesRead => "workspaces:read",
            Self::WorkspacesWrite => "workspaces:write",
            Self::TokensWrite => "tokens:write",
            Self::AuditRead => "audit:read",
            Self::RolloutsRead => "rollouts:read",
            Self::RolloutsWrite => "rollouts:write",
        }
    }

    /// Of its name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }

    fn is_for_admins(self) -> bool {
        matches!(
            self,
            Self::WorkspacesWrite
                | Self::TokensWrite
                | Self::AuditRead
                | Self::RolloutsRead
                | Self::RolloutsWrite
        )
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Actor {
    /// A client on the machine of a service that has no token in its settings.
    Local,
    /// Who has the token of the service's settings.
    Operator,
    /// Who has this token.
    Token(Uuid),
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Operator => f.write_str("admin"),
            Self::Token(id) => id.fmt(f),
        }
    }
}

/// Who asks, and what he may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Who it is.
    pub actor: Actor,
    /// Whose things are his.
    pub role: Role,
    /// What he may do.
    pub scopes: BTreeSet<Scope>,
    /// The workspace that the request is about.
    pub workspace: WorkspaceId,
    /// How often he may ask, if that is said of him alone.
    pub requests_per_minute: Option<NonZeroU32>,
}

impl Access {
    /// Everything, in the default workspace.
    pub fn full(actor: Actor) -> Self {
        let (role, workspace) = (Role::Admin, WorkspaceId::default());
        Self { actor, role, scopes: role.scopes(), workspace, requests_per_minute: None }
    }

    /// Whether he may see what belongs to `workspace`.
    pub fn sees(&self, workspace: &WorkspaceId) -> bool {
        self.role != Role::Workspace || self.workspace == *workspace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for scope in Scope::ALL {
            assert_eq!(Scope::of(scope.as_str()), Some(scope));
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.as_str());
        }
        for role in [Role::Admin, Role::Gateway, Role::Workspace] {
            assert_eq!(Role::of(role.as_str()), Some(role));
            assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
        }
        assert_eq!((Scope::of("jobs"), Role::of("root")), (None, None));
    }

    #[test]
    fn only_admins_change_what_is_everybodys() {
        let everybodys =
            [Scope::WorkspacesWrite, Scope::TokensWrite, Scope::AuditRead, Scope::RolloutsWrite];
        for scope in everybodys {
            assert!(Role::Admin.scopes().contains(&scope));
            assert!(!Role::Gateway.scopes().contains(&scope));
            assert!(!Role::Workspace.scopes().contains(&scope));
        }
        let [own, other] = ["own", "other"].map(|id| id.parse::<WorkspaceId>().unwrap());
        let access = |role| Access { role, workspace: own.clone(), ..Access::full(Actor::Local) };
        assert!(access(Role::Gateway).sees(&other) && access(Role::Workspace).sees(&own));
        assert!(!access(Role::Workspace).sees(&other));
    }
}
