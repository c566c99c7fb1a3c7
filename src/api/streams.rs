//! How many answers may be open at a time that take as long as somebody else does: event streams, contents of
//! files, waits for a job's end. Each has a connection and a place in memory, and asks the database now and
//! then. One client may not have all of them, nor all of them every connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;

use super::problem::ApiError;
use crate::workspace::WorkspaceId;
use crate::workspaces::{Access, Actor, Role};

/// Those of all clients. The other connections are for probes, and for all that is answered at once.
const ALL: usize = 768;
/// Those of one client.
const EACH: usize = 512;

/// Who is counted as one client: a workspace, however many tokens it has, or whoever acts for several.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Client {
    Workspace(WorkspaceId),
    Actor(Actor),
}

impl Client {
    fn of(access: &Access) -> Self {
        match access.role {
            Role::Workspace => Self::Workspace(access.workspace.clone()),
            Role::Admin | Role::Gateway => Self::Actor(access.actor),
        }
    }
}

/// The streams that are open.
#[derive(Debug, Clone, Default)]
pub(super) struct Streams(Arc<Mutex<HashMap<Client, usize>>>);

impl Streams {
    /// A place for one more stream; 503 if the client or all together have too many.
    pub(super) fn open(&self, access: &Access) -> Result<StreamPlace, ApiError> {
        let client = Client::of(access);
        let mut open = self.lock();
        let (all, own) = (open.values().sum::<usize>(), open.get(&client).copied().unwrap_or(0));
        if all >= ALL || own >= EACH {
            return Err(too_many_streams());
        }
        open.insert(client.clone(), own + 1);
        drop(open);
        Ok(StreamPlace { streams: self.clone(), client })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Client, usize>> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn too_many_streams() -> ApiError {
    let detail = "too many streams are open, or clients wait; try again later, or ask without following \
                  or waiting";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", detail)
        .with_header("retry-after", "5")
}

/// Held as long as a stream is open.
#[derive(Debug)]
pub(super) struct StreamPlace {
    streams: Streams,
    client: Client,
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        match open.get_mut(&self.client) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                open.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn gateway() -> Access {
        Access { role: Role::Gateway, ..Access::full(Actor::Token(Uuid::now_v7())) }
    }

    /// Somebody with another token of the workspace.
    fn of(workspace: &str) -> Access {
        Access { role: Role::Workspace, workspace: workspace.parse().unwrap(), ..gateway() }
    }

    #[test]
    fn nobody_has_them_all_and_places_come_back() {
        let streams = Streams::default();
        let [one, other] = [(); 2].map(|()| gateway());
        let mut held: Vec<_> = (0..EACH).map(|_| streams.open(&one).unwrap()).collect();
        assert!(streams.open(&one).is_err());
        held.extend((EACH..ALL).map(|_| streams.open(&other).unwrap()));
        assert!(streams.open(&other).is_err());
        assert!(streams.open(&Access::full(Actor::Operator)).is_err());
        held.truncate(1);
        assert!(streams.open(&one).is_ok());
        drop(held);
        assert!(streams.lock().is_empty());
    }

    #[test]
    fn more_tokens_are_no_more_places() {
        let streams = Streams::default();
        let _held: Vec<_> = (0..EACH).map(|_| streams.open(&of("one")).unwrap()).collect();
        assert!(streams.open(&of("one")).is_err());
        assert!(streams.open(&of("other")).is_ok() && streams.open(&gateway()).is_ok());
    }
}
