//! Who reads which layer, among processes that share a database.

use std::time::Duration;

use clipwright::archive::LayerClaims as _;
use clipwright::jobs::queue::{Queue, Vault};
use clipwright::store::Key;

use super::harness::{Fixture, LEASE, within};

fn key(name: &str) -> Key {
    name.parse().unwrap()
}

#[tokio::test]
async fn one_holds_a_claim_and_the_others_are_woken_when_it_ends() {
    let f = Fixture::new().await;
    let other = Queue::new(f.database.pool().clone(), Vault::new([]));
    let (ours, theirs) = (f.queue.layer_claims(LEASE), other.layer_claims(LEASE));
    let held = ours.try_claim(&key("a")).await.unwrap();
    assert!(theirs.try_claim(&key("a")).await.is_none());
    assert!(ours.try_claim(&key("a")).await.is_none(), "not twice in one process either");
    assert!(theirs.try_claim(&key("b")).await.is_some(), "another layer is another matter");

    let freed = theirs.freed(&key("a"));
    drop(held);
    within(freed).await;
    // It may have been woken for nothing: freeing takes a moment.
    within(async {
        loop {
            let freed = theirs.freed(&key("a"));
            if theirs.try_claim(&key("a")).await.is_some() {
                break;
            }
            freed.await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_claim_of_the_dead_ends_and_they_cannot_touch_the_next() {
    let f = Fixture::new().await;
    let claims = f.queue.layer_claims(LEASE);
    let dead = claims.try_claim(&key("a")).await.unwrap();
    f.sql("UPDATE layer_claim SET expires_at = now()").await;
    let next = claims.try_claim(&key("a")).await.unwrap();
    let freed = claims.freed(&key("a"));
    drop(dead); // it was not dead after all, but late
    within(freed).await;
    assert!(claims.try_claim(&key("a")).await.is_none(), "the next one has it still");
    drop(next);
}

#[tokio::test]
async fn a_claim_is_kept_alive() {
    let f = Fixture::new().await;
    let claims = f.queue.layer_claims(Duration::from_millis(300));
    let _held = claims.try_claim(&key("a")).await.unwrap();
    f.sql("UPDATE layer_claim SET expires_at = 'epoch'").await;
    let alive = "SELECT count(*) FROM layer_claim WHERE expires_at > 'epoch'";
    within(async {
        loop {
            let count = sqlx::query_scalar(alive).fetch_one(f.database.pool());
            let count: i64 = count.await.unwrap();
            if count == 1 {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn without_a_database_everybody_reads() {
    let f = Fixture::new().await;
    let claims = f.queue.layer_claims(LEASE);
    let _held = claims.try_claim(&key("a")).await.unwrap();
    f.database.pool().close().await;
    assert!(claims.try_claim(&key("a")).await.is_some());
}
