//! Being told that something may have happened. One connection listens for the whole process and
//! fans out; it only hurries: whoever waits looks by itself after a while too, so that a lost
//! connection loses nothing.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::broadcast;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::retry::RetrySettings;

/// The channels that the triggers in `migrations` notify.
const EVENT: &str = "job_event";
const CLAIMABLE: &str = "job_claimable";
const LAYER_FREED: &str = "layer_claim_freed";

/// Whoever is this far behind is woken once for all it missed.
const BACKLOG: usize = 256;
const LOOK_ANYWAY: Duration = Duration::from_secs(2);
const RECONNECT: RetrySettings =
    RetrySettings::endless(Duration::from_millis(500), Duration::from_secs(2));

/// What somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Topic {
    /// New events of a job.
    Job(Uuid),
    /// A job to be claimed.
    Work,
    /// The claim of a layer.
    Layer(Arc<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Wake {
    About(Topic),
    /// The connection was lost: anything may have happened meanwhile.
    Unknown,
}

/// The process's one listener, started when somebody first wants to be woken.
#[derive(Debug)]
pub(super) struct Hub {
    pool: PgPool,
    sender: broadcast::Sender<Wake>,
    task: OnceLock<AbortOnDropHandle<()>>,
}

impl Hub {
    pub(super) fn new(pool: PgPool) -> Arc<Self> {
        Arc::new(Self { pool, sender: broadcast::Sender::new(BACKLOG), task: OnceLock::new() })
    }

    /// Wakes whenever something may have happened about `topic`.
    pub(super) fn subscribe(&self, topic: Topic) -> Wakeups {
        let wakes = Wakeups { receiver: self.sender.subscribe(), topic };
        self.task.get_or_init(|| {
            let listening = listen(self.pool.clone(), self.sender.clone());
            AbortOnDropHandle::new(tokio::spawn(listening))
        });
        wakes
    }
}

async fn listen(pool: PgPool, sender: broadcast::Sender<Wake>) {
    let mut failures = 0;
    while !pool.is_closed() {
        if let Err(error) = listen_once(&pool, &sender, &mut failures).await {
            tracing::debug!(%error, "listening for notifications broke off; polling goes on");
        }
        failures += 1;
        tokio::select! {
            () = sleep(RECONNECT.delay(failures)) => {}
            () = pool.close_event() => {}
        }
    }
}

/// Passes notifications on until the connection is lost. Forgets the failures once there is one.
async fn listen_once(
    pool: &PgPool,
    sender: &broadcast::Sender<Wake>,
    failures: &mut u32,
) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.eager_reconnect(false);
    listener.listen_all([EVENT, CLAIMABLE, LAYER_FREED]).await?;
    *failures = 0;
    // Nobody listened until now. An error to send only says that nobody waits.
    let _ = sender.send(Wake::Unknown);
    while let Some(notification) = listener.try_recv().await? {
        let wake = match notification.channel() {
            EVENT => match notification.payload().parse() {
                Ok(job) => Wake::About(Topic::Job(job)),
                Err(_) => Wake::Unknown,
            },
            LAYER_FREED => Wake::About(Topic::Layer(notification.payload().into())),
            _ => Wake::About(Topic::Work),
        };
        let _ = sender.send(wake);
    }
    Ok(())
}

/// Resolves whenever a job may have new events. Take it first, then query, then wait.
#[derive(Debug)]
pub struct Wakeups {
    receiver: broadcast::Receiver<Wake>,
    topic: Topic,
}

impl Wakeups {
    /// Waits for a notification, or for two seconds. May resolve without reason; never misses one.
    /// Cancel-safe.
    pub async fn next(&mut self) {
        tokio::select! {
            () = self.notified() => {}
            () = sleep(LOOK_ANYWAY) => {}
        }
    }

    /// Waits for a notification alone.
    pub(in crate::jobs) async fn notified(&mut self) {
        loop {
            match self.receiver.recv().await {
                Ok(Wake::Unknown) | Err(broadcast::error::RecvError::Lagged(_)) => break,
                Ok(Wake::About(topic)) if topic == self.topic => break,
                Ok(Wake::About(_)) => {}
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
        // What else has come by now is answered by the same query.
        self.receiver = self.receiver.resubscribe();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wakes(sender: &broadcast::Sender<Wake>, topic: Topic) -> Wakeups {
        Wakeups { receiver: sender.subscribe(), topic }
    }

    #[tokio::test]
    async fn each_is_woken_for_its_own_job() {
        let sender = broadcast::Sender::new(BACKLOG);
        let (one, two) = (Uuid::now_v7(), Uuid::now_v7());
        let mut first = wakes(&sender, Topic::Job(one));
        let mut worker = wakes(&sender, Topic::Work);
        let mut reader = wakes(&sender, Topic::Layer("a".into()));
        sender.send(Wake::About(Topic::Job(two))).unwrap();
        sender.send(Wake::About(Topic::Layer("b".into()))).unwrap();
        sender.send(Wake::About(Topic::Work)).unwrap();
        worker.notified().await;
        assert!(futures_util::poll!(std::pin::pin!(reader.notified())).is_pending());
        sender.send(Wake::About(Topic::Layer("a".into()))).unwrap();
        reader.notified().await;
        assert!(futures_util::poll!(std::pin::pin!(first.notified())).is_pending());
        sender.send(Wake::About(Topic::Job(one))).unwrap();
        first.notified().await;
        sender.send(Wake::Unknown).unwrap();
        first.notified().await;
    }

    #[tokio::test]
    async fn whoever_fell_behind_is_woken_and_a_lost_listener_wakes_nobody() {
        let sender = broadcast::Sender::new(2);
        let mut late = wakes(&sender, Topic::Job(Uuid::now_v7()));
        for _ in 0..4 {
            sender.send(Wake::About(Topic::Work)).unwrap();
        }
        late.notified().await;
        drop(sender);
        assert!(futures_util::poll!(std::pin::pin!(late.notified())).is_pending());
    }
}
