//! Being told that something may have happened. Within the process whoever waits is woken at once;
//! other processes are told by notifications, for which one connection listens. They only hurry:
//! whoever waits looks by itself after a while too, so that a lost connection loses nothing.
//!
//! Notifications are sent after the commit and together: a transaction that sends one takes a lock
//! that the whole cluster shares.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::connection::Connection;
use super::once;
use crate::retry::RetrySettings;

const CHANNEL: &str = "clipwright";
const TELL: &str = "wake other processes";
/// What happens within this time is told together.
const GATHER: Duration = Duration::from_millis(20);
/// More is not told one by one: everybody looks.
const MAX_TOLD: usize = 1000;
const LOOK_ANYWAY: Duration = Duration::from_secs(2);
/// So long may the connection be silent before it is asked whether it lives, and then before it is
/// given up.
const PING_AFTER: Duration = Duration::from_secs(15);
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const RECONNECT: RetrySettings =
    RetrySettings::endless(Duration::from_millis(500), Duration::from_secs(2));

/// What somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Topic {
    /// New events of a job.
    Job(Uuid),
    /// A running job is to be cancelled.
    Cancel(Uuid),
    /// A job to be claimed.
    Work,
    /// The claim of a layer.
    Layer(Arc<str>),
}

/// As it stands in a notification.
impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job(id) => write!(f, "job {id}"),
            Self::Cancel(id) => write!(f, "cancel {id}"),
            Self::Work => f.write_str("work"),
            Self::Layer(key) => write!(f, "layer {key}"),
        }
    }
}

impl Topic {
    /// `None` is what this version doesn't know, or everything.
    fn parse(text: &str) -> Option<Self> {
        match text.split_once(' ') {
            Some(("job", id)) => id.parse().ok().map(Self::Job),
            Some(("cancel", id)) => id.parse().ok().map(Self::Cancel),
            Some(("layer", key)) => Some(Self::Layer(key.into())),
            None if text == "work" => Some(Self::Work),
            _ => None,
        }
    }
}

/// Those who wait, and what is to be told to other processes.
#[derive(Debug, Default)]
struct Board {
    followers: HashMap<Topic, watch::Sender<()>>,
    untold: HashSet<Topic>,
}

/// The process's one exchange of wake-ups. It listens from when somebody first waits, and tells from
/// when there is first something to tell.
#[derive(Debug)]
pub(super) struct Hub {
    pool: PgPool,
    board: Arc<Shared>,
    listening: OnceLock<AbortOnDropHandle<()>>,
    telling: OnceLock<AbortOnDropHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    board: Mutex<Board>,
    untold: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Board> {
        // Nothing panics while it holds the lock, and what is inside is whole at any time.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, topic: &Topic) {
        if let Some(followers) = self.lock().followers.get(topic) {
            followers.send_replace(());
        }
    }

    /// Anything may have happened.
    fn wake_all(&self) {
        for followers in self.lock().followers.values() {
            followers.send_replace(());
        }
    }
}

impl Hub {
    pub(super) fn new(pool: PgPool) -> Arc<Self> {
        let (listening, telling) = (OnceLock::new(), OnceLock::new());
        Arc::new(Self { pool, board: Arc::default(), listening, telling })
    }

    /// Wakes whenever something may have happened about `topic`.
    pub(super) fn subscribe(&self, topic: Topic) -> Wakeups {
        let receiver = self.board.lock().followers.entry(topic.clone()).or_default().subscribe();
        self.listening.get_or_init(|| {
            let listening = listen(self.pool.clone(), self.board.clone());
            AbortOnDropHandle::new(tokio::spawn(listening))
        });
        Wakeups { receiver, topic, board: self.board.clone() }
    }

    /// Tells that something has happened and was committed.
    pub(super) fn tell(&self, topic: Topic) {
        self.board.wake(&topic);
        self.board.lock().untold.insert(topic);
        self.board.untold.notify_one();
        self.telling.get_or_init(|| {
            let telling = tell(self.pool.clone(), self.board.clone());
            AbortOnDropHandle::new(tokio::spawn(telling))
        });
    }
}

/// Tells other processes. What can't be told they find by looking.
async fn tell(pool: PgPool, board: Arc<Shared>) {
    while !pool.is_closed() {
        tokio::select! {
            () = board.untold.notified() => {}
            () = pool.close_event() => return,
        }
        sleep(GATHER).await;
        let topics = std::mem::take(&mut board.lock().untold);
        let payloads: Vec<_> = if topics.len() > MAX_TOLD {
            vec!["all".to_owned()]
        } else {
            topics.iter().map(ToString::to_string).collect()
        };
        let told = once(TELL, ANSWER_LIMIT, async {
            let mut db = Connection::acquire(&pool, TELL).await?;
            let told = sqlx::query!(
                "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload",
                CHANNEL,
                &payloads
            )
            .execute(&mut *db)
            .await;
            db.answered(TELL, told)
        });
        if let Err(error) = told.await {
            tracing::debug!(%error, "other processes were not woken");
        }
    }
}

async fn listen(pool: PgPool, board: Arc<Shared>) {
    let mut failures = 0;
    while !pool.is_closed() {
        if let Err(error) = listen_once(&pool, &board, &mut failures).await {
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
async fn listen_once(pool: &PgPool, board: &Shared, failures: &mut u32) -> Result<(), sqlx::Error> {
    let silent = || sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
    let mut listener = timeout(ANSWER_LIMIT, async {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok::<_, sqlx::Error>(listener)
    })
    .await
    .map_err(|_| silent())??;
    *failures = 0;
    // Nobody listened until now.
    board.wake_all();
    loop {
        let notification = match timeout(PING_AFTER, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => notification,
            Ok(lost) => return lost.map(drop),
            Err(_) => {
                let ping = sqlx::query("SELECT 1").execute(&mut listener);
                timeout(ANSWER_LIMIT, ping).await.map_err(|_| silent())??;
                continue;
            }
        };
        match Topic::parse(notification.payload()) {
            Some(topic) => board.wake(&topic),
            None => board.wake_all(),
        }
    }
}

/// Resolves whenever something may have happened about one topic. Take it first, then query, then
/// wait.
#[derive(Debug)]
pub struct Wakeups {
    receiver: watch::Receiver<()>,
    topic: Topic,
    board: Arc<Shared>,
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
        // The sender is on the board as long as we are here.
        if self.receiver.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What nobody follows any more leaves the board.
impl Drop for Wakeups {
    fn drop(&mut self) {
        let mut board = self.board.lock();
        // One is us.
        if board.followers.get(&self.topic).is_some_and(|sender| sender.receiver_count() <= 1) {
            board.followers.remove(&self.topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(board: &Arc<Shared>, topic: Topic) -> Wakeups {
        let receiver = board.lock().followers.entry(topic.clone()).or_default().subscribe();
        Wakeups { receiver, topic, board: board.clone() }
    }

    fn is_woken(wakes: &mut Wakeups) -> bool {
        let woken = wakes.receiver.has_changed().unwrap();
        wakes.receiver.mark_unchanged();
        woken
    }

    #[tokio::test]
    async fn each_is_woken_for_its_own_topic_alone() {
        let board = Arc::<Shared>::default();
        let (one, two) = (Uuid::now_v7(), Uuid::now_v7());
        let topics = [
            Topic::Job(one),
            Topic::Job(two),
            Topic::Cancel(one),
            Topic::Work,
            Topic::Layer("a b".into()),
        ];
        let mut all = topics.clone().map(|topic| follow(&board, topic));
        for (n, topic) in topics.iter().enumerate() {
            board.wake(&Topic::parse(&topic.to_string()).unwrap());
            for (m, wakes) in all.iter_mut().enumerate() {
                assert_eq!(is_woken(wakes), n == m, "{topic} wakes {}", wakes.topic);
            }
        }
        board.wake_all();
        for mut wakes in all {
            wakes.notified().await;
        }
        assert!(board.lock().followers.is_empty(), "nobody is left");
        for odd in ["all", "", "job", "job x", "news 1"] {
            assert_eq!(Topic::parse(odd), None, "{odd}");
        }
    }
}
