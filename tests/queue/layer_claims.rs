//! Who reads which layer, among processes that share a database.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clipwright::archive::{Claim, IndexOptions, LayerCache, LayerClaims, index_image};
use clipwright::jobs::queue::{Queue, Vault};
use clipwright::oci::{Credentials, ImageSource, OciSettings, Platform, Source};
use clipwright::progress::{Progress, Silent, Step};
use clipwright::store::{DirectoryStore, Key, ObjectStore};
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::harness::{Fixture, LEASE, within};
use crate::support::layout::{Blob, Layout, noise, tar};
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;

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

struct Waits(Notify);

impl Progress for Waits {
    fn step(&self, step: Step) {
        if matches!(step, Step::Waiting { .. }) {
            self.0.notify_one();
        }
    }
}

/// Waiting for a layer that another process reads is told of, lest it be taken for standing still.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_another_process_says_so() {
    let f = Fixture::new().await;
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let proxy = Proxy::start(&registry.address).await;
    let layer = Blob::gzip(&tar(&[("f", &noise(1, 3 << 20))]));
    registry.push(Layout::of(&[layer]).path(), "image");
    let store: Arc<dyn ObjectStore> =
        Arc::new(DirectoryStore::open(&dir.path().join("store")).await.unwrap());
    let index = |registry: String, progress: Arc<dyn Progress>| {
        let queue = Queue::new(f.database.pool().clone(), Vault::new([]));
        let cache = LayerCache::default()
            .with_store(store.clone())
            .with_claims(Arc::new(queue.layer_claims(LEASE)));
        tokio::spawn(async move {
            let options = IndexOptions { cache: Some(Arc::new(cache)), ..IndexOptions::default() };
            let (cancel, anonymous) = (CancellationToken::new(), Some(Credentials::Anonymous));
            let image: ImageSource = format!("{registry}/image:latest").parse().unwrap();
            let source = Source::open(&image, &OciSettings::default(), anonymous).await.unwrap();
            let image = source.resolve(&Platform::host(), &cancel).await.unwrap();
            index_image(&source, &image, &options, progress, &cancel).await.unwrap().cached.len()
        })
    };
    proxy.stall_after(1 << 20); // in the middle of the layer
    let first = index(proxy.address.to_string(), Arc::new(Silent));
    within(proxy.broke_something()).await;
    let waits = Arc::new(Waits(Notify::new()));
    let second = index(registry.address.clone(), waits.clone());
    within(waits.0.notified()).await;
    proxy.cut_open_connections();
    assert_eq!(within(first).await.unwrap(), 0);
    assert_eq!(within(second).await.unwrap(), 1, "what the first one learnt");
}

/// Somebody has every layer, and never comes to an end.
#[derive(Debug)]
struct Taken;

#[async_trait]
impl LayerClaims for Taken {
    async fn try_claim(&self, _key: &Key) -> Option<Claim> {
        None
    }

    fn freed(&self, _key: &Key) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

/// It may come drop by drop from a registry that means no good. The second one waits for the first besides.
#[tokio::test(start_paused = true)]
async fn nobody_is_waited_for_without_end() {
    let layout = Layout::of(&[Blob::file("f", b"x")]);
    let image: ImageSource = format!("oci:{}", layout.path().display()).parse().unwrap();
    let (cancel, platform) = (CancellationToken::new(), Platform::host());
    let source = Source::open(&image, &OciSettings::default(), None).await.unwrap();
    let image = source.resolve(&platform, &cancel).await.unwrap();
    let cache = LayerCache::default().with_claims(Arc::new(Taken));
    let options = IndexOptions { cache: Some(Arc::new(cache)), ..IndexOptions::default() };
    let index = || Box::pin(index_image(&source, &image, &options, Arc::new(Silent), &cancel));
    let started = Instant::now();
    let (one, other) = tokio::join!(index(), index());
    assert!(one.unwrap().cached.is_empty() && other.unwrap().cached.is_empty());
    let waited = started.elapsed();
    assert!((Duration::from_mins(2)..Duration::from_mins(3)).contains(&waited), "{waited:?}");
}
