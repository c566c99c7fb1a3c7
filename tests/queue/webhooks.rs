//! Webhooks: whoever is to be told when a job ends is told, by a real receiver's account.

use std::time::Duration;

use clipwright::egress::Egress;
use clipwright::jobs::courier::Courier;
use clipwright::jobs::queue::{NewJob, Queue, Sharing, Vault};
use clipwright::jobs::reconcile::{Reconciler as _, Secrets, Webhooks};
use clipwright::jobs::webhook::{Delivery, DeliveryState, Webhook};
use clipwright::workspace::WorkspaceId;
use futures_util::future::join_all;
use secrecy::SecretString;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::harness::{Fixture, error, new_job, result_for, within};

/// A receiver that answers with these, one after the other, and then with the last for ever.
async fn receiver(answers: &[u16]) -> MockServer {
    let server = MockServer::start().await;
    let (last, first) = answers.split_last().unwrap();
    for answer in first {
        let once = ResponseTemplate::new(*answer).insert_header("location", "/elsewhere");
        Mock::given(method("POST"))
            .and(path("/hook"))
            .respond_with(once)
            .up_to_n_times(1)
            .mount(&server)
            .await;
    }
    let rest = ResponseTemplate::new(*last);
    Mock::given(method("POST")).and(path("/hook")).respond_with(rest).mount(&server).await;
    server
}

fn told(server: &MockServer, n: u64) -> NewJob {
    let url = format!("{}/hook?token=hunter2", server.uri());
    let webhook = Webhook::new(&url, Some(SecretString::from("hunter3"))).unwrap();
    NewJob { webhook: Some(webhook), sharing: Sharing::WithArchived, ..new_job(n) }
}

async fn deliver(f: &Fixture) -> usize {
    Courier::new(f.queue.clone(), Egress::Private).unwrap().deliver_due().await.unwrap()
}

async fn deliveries(f: &Fixture) -> Vec<Delivery> {
    f.queue.deliveries(&WorkspaceId::default(), None, None, 100).await.unwrap()
}

async fn received(server: &MockServer) -> Vec<Request> {
    server.received_requests().await.unwrap()
}

#[tokio::test]
async fn the_end_of_a_job_is_told_and_signed() {
    let f = Fixture::new().await;
    let server = receiver(&[204]).await;
    let job = f.queue.submit(told(&server, 1)).await.unwrap().job;
    assert_eq!(deliver(&f).await, 0);
    assert_eq!(deliveries(&f).await[0].state, "waiting");
    let lease = f.claim("w").await.unwrap();
    f.queue.fail(&lease, &error("x", true)).await.unwrap();
    assert_eq!(deliver(&f).await, 0, "it will be tried again");
    f.let_time_pass().await;
    let lease = f.claim("w").await.unwrap();
    f.queue.succeed(&lease, &result_for(&lease.job)).await.unwrap();
    assert_eq!(deliver(&f).await, 1);
    assert_eq!(deliver(&f).await, 0);

    let requests = received(&server).await;
    let [request] = requests.as_slice() else { panic!("{requests:?}") };
    assert_eq!(request.url.query(), Some("token=hunter2"));
    let header = |name: &str| request.headers[name].to_str().unwrap();
    let [delivery] = deliveries(&f).await.try_into().unwrap();
    assert_eq!(header("clipwright-delivery"), delivery.id.to_string());
    let signature = header("clipwright-signature");
    let seconds = signature.strip_prefix("t=").unwrap().split_once(',').unwrap().0;
    let webhook = told(&server, 1).webhook.unwrap();
    let expected = webhook.signature(seconds.parse().unwrap(), &request.body);
    assert_eq!(Some(signature), expected.as_deref());
    let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(
        (&body["type"], &body["id"]),
        (&"job.finished".into(), &delivery.id.to_string().into())
    );
    assert_eq!(body["job"], serde_json::to_value(f.get(job.id).await).unwrap());
    assert_eq!(body["job"]["state"], "succeeded");

    assert_eq!((delivery.state.as_str(), delivery.attempts), ("delivered", 1));
    assert_eq!((delivery.last_status, delivery.last_error.as_deref()), (Some(204), None));
    assert_eq!(delivery.url, format!("{}/...", server.uri()));
    // Nothing secret lies in the database in the clear.
    let rows: Vec<String> = sqlx::query_scalar("SELECT webhook::text FROM webhook")
        .fetch_all(f.database.pool())
        .await
        .unwrap();
    assert!(!rows.iter().any(|row| row.contains("hunter")));
}

#[tokio::test]
async fn however_a_job_ends() {
    let f = Fixture::new().await;
    let server = receiver(&[200]).await;
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(f.queue.submit(told(&server, n)).await.unwrap().job.id);
    }
    f.queue.cancel(ids[0]).await.unwrap();
    let lease = f.claim("w").await.unwrap();
    f.queue.fail(&lease, &error("x", false)).await.unwrap();
    f.sql("UPDATE live_job SET expires_at = now()").await;
    clipwright::jobs::reconcile::Expiry { queue: f.queue.clone() }.run().await.unwrap();
    assert_eq!(deliver(&f).await, 3);
    let state = |request: Request| {
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        body["job"]["state"].as_str().unwrap().to_owned()
    };
    let mut states: Vec<_> = received(&server).await.into_iter().map(state).collect();
    states.sort();
    assert_eq!(states, ["cancelled", "expired", "failed"]);
}

#[tokio::test]
async fn who_joins_a_job_is_told_as_well() {
    let f = Fixture::new().await;
    let server = receiver(&[200]).await;
    let first = f.queue.submit(told(&server, 1)).await.unwrap();
    let second = f.queue.submit(told(&server, 1)).await.unwrap();
    assert_eq!((second.job.id, second.existing), (first.job.id, true));
    let lease = f.claim("w").await.unwrap();
    f.queue.succeed(&lease, &result_for(&lease.job)).await.unwrap();
    assert_eq!(deliver(&f).await, 2);
    // Its archive is there already.
    let third = f.queue.submit(told(&server, 1)).await.unwrap();
    assert_eq!(third.job.id, first.job.id);
    assert_eq!(deliver(&f).await, 1);
    let mut ids: Vec<_> = deliveries(&f).await.into_iter().map(|delivery| delivery.id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

#[tokio::test]
async fn a_receiver_that_fails_is_told_again_and_given_up_after_a_day() {
    let f = Fixture::new().await;
    let server = receiver(&[503, 302, 200]).await;
    let id = f.queue.submit(told(&server, 1)).await.unwrap().job.id;
    f.queue.cancel(id).await.unwrap();
    let attempt = async || {
        f.sql("UPDATE webhook SET due_at = now()").await;
        assert_eq!(deliver(&f).await, 1);
        let delivery = deliveries(&f).await.remove(0);
        (delivery.state, delivery.attempts, delivery.last_status, delivery.last_error)
    };
    let (state, attempts, status, why) = attempt().await;
    assert_eq!((state.as_str(), attempts, status), ("due", 1, Some(503)));
    assert_eq!(why.as_deref(), Some("the receiver answered 503"));
    assert_eq!(deliver(&f).await, 0, "not at once");
    let (state, attempts, status, why) = attempt().await;
    assert_eq!((state.as_str(), attempts, status), ("due", 2, Some(302)));
    assert!(why.unwrap().contains("redirects are not followed"));
    let (state, attempts, ..) = attempt().await;
    assert_eq!((state.as_str(), attempts), ("delivered", 3));
    assert_eq!(received(&server).await.len(), 3, "nobody was asked elsewhere");

    let gone = receiver(&[410]).await;
    let id = f.queue.submit(told(&gone, 2)).await.unwrap().job.id;
    f.queue.cancel(id).await.unwrap();
    f.sql("UPDATE webhook SET due_since = now() - interval '25 hours'").await;
    let (state, ..) = attempt().await;
    assert_eq!(state, "given_up");
    assert_eq!(deliver(&f).await, 0);
    let given_up = deliveries(&f).await[0].id;
    let workspace = WorkspaceId::default();
    let state = f.queue.deliver_again(&workspace, given_up).await.unwrap().unwrap().state;
    assert_eq!(state, "due");
    assert_eq!(deliver(&f).await, 1);
    f.sql("INSERT INTO workspace (id) VALUES ('other')").await;
    let other = "other".parse().unwrap();
    assert!(f.queue.deliver_again(&other, given_up).await.unwrap().is_none());
    assert!(f.queue.deliveries(&other, None, None, 10).await.unwrap().is_empty());
    let due = f.queue.deliveries(&workspace, Some(DeliveryState::Due), None, 10).await.unwrap();
    assert_eq!(due.iter().map(|delivery| delivery.id).collect::<Vec<_>>(), [given_up]);
}

#[tokio::test]
async fn nobody_is_told_at_an_address_that_must_not_be_reached() {
    let f = Fixture::new().await;
    let server = receiver(&[200]).await;
    let named = server.uri().replace("127.0.0.1", "localhost");
    for (n, url) in [(1, server.uri()), (2, named)] {
        let webhook = Webhook::new(&format!("{url}/hook"), None).unwrap();
        let job =
            f.queue.submit(NewJob { webhook: Some(webhook), ..new_job(n) }).await.unwrap().job;
        f.queue.cancel(job.id).await.unwrap();
    }
    let courier = Courier::new(f.queue.clone(), Egress::Public).unwrap();
    assert_eq!(courier.deliver_due().await.unwrap(), 2);
    for delivery in deliveries(&f).await {
        let why = delivery.last_error.unwrap();
        assert!(why.contains("does not reach"), "{why}");
    }
    assert!(received(&server).await.is_empty());
}

#[tokio::test]
async fn a_workspace_with_many_holds_up_nobody_elses() {
    let f = Fixture::new().await;
    f.sql("INSERT INTO workspace (id) VALUES ('other')").await;
    let server = receiver(&[200]).await;
    for n in 0..20 {
        let id = f.queue.submit(told(&server, n)).await.unwrap().job.id;
        f.queue.cancel(id).await.unwrap();
    }
    let workspace: WorkspaceId = "other".parse().unwrap();
    let single = NewJob { workspace: workspace.clone(), ..told(&server, 99) };
    let id = f.queue.submit(single).await.unwrap().job.id;
    f.queue.cancel(id).await.unwrap();
    assert!(deliver(&f).await < 21);
    assert_eq!(f.queue.deliveries(&workspace, None, None, 9).await.unwrap()[0].state, "delivered");
}

#[tokio::test]
async fn secrets_of_a_former_key_get_the_present_one() {
    let f = Fixture::new().await;
    let key = |byte: &str| byte.repeat(32).parse().unwrap();
    let pool = f.database.pool();
    let server = receiver(&[200]).await;
    let secrets = [("registry".to_owned(), SecretString::from("u:hunter2"))].into();
    f.queue.submit(NewJob { secrets, ..told(&server, 1) }).await.unwrap();
    f.submit(2).await;

    let present = Queue::new(pool.clone(), Vault::new([key("cd")]));
    let both = Queue::new(pool.clone(), Vault::new([key("cd"), key("ab")]));
    let reseal = async |queue: &Queue| Secrets { queue: queue.clone() }.run().await.unwrap();
    assert_eq!(reseal(&f.queue).await, 0, "there is one key alone");
    assert_eq!(reseal(&present).await, 0, "what can't be read is left");
    assert_eq!(reseal(&both).await, 2);
    assert_eq!(reseal(&both).await, 0);
    assert!(present.unknown_keys().await.unwrap().is_empty());
    let lease = super::harness::claim(&present, "w", false).await.unwrap().unwrap();
    assert_eq!(lease.secrets.len(), 1);
    present.succeed(&lease, &result_for(&lease.job)).await.unwrap();
    let f = Fixture { queue: present, ..f };
    assert_eq!(deliver(&f).await, 1);
    assert_eq!(deliveries(&f).await[0].state, "delivered");
}

#[tokio::test]
async fn a_job_has_so_many_webhooks_and_no_more() {
    let f = Fixture::new().await;
    let server = receiver(&[200]).await;
    let id = f.queue.submit(told(&server, 1)).await.unwrap().job.id;
    let many = join_all((0..30).map(|_| f.queue.submit(told(&server, 1)))).await;
    assert_eq!(many.iter().filter(|submitted| submitted.is_ok()).count(), 19);
    let refused = many.into_iter().find_map(Result::err).unwrap().to_string();
    assert!(refused.contains("webhook"), "{refused}");
    let quiet = NewJob { webhook: None, ..told(&server, 1) };
    assert_eq!(f.queue.submit(quiet).await.unwrap().job.id, id);

    // Nor is it otherwise when the job has ended, until they are delivered.
    let lease = f.claim("w").await.unwrap();
    f.queue.succeed(&lease, &result_for(&lease.job)).await.unwrap();
    f.queue.submit(told(&server, 1)).await.unwrap_err();
    f.queue.submit(told(&server, 2)).await.unwrap();
    while deliver(&f).await > 0 {}
    assert_eq!(received(&server).await.len(), 20);
    assert_eq!(f.queue.submit(told(&server, 1)).await.unwrap().job.id, id);
    assert_eq!(deliver(&f).await, 1);
}

#[tokio::test]
async fn what_was_settled_long_ago_is_deleted() {
    let f = Fixture::new().await;
    let server = receiver(&[200]).await;
    let id = f.queue.submit(told(&server, 1)).await.unwrap().job.id;
    let lease = f.claim("w").await.unwrap();
    f.queue.succeed(&lease, &result_for(&lease.job)).await.unwrap();
    f.queue.submit(told(&server, 1)).await.unwrap();
    assert_eq!(deliver(&f).await, 2);
    f.queue.submit(told(&server, 2)).await.unwrap();
    let due = f.queue.submit(told(&server, 3)).await.unwrap().job.id;
    f.queue.cancel(due).await.unwrap();
    let webhooks = Webhooks { queue: f.queue.clone(), keep: Duration::from_hours(24) };
    assert_eq!(webhooks.run().await.unwrap(), 0);
    f.sql("UPDATE webhook SET due_at = due_at - interval '25 hours'").await;
    assert_eq!(webhooks.run().await.unwrap(), 2);
    let left: Vec<_> = deliveries(&f).await.into_iter().map(|delivery| delivery.state).collect();
    assert_eq!(left, ["due", "waiting"]);
    assert_eq!(f.get(id).await.id, id, "an image refers to it");
}

#[tokio::test]
async fn a_slow_receiver_holds_up_its_workspace_alone() {
    let f = Fixture::new().await;
    f.sql("INSERT INTO workspace (id) VALUES ('other')").await;
    let (slow, server) = (MockServer::start().await, receiver(&[200]).await);
    let late = ResponseTemplate::new(200).set_delay(Duration::from_mins(1));
    Mock::given(method("POST")).respond_with(late).mount(&slow).await;
    for n in 0..20 {
        let id = f.queue.submit(told(&slow, n)).await.unwrap().job.id;
        f.queue.cancel(id).await.unwrap();
    }
    let stop = CancellationToken::new();
    let courier = Courier::new(f.queue.clone(), Egress::Private).unwrap().start(stop.clone());
    let pause = || sleep(Duration::from_millis(20));
    let under_way = async || {
        let all = deliveries(&f).await.into_iter();
        all.filter(|delivery| delivery.attempts == 1 && delivery.last_error.is_none()).count()
    };
    within(async {
        while under_way().await < 8 {
            pause().await;
        }
    })
    .await;
    // It comes while these are waited for.
    let workspace: WorkspaceId = "other".parse().unwrap();
    let single = NewJob { workspace: workspace.clone(), ..told(&server, 99) };
    let id = f.queue.submit(single).await.unwrap().job.id;
    f.queue.cancel(id).await.unwrap();
    within(async {
        while f.queue.deliveries(&workspace, None, None, 9).await.unwrap()[0].state != "delivered" {
            pause().await;
        }
    })
    .await;
    assert_eq!(under_way().await, 8, "they are waited for yet, and no more of them were sent");
    stop.cancel();
    courier.await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_read_keeps_no_other_from_the_present_key() {
    let f = Fixture::new().await;
    let key = |byte: &str| byte.repeat(32).parse().unwrap();
    let server = receiver(&[200]).await;
    for n in 0..120 {
        f.queue.submit(told(&server, n)).await.unwrap();
    }
    // Sealed for another place, and the first of all.
    f.sql(
        "ALTER TABLE webhook DISABLE TRIGGER USER;
         INSERT INTO webhook (id, workspace_id, job_id, shown_url, key_id, nonce, ciphertext)
         SELECT lpad(n::text, 32, '0')::uuid, workspace_id, job_id, shown_url, key_id, nonce, ciphertext
         FROM (SELECT * FROM webhook LIMIT 1) AS one, generate_series(1, 300) AS n;
         ALTER TABLE webhook ENABLE TRIGGER USER",
    )
    .await;
    let both = Queue::new(f.database.pool().clone(), Vault::new([key("cd"), key("ab")]));
    let secrets = Secrets { queue: both };
    assert_eq!(secrets.run().await.unwrap(), 120);
    assert_eq!(secrets.run().await.unwrap(), 0);
}

#[tokio::test]
async fn a_webhook_whose_key_is_gone_is_named_and_given_up_after_a_day() {
    let f = Fixture::new().await;
    let server = receiver(&[200]).await;
    let vault = Vault::new(["cd".repeat(32).parse().unwrap()]);
    let present = Queue::new(f.database.pool().clone(), vault);
    let unknown = async || {
        let keys = present.unknown_keys().await.unwrap();
        keys.into_iter().map(|(_, jobs)| jobs).collect::<Vec<_>>()
    };
    let id = f.queue.submit(told(&server, 1)).await.unwrap().job.id;
    assert_eq!(unknown().await, [1]);
    f.queue.cancel(id).await.unwrap();
    assert_eq!(unknown().await, [1]);

    let put_right = async |queue: &Queue| {
        let keep = Duration::from_hours(24 * 30);
        Webhooks { queue: queue.clone(), keep }.run().await.unwrap()
    };
    assert_eq!(put_right(&present).await, 0, "somebody may have the key");
    f.sql("UPDATE webhook SET due_at = now() - interval '25 hours'").await;
    assert_eq!(put_right(&f.queue).await, 0, "here it is");
    assert_eq!(put_right(&present).await, 1);
    let delivery = deliveries(&f).await.remove(0);
    assert_eq!(delivery.state, "given_up");
    let why = delivery.last_error.unwrap();
    assert!(why.contains("has the key"), "{why}");
    assert!(unknown().await.is_empty());
}
