//! Bearer tokens: 256 random bits, shown once; what is kept is their SHA-256, which is of no use to
//! who reads it. (A slow hash protects words that people choose; nobody guesses these.)

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Access, Actor, Change, Role, Scope, WorkspaceError, Workspaces};
use crate::jobs::queue::{Connection, QueueError, patiently};
use crate::workspace::WorkspaceId;

/// What tokens begin with, so that who finds one knows what it is.
const PREFIX: &str = "cw_";
/// Random bytes in a token.
const BYTES: usize = 32;

/// The text of a token.
#[derive(Clone)]
pub struct TokenSecret(SecretString);

impl TokenSecret {
    /// A new one.
    pub fn random() -> Result<Self, WorkspaceError> {
        let mut bytes = [0; BYTES];
        let filled = OsRng.try_fill_bytes(&mut bytes);
        filled.map_err(|error| WorkspaceError::NoRandomness(error.to_string()))?;
        Ok(Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)).into()))
    }

    /// What a client presents, if it can be one: anything else is not looked up.
    pub fn presented(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
        (bytes.len() == BYTES).then(|| Self(text.to_owned().into()))
    }

    /// To be shown to who asked for it, once.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    fn hash(&self) -> Vec<u8> {
        Sha256::digest(self.0.expose_secret()).to_vec()
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(..)")
    }
}

/// A token that is asked for.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// What it is for, in words.
    pub name: String,
    /// Whose things it may touch.
    pub role: Role,
    /// Of role workspace: which.
    pub workspace: Option<WorkspaceId>,
    /// What it may do: no more than its role may.
    pub scopes: BTreeSet<Scope>,
    /// How long it lasts; for ever when absent.
    pub lasts: Option<Duration>,
    /// How often it may ask; as the service's settings say when absent.
    pub requests_per_minute: Option<NonZeroU32>,
}

/// A token, without its text.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Token {
    /// Names it.
    pub id: Uuid,
    /// What it is for, in words.
    pub name: String,
    /// Whose things it may touch.
    #[schema(value_type = Role)]
    pub role: String,
    /// Of role `workspace`: which.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<WorkspaceId>)]
    pub workspace: Option<String>,
    /// What it may do.
    #[schema(value_type = Vec<Scope>)]
    pub scopes: Vec<String>,
    /// How often it may ask; as the service's settings say when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub requests_per_minute: Option<i32>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<DateTime<Utc>>,
}

impl Workspaces {
    /// Makes a token. Its text is in the answer and nowhere else.
    pub async fn create_token(
        &self,
        new: &NewToken,
        change: &Change,
    ) -> Result<(Token, TokenSecret), WorkspaceError> {
        const ACTION: &str = "make a token";
        let (id, secret) = (Uuid::now_v7(), TokenSecret::random()?);
        let scopes: Vec<_> = new.scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
        let detail = json!({
            "name": new.name, "role": new.role, "scopes": scopes,
            "lasts_seconds": new.lasts.map(|lasts| lasts.as_secs()),
            "requests_per_minute": new.requests_per_minute,
        });
        let made = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let made = sqlx::query_as!(
                Token,
                r#"WITH made AS (
                       INSERT INTO api_token (id, hash, name, role, workspace_id, scopes, expires_at,
                                              requests_per_minute)
                       SELECT $1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7), $12
                       WHERE $5::text IS NULL OR EXISTS (SELECT FROM workspace WHERE id = $5)
                       ON CONFLICT (id) DO UPDATE SET name = excluded.name
                       RETURNING *),
                   noted AS (
                       INSERT INTO audit_event (id, actor, action, workspace_id, subject, detail,
                                                request_id)
                       SELECT $8, $9, 'token.create', workspace_id, id::text, $10, $11 FROM made
                       ON CONFLICT DO NOTHING)
                   SELECT id, name, role, workspace_id AS workspace, scopes,
                          requests_per_minute, created_at, expires_at, revoked_at
                   FROM made"#,
                id,
                secret.hash(),
                new.name,
                new.role.as_str(),
                new.workspace.as_ref().map(WorkspaceId::as_str),
                &scopes,
                new.lasts.map(|lasts| lasts.as_secs_f64()),
                change.id,
                change.actor,
                detail,
                change.request_id,
                new.requests_per_minute.map(|most| i32::try_from(most.get()).unwrap_or(i32::MAX)),
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(ACTION, made)
        });
        match (made.await?, &new.workspace) {
            (Some(made), _) => Ok((made, secret)),
            (None, workspace) => {
                Err(WorkspaceError::NoWorkspace(workspace.clone().unwrap_or_default()))
            }
        }
    }

    /// Gives a token another text; the old one is worth nothing from now on. `None`: there is no
    /// such token, or it was revoked.
    pub async fn rotate_token(
        &self,
        id: Uuid,
        change: &Change,
    ) -> Result<Option<(Token, TokenSecret)>, WorkspaceError> {
        const ACTION: &str = "rotate a token";
        let secret = TokenSecret::random()?;
        let rotated = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let rotated = sqlx::query_as!(
                Token,
                r#"WITH rotated AS (
                       UPDATE api_token SET hash = $2 WHERE id = $1 AND revoked_at IS NULL
                       RETURNING *),
                   noted AS (
                       INSERT INTO audit_event (id, actor, action, workspace_id, subject, request_id)
                       SELECT $3, $4, 'token.rotate', workspace_id, id::text, $5 FROM rotated
                       ON CONFLICT DO NOTHING)
                   SELECT id, name, role, workspace_id AS workspace, scopes,
                          requests_per_minute, created_at, expires_at, revoked_at
                   FROM rotated"#,
                id,
                secret.hash(),
                change.id,
                change.actor,
                change.request_id,
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(ACTION, rotated)
        });
        Ok(rotated.await?.map(|token| (token, secret)))
    }

    /// Ends a token, from the next request on. `None`: there is no such token.
    pub async fn revoke_token(
        &self,
        id: Uuid,
        change: &Change,
    ) -> Result<Option<Token>, QueueError> {
        const ACTION: &str = "revoke a token";
        patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let revoked = sqlx::query_as!(
                Token,
                r#"WITH revoked AS (
                       UPDATE api_token SET revoked_at = coalesce(revoked_at, now()) WHERE id = $1
                       RETURNING *),
                   noted AS (
                       INSERT INTO audit_event (id, actor, action, workspace_id, subject, request_id)
                       SELECT $2, $3, 'token.revoke', workspace_id, id::text, $4 FROM revoked
                       ON CONFLICT DO NOTHING)
                   SELECT id, name, role, workspace_id AS workspace, scopes,
                          requests_per_minute, created_at, expires_at, revoked_at
                   FROM revoked"#,
                id,
                change.id,
                change.actor,
                change.request_id,
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(ACTION, revoked)
        })
        .await
    }

    /// Tokens, the newest first, older than `before`, at most `limit`.
    pub async fn tokens(&self, before: Option<Uuid>, limit: i64) -> Result<Vec<Token>, QueueError> {
        const ACTION: &str = "list tokens";
        patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let tokens = sqlx::query_as!(
                Token,
                "SELECT id, name, role, workspace_id AS workspace, scopes,
                        requests_per_minute, created_at, expires_at, revoked_at
                 FROM api_token WHERE id < $1 ORDER BY id DESC LIMIT $2",
                before.unwrap_or(Uuid::max()),
                limit
            )
            .fetch_all(&mut *db)
            .await;
            db.answered(ACTION, tokens)
        })
        .await
    }

    /// Who has this text, if it is good now. Roles and scopes of later versions count for nothing.
    pub async fn authenticate(&self, secret: &TokenSecret) -> Result<Option<Access>, QueueError> {
        const ACTION: &str = "look up a token";
        let hash = secret.hash();
        let found = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let found = sqlx::query!(
                "SELECT id, role, workspace_id, scopes, requests_per_minute FROM api_token
                 WHERE hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())",
                hash
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(ACTION, found)
        });
        let Some(found) = found.await? else { return Ok(None) };
        let Some(role) = Role::of(&found.role) else { return Ok(None) };
        let workspace = match found.workspace_id {
            Some(id) => match id.parse() {
                Ok(workspace) => workspace,
                Err(_) => return Ok(None),
            },
            None => WorkspaceId::default(),
        };
        let may = role.scopes();
        let scopes = found.scopes.iter().filter_map(|name| Scope::of(name));
        let scopes = scopes.filter(|scope| may.contains(scope)).collect();
        let rate = found.requests_per_minute.and_then(|most| u32::try_from(most).ok());
        let requests_per_minute = rate.and_then(NonZeroU32::new);
        let actor = Actor::Token(found.id);
        Ok(Some(Access { actor, role, scopes, workspace, requests_per_minute }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_differ_and_do_not_print() {
        let [one, other] = [(); 2].map(|()| TokenSecret::random().unwrap());
        assert_ne!(one.expose(), other.expose());
        assert_eq!(one.expose().len(), PREFIX.len() + 43);
        assert!(!format!("{one:?}").contains(&one.expose()[3..]));
        let presented = TokenSecret::presented(one.expose()).unwrap();
        assert_eq!(presented.hash(), one.hash());
        for none in
            ["", "cw_", "cw_short", "s3cret", &one.expose()[3..], &format!("{}x", one.expose())]
        {
            assert!(TokenSecret::presented(none).is_none(), "{none}");
        }
    }
}
