//! Connections of the queue. One whose call was given up is closed: its answer may come yet, or the
//! other side may have fallen silent for good.

use std::ops::{Deref, DerefMut};

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};

use super::QueueError;
use crate::database;

/// A connection for one call.
pub(crate) struct Connection {
    connection: PoolConnection<Postgres>,
    answered: bool,
}

impl Connection {
    pub(crate) async fn acquire(pool: &PgPool, action: &'static str) -> Result<Self, QueueError> {
        match pool.acquire().await {
            Ok(connection) => Ok(Self { connection, answered: false }),
            Err(error) => Err(QueueError::from_sqlx(action, &error)),
        }
    }

    /// The call came to its end: the connection goes back to the pool, unless another may do better. That
    /// to a server which takes no writes any more would be answered so for as long as it lasts.
    pub(crate) fn answered<T>(
        mut self,
        action: &'static str,
        answer: Result<T, sqlx::Error>,
    ) -> Result<T, QueueError> {
        self.answered = !answer.as_ref().is_err_and(database::is_transient);
        answer.map_err(|error| QueueError::from_sqlx(action, &error))
    }
}

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.answered {
            self.connection.close_on_drop();
        }
    }
}
