//! The courier: takes webhooks that are due from the queue and sends them, each with the job as it ended.
//!
//! It goes where the egress policy lets it, follows no redirects, and waits for nobody for long: each place
//! that is free is filled at once, and a workspace has a few of them, so that a slow receiver holds up none
//! but those of its own. One that answers 2xx has taken it; else it is tried again, later each time, for a
//! day. It may come twice, with the same id.

use std::collections::HashMap;
use std::future::pending;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, header};
use serde_json::json;
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::queue::{DueDelivery, Queue, QueueError, Receipt};
use super::webhook::Webhook;
use crate::egress::{AddressRefused, Egress};

/// How long a receiver may take in all.
const LIMIT: Duration = Duration::from_secs(10);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How often to look for webhooks that are due.
const POLL: Duration = Duration::from_secs(1);

/// Sends webhooks.
#[derive(Debug, Clone)]
pub struct Courier {
    queue: Queue,
    http: Client,
    egress: Egress,
}

impl Courier {
    /// Delivers what is in the outbox of `queue`, to addresses that `egress` allows.
    pub fn new(queue: Queue, egress: Egress) -> Result<Self, reqwest::Error> {
        // Fails when a provider is installed already, which is just as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = egress
            .guard(Client::builder())
            .user_agent(concat!("clipwright/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_LIMIT)
            .timeout(LIMIT)
            .referer(false)
            .redirect(Policy::none())
            .build()?;
        Ok(Self { queue, http, egress })
    }

    /// Delivers until `shutdown`; what is under way then is tried again by whoever comes next.
    pub fn start(self, shutdown: CancellationToken) -> JoinHandle<()> {
        tokio::spawn(async move {
            shutdown.run_until_cancelled(self.deliver_all()).await;
        })
    }

    async fn deliver_all(&self) {
        let mut under_way = UnderWay::default();
        loop {
            if let Err(error) = self.fill(&mut under_way).await {
                tracing::warn!(%error, "no webhooks can be taken; trying on");
            }
            // Whichever comes first: a place that is free, or the time to look again.
            let _ = timeout(POLL, under_way.until_one_ends()).await;
        }
    }

    /// Tries some of what is due, all at once. How many there were.
    pub async fn deliver_due(&self) -> Result<usize, QueueError> {
        let mut under_way = UnderWay::default();
        self.fill(&mut under_way).await?;
        Ok(under_way.tasks.join_all().await.len())
    }

    /// Fills the places that are free with what is due.
    async fn fill(&self, under_way: &mut UnderWay) -> Result<(), QueueError> {
        let busy: Vec<_> = under_way.workspaces.values().cloned().collect();
        for delivery in self.queue.take_deliveries(&busy).await? {
            let courier = self.clone();
            let workspace = delivery.workspace.clone();
            let task = under_way.tasks.spawn(async move { courier.deliver(&delivery).await });
            under_way.workspaces.insert(task.id(), workspace);
        }
        Ok(())
    }

    async fn deliver(&self, delivery: &DueDelivery) {
        let settled = match self.send(delivery).await {
            Ok(receipt) => self.queue.settle_delivery(delivery, &receipt).await,
            Err(error) => Err(error),
        };
        if let Err(error) = settled {
            tracing::warn!(webhook = %delivery.id, %error, "what became of a webhook is not known");
        }
    }

    async fn send(&self, delivery: &DueDelivery) -> Result<Receipt, QueueError> {
        let refused = |why: &str| Receipt::Refused { status: None, why: why.to_owned() };
        let Some(webhook) = &delivery.webhook else {
            return Ok(refused("what was kept of it can't be read"));
        };
        let Some(job) = self.queue.get(delivery.job).await? else {
            return Ok(refused("its job is gone"));
        };
        let body = json!({"type": "job.finished", "id": delivery.id, "job": job}).to_string();
        Ok(self.post(delivery, webhook, body).await)
    }

    async fn post(&self, delivery: &DueDelivery, webhook: &Webhook, body: String) -> Receipt {
        if let Err(error) = self.egress.check(webhook.url()) {
            return Receipt::Refused { status: None, why: error.to_string() };
        }
        let mut request = self
            .http
            .post(webhook.url().clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header("clipwright-delivery", delivery.id.to_string());
        let now = chrono::Utc::now().timestamp();
        if let Some(signature) = webhook.signature(now, body.as_bytes()) {
            request = request.header("clipwright-signature", signature);
        }
        // The answer's body is nobody's business, and may have no end.
        match request.body(body).send().await {
            Ok(answer) => {
                let status = answer.status();
                if status.is_success() {
                    return Receipt::Taken { status: status.as_u16() };
                }
                let redirects = status.is_redirection();
                let why = if redirects { "; redirects are not followed" } else { "" };
                Receipt::Refused {
                    status: Some(status.as_u16()),
                    why: format!("the receiver answered {}{why}", status.as_u16()),
                }
            }
            Err(error) => Receipt::Refused { status: None, why: reason(&error) },
        }
    }
}

/// Deliveries that are under way; they end with it.
#[derive(Default)]
struct UnderWay {
    tasks: JoinSet<()>,
    /// Whose each of them is.
    workspaces: HashMap<Id, String>,
}

impl UnderWay {
    /// Waits until one ends, and clears away all that have ended; for ever if there is none.
    async fn until_one_ends(&mut self) {
        let Some(mut ended) = self.tasks.join_next_with_id().await else { return pending().await };
        loop {
            self.workspaces.remove(&id_of(ended));
            let Some(next) = self.tasks.try_join_next_with_id() else { return };
            ended = next;
        }
    }
}

/// Which task it was, however it ended: a panic is logged where it happens.
fn id_of(ended: Result<(Id, ()), JoinError>) -> Id {
    ended.map_or_else(|error| error.id(), |(id, ())| id)
}

/// Why no answer came. The address stays out of it, and so does which of several hidden hosts is there.
fn reason(error: &reqwest::Error) -> String {
    if let Some(refused) = AddressRefused::within(error) {
        refused.to_string()
    } else if error.is_timeout() {
        format!("the receiver did not answer within {} s", LIMIT.as_secs())
    } else if error.is_connect() {
        "the receiver could not be reached".to_owned()
    } else {
        "the receiver broke the connection".to_owned()
    }
}
