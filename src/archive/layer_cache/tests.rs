use std::fs::{self, File};
use std::io::Write as _;
use std::time::SystemTime;

use flate2::{Compression, write::GzEncoder};

use super::*;
use crate::layer::{Limits, NoContents, read_layer};
use crate::memory::MemoryAccount;
use crate::store::DirectoryStore;

struct Bench {
    dir: tempfile::TempDir,
    wanted: LayerRequest,
    index: Arc<LayerIndex>,
    cancel: CancellationToken,
}

impl Bench {
    fn new() -> Self {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        builder.append_data(&mut header, "a", &b"hello"[..]).unwrap();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&builder.into_inner().unwrap()).unwrap();
        let layer = encoder.finish().unwrap();
        let digest = Digest::of(&layer);
        let read = LayerRead { digest, limits: Limits::default(), span: Some(1) };
        let index =
            read_layer(read, &MemoryAccount::default(), &layer[..], &mut NoContents).unwrap();
        let wanted = LayerRequest { read, size: layer.len() as u64, diff_id: index.diff_id };
        let dir = tempfile::tempdir().unwrap();
        Self { dir, wanted, index: Arc::new(index), cancel: CancellationToken::new() }
    }

    async fn store(&self) -> Arc<dyn ObjectStore> {
        Arc::new(DirectoryStore::open(&self.dir.path().join("store")).await.unwrap())
    }

    /// A replica with a copy of its own, by the name of `local`.
    async fn replica(&self, local: &str) -> LayerCache {
        let directory = self.dir.path().join(local);
        LayerCache::default().with_local(directory, 1 << 20).with_store(self.store().await)
    }

    /// When it is back, the mark of its use stands in the store: a task of its own sets it, and ends
    /// with its share of the store.
    async fn get(&self, cache: &LayerCache) -> Option<LayerIndex> {
        let index = cache.get(&self.wanted, &self.cancel).await.unwrap();
        while Arc::strong_count(cache.store.as_ref().unwrap()) > 1 {
            tokio::task::yield_now().await;
        }
        index
    }

    async fn put(&self, cache: &LayerCache) {
        cache.put(&self.wanted, self.index.clone(), &self.cancel).await.unwrap();
    }

    fn stored(&self) -> PathBuf {
        self.dir.path().join("store").join(self.wanted.key().as_str())
    }
}

#[tokio::test]
async fn what_one_replica_learnt_another_knows_and_keeps() {
    let bench = Bench::new();
    let (one, two) = (bench.replica("one").await, bench.replica("two").await);
    assert_eq!(bench.get(&one).await, None);
    bench.put(&one).await;
    assert_eq!(bench.get(&two).await.as_ref(), Some(&*bench.index));
    fs::remove_file(bench.stored()).unwrap();
    assert_eq!(bench.get(&two).await.as_ref(), Some(&*bench.index), "from its own copy");
    assert_eq!(bench.get(&bench.replica("three").await).await, None);
}

#[tokio::test]
async fn what_does_not_fit_the_image_is_not_taken() {
    let bench = Bench::new();
    let cache = bench.replica("one").await;
    bench.put(&cache).await;
    for wanted in [
        LayerRequest { diff_id: Digest::of(b"another"), ..bench.wanted.clone() },
        LayerRequest { size: 1, ..bench.wanted.clone() },
        LayerRequest {
            read: LayerRead { span: None, ..bench.wanted.read },
            ..bench.wanted.clone()
        },
    ] {
        assert_eq!(cache.get(&wanted, &bench.cancel).await.unwrap(), None);
    }
    fs::write(bench.stored(), b"damaged").unwrap();
    let stranger = bench.replica("two").await;
    assert_eq!(bench.get(&stranger).await, None);
    bench.put(&stranger).await;
    assert_eq!(bench.get(&bench.replica("three").await).await.as_ref(), Some(&*bench.index));
}

#[tokio::test]
async fn use_is_marked_in_the_store_now_and_then() {
    let bench = Bench::new();
    bench.put(&bench.replica("one").await).await;
    let age = |hours| {
        let file = File::options().write(true).open(bench.stored()).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_hours(hours)).unwrap();
    };
    let marked = async |cache: &LayerCache| {
        assert!(bench.get(cache).await.is_some());
        let Ok(metadata) = fs::metadata(bench.stored()) else { return None };
        metadata.modified().unwrap().elapsed().ok()
    };
    let is_new = |age: Option<Duration>| age.unwrap() < Duration::from_hours(1);
    age(23);
    assert!(!is_new(marked(&bench.replica("one").await).await), "not every day twice");
    age(25);
    let cache = bench.replica("one").await;
    assert!(is_new(marked(&cache).await));
    age(25);
    assert!(!is_new(marked(&cache).await), "it knows that it did");
    // What somebody took away there, and was used here, is put there again.
    fs::remove_file(bench.stored()).unwrap();
    assert!(is_new(marked(&bench.replica("one").await).await));
}

#[tokio::test]
async fn what_a_reading_for_something_else_found_is_kept_once() {
    let bench = Bench::new();
    let cache = bench.replica("one").await;
    let keep = || cache.put_if_unknown(&bench.wanted, bench.index.clone(), &bench.cancel);
    keep().await.unwrap();
    assert_eq!(bench.get(&cache).await.as_ref(), Some(&*bench.index));
    let modified = || fs::metadata(bench.stored()).unwrap().modified().unwrap();
    let before = modified();
    keep().await.unwrap();
    assert_eq!(modified(), before);
}

#[tokio::test]
async fn a_cache_that_fails_is_as_good_as_none() {
    let bench = Bench::new();
    fs::write(bench.dir.path().join("occupied"), b"a file where a directory should be").unwrap();
    let cache = bench.replica("occupied").await;
    fs::remove_dir_all(bench.dir.path().join("store")).unwrap();
    fs::write(bench.dir.path().join("store"), b"here too").unwrap();
    bench.put(&cache).await;
    assert_eq!(bench.get(&cache).await, None);
}
