//! The store contract: one suite over every backend, and the faults that only a server can have.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clipwright::digest::Digest;
use clipwright::error::{Classify, Fault};
use clipwright::store::{
    self, CommitReport, Failures, InterceptedStore, Key, NewObject, ObjectStore, Operation,
    Overwrite, Put, S3Settings, StoreError, StoreSettings,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::s3::S3Server;

mod contract;

const MIB: usize = 1 << 20;

/// A store, and local files to publish in it.
struct Bench {
    store: Arc<dyn ObjectStore>,
    files: TempDir,
}

impl Bench {
    async fn open(settings: StoreSettings) -> Self {
        let store = store::open(&settings).await.unwrap();
        // Whoever stands between must not be noticed.
        let nobody = Arc::new(Failures::new(Operation::Check, 0));
        let store = Arc::new(InterceptedStore::new(store, nobody));
        Self { store, files: tempfile::tempdir().unwrap() }
    }

    fn file(&self, content: &[u8]) -> (PathBuf, Digest) {
        let digest = Digest::of(content);
        let path = self.files.path().join(digest.hex());
        std::fs::write(&path, content).unwrap();
        (path, digest)
    }

    async fn put(&self, name: &str, content: &[u8], way: Overwrite) -> Result<Put, StoreError> {
        let (file, digest) = self.file(content);
        self.store.put(&key(name), &file, digest, way, &CancellationToken::new()).await
    }

    /// Makes an object piece by piece: the first bytes of `content` last.
    async fn make(
        &self,
        name: &str,
        content: &[u8],
        way: Overwrite,
    ) -> Result<CommitReport, StoreError> {
        let NewObject { mut sink, commit } =
            self.store.create(&key(name), &CancellationToken::new()).await?;
        let head = content[..content.len().min(54)].to_vec();
        let mut blank = vec![0; head.len()];
        blank.extend_from_slice(&content[head.len()..]);
        let write = move || {
            // Pieces that fit into no part's size.
            blank.chunks(700_001).try_for_each(|piece| sink.write_all(piece))?;
            sink.flush()
        };
        match tokio::task::spawn_blocking(write).await.unwrap() {
            Ok(()) => commit.finish(&head, way).await,
            Err(error) => Err(commit.abort().await.unwrap_or_else(|| panic!("{error}"))),
        }
    }

    async fn content(&self, name: &str) -> Option<Vec<u8>> {
        let size = self.store.size(&key(name)).await.unwrap()?;
        Some(self.store.read(&key(name), 0, size).await.unwrap().to_vec())
    }
}

fn key(name: &str) -> Key {
    name.parse().unwrap()
}

async fn s3(server: &S3Server) -> Bench {
    Bench::open(StoreSettings::S3(server.settings())).await
}

/// Not compressible into a pattern by chance: every 8 bytes differ.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&x.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

#[tokio::test]
async fn what_a_killed_upload_left_can_be_found_and_removed() {
    let server = S3Server::start().await;
    let bench = s3(&server).await;
    for name in ["0123456789abcdef.clip", "somebody/elses.bin"] {
        server.begin_upload(name).await;
    }
    assert!(bench.store.leftovers(Duration::from_hours(1)).await.unwrap().is_empty(), "too young");
    // Times are told in whole seconds: that of a moment ago may lie ahead of it.
    let found = loop {
        let found = bench.store.leftovers(Duration::ZERO).await.unwrap();
        if !found.is_empty() {
            break found;
        }
    };
    assert_eq!(found.len(), 1, "others' uploads are not ours to abort: {found:?}");
    assert_eq!(found[0].name, "0123456789abcdef.clip");
    assert_eq!(server.pending_uploads(), 2);
    bench.store.remove_leftover(&found[0]).await.unwrap();
    assert_eq!(server.pending_uploads(), 1);
}

/// A store that was told to fail does so as often as it was told, and leaves nothing.
#[tokio::test]
async fn a_store_fails_as_often_as_it_is_told() {
    let root = tempfile::tempdir().unwrap();
    let directory = StoreSettings::Directory(root.path().to_owned());
    let mut bench = Bench::open(directory).await;
    for operation in [Operation::Put, Operation::Finish] {
        let failures = Arc::new(Failures::new(operation, 2));
        let store = InterceptedStore::new(bench.store.clone(), failures.clone());
        let honest = std::mem::replace(&mut bench.store, Arc::new(store));
        for left in [1, 0] {
            let failed = match operation {
                Operation::Put => bench.put("a.clip", b"x", Overwrite::Never).await.map(drop),
                _ => bench.make("a.clip", b"x", Overwrite::Never).await.map(drop),
            };
            assert!(failed.unwrap_err().is_transient());
            assert_eq!(failures.left(), left);
            assert_eq!(bench.content("a.clip").await, None);
        }
        bench.make("a.clip", b"x", Overwrite::Never).await.unwrap();
        bench.store = honest;
        bench.store.delete(&key("a.clip")).await.unwrap();
    }
}

/// Whoever has a signed address reads the object without keys, for a while.
#[tokio::test]
async fn s3_signs_addresses() {
    let server = S3Server::start().await;
    let bench = s3(&server).await;
    bench.put("a.clip", b"0123456789", Overwrite::Never).await.unwrap();
    let signed = bench.store.presign(&key("a.clip"), Duration::from_mins(1)).await.unwrap();
    let signed = signed.unwrap();
    assert!(!signed.contains(&server.secret_key));
    let read = async |address: &str| reqwest::get(address).await.unwrap();
    let answer = read(&signed).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(&answer.bytes().await.unwrap()[..], b"0123456789");
    let unsigned = signed.split_once('?').unwrap().0;
    assert_eq!(read(unsigned).await.status(), 403);
}

#[tokio::test]
async fn a_failing_server_leaves_no_object_and_no_pending_upload() {
    let server = S3Server::start().await;
    let bench = s3(&server).await;
    server.faults.fail_parts_from.store(2, Ordering::SeqCst);
    let error = bench.put("a.rclip", &noise(12 * MIB, 5), Overwrite::Never).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(error.is_transient() && error.fault() == Fault::Upstream);
    assert!(error.to_string().contains("InternalError"), "{error}");
    assert_eq!((server.objects().len(), server.pending_uploads()), (0, 0));

    server.faults.fail_parts_from.store(0, Ordering::SeqCst);
    let put = bench.put("a.rclip", &noise(12 * MIB, 5), Overwrite::Never).await;
    assert_eq!(put.unwrap(), Put::Written);
}

#[tokio::test]
async fn cancelling_mid_upload_aborts_it() {
    let server = S3Server::start().await;
    let bench = s3(&server).await;
    server.faults.hold_parts_from.store(2, Ordering::SeqCst);
    let (file, digest) = bench.file(&noise(12 * MIB, 6));
    let cancel = CancellationToken::new();
    let key = key("a.rclip");
    let put = bench.store.put(&key, &file, digest, Overwrite::Never, &cancel);
    let (result, ()) = tokio::join!(put, async {
        server.faults.held.notified().await;
        cancel.cancel();
    });
    assert!(matches!(result.unwrap_err(), StoreError::Cancelled { .. }));
    assert_eq!((server.objects().len(), server.pending_uploads()), (0, 0));
}

#[tokio::test]
async fn dropping_a_put_aborts_its_upload() {
    let server = S3Server::start().await;
    let bench = s3(&server).await;
    server.faults.hold_parts_from.store(1, Ordering::SeqCst);
    let content = noise(12 * MIB, 8);
    tokio::select! {
        result = bench.put("a.rclip", &content, Overwrite::Never) => panic!("{result:?}"),
        () = server.faults.held.notified() => {}
    }
    server.faults.aborted.notified().await;
    assert_eq!((server.objects().len(), server.pending_uploads()), (0, 0));
}

#[tokio::test]
async fn content_that_others_wrote_is_compared_by_reading_it() {
    let server = S3Server::start().await;
    let bench = s3(&server).await;
    std::fs::write(server.object_path("a.rclip"), b"theirs").unwrap();
    assert_eq!(bench.put("a.rclip", b"theirs", Overwrite::Never).await.unwrap(), Put::Unchanged);
    let error = bench.put("a.rclip", b"ours", Overwrite::Never).await.unwrap_err();
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
}

#[tokio::test]
async fn s3_errors_name_the_cause_and_no_secret() {
    let server = S3Server::start().await;
    let open = async |change: fn(&mut S3Settings)| {
        let mut settings = server.settings();
        change(&mut settings);
        Bench::open(StoreSettings::S3(settings)).await
    };

    let bench = open(|s| s.keys = Some(("test-access".into(), "hunter2-secret".into()))).await;
    let error = bench.put("a.rclip", b"x", Overwrite::Never).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
    assert!(!format!("{error} {error:?} {:?}", bench.store).contains("hunter2"));
    assert!(bench.store.check().await.is_err());

    let bench = open(|s| s.bucket = "no-such-bucket".into()).await;
    let error = bench.store.check().await.unwrap_err();
    assert!(matches!(error, StoreError::Rejected { .. }), "{error}");
    assert!(error.to_string().contains("no-such-bucket"), "{error}");

    server.faults.down.store(true, Ordering::SeqCst);
    let bench = open(|_| ()).await;
    let error = bench.store.size(&key("a.rclip")).await.unwrap_err();
    assert!(error.is_transient(), "{error}");

    let bench = open(|s| s.endpoint = Some("http://127.0.0.1:1".into())).await;
    let error = bench.store.check().await.unwrap_err();
    assert!(error.is_transient(), "{error}");
}
