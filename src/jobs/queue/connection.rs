//! Connections of the queue. One whose call was given up is closed: its answer may come yet, or the
//! other side may have fallen silent for good.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tracing::Span;
use tracing::field::Empty;

use super::QueueError;
use crate::database;
use crate::error::Classify as _;
use crate::telemetry::metrics::database_answered;

/// How long a connection may take to return to its pool.
const RETURN_LIMIT: Duration = Duration::from_secs(5);

/// A connection for one call.
pub(crate) struct Connection {
    pooled: PoolConnection<Postgres>,
    answered: bool,
    call: Call,
}

/// A call, as it is measured.
struct Call {
    action: &'static str,
    started: Instant,
    span: Span,
    ended: bool,
}

impl Call {
    /// It belongs to the trace of whoever makes it; those that belong to none are not traced.
    fn begin(action: &'static str) -> Self {
        let span = if Span::current().is_none() {
            Span::none()
        } else {
            tracing::debug_span!(
                "database call",
                otel.kind = "client",
                otel.name = action,
                db.system.name = "postgresql",
                error.type = Empty,
            )
        };
        Self { action, started: Instant::now(), span, ended: false }
    }

    fn end(&mut self, outcome: &'static str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if outcome != "ok" {
            self.span.record("error.type", outcome);
        }
        database_answered(self.action, outcome, self.started.elapsed());
    }
}

impl Connection {
    pub(crate) async fn acquire(pool: &PgPool, action: &'static str) -> Result<Self, QueueError> {
        match pool.acquire().await {
            Ok(connection) => {
                Ok(Self { pooled: connection, answered: false, call: Call::begin(action) })
            }
            Err(error) => {
                let error = QueueError::from_sqlx(action, &error);
                Call::begin(action).end(error.code());
                Err(error)
            }
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
        let answer = answer.map_err(|error| QueueError::from_sqlx(action, &error));
        self.call.end(answer.as_ref().err().map_or("ok", |error| error.code()));
        answer
    }
}

impl Deref for Connection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.pooled
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.pooled
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Of one that ended nothing more is told.
        self.call.end("given_up");
        if !self.answered {
            self.pooled.close_on_drop();
        } else if let Ok(runtime) = Handle::try_current() {
            // As the driver would do it, but with an end: it asks the server whether it is there still,
            // and a connection whose server fell silent just then would be missing for minutes.
            runtime.spawn(timeout(RETURN_LIMIT, self.pooled.return_to_pool()));
        }
    }
}
