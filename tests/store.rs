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

/// What every backend must do.
async fn contract(bench: &Bench) {
    let store = &bench.store;
    store.check().await.unwrap();

    // Nothing is there at first, and deleting that is success.
    assert_eq!(store.size(&key("a.clip")).await.unwrap(), None);
    for len in [0, 1] {
        let error = store.read(&key("a.clip"), 0, len).await.unwrap_err();
        assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    }
    store.delete(&key("a.clip")).await.unwrap();

    // Write, look up, read at the ends and past them.
    assert_eq!(bench.put("a.clip", b"0123456789", Overwrite::Never).await.unwrap(), Put::Written);
    assert_eq!(store.size(&key("a.clip")).await.unwrap(), Some(10));
    for (offset, len, expected) in [
        (0, 10, &b"0123456789"[..]),
        (0, 1, b"0"),
        (9, 1, b"9"),
        (4, 3, b"456"),
        (8, 100, b"89"),
        (0, u64::MAX, b"0123456789"),
        (3, 0, b""),
        (10, 1, b""),
        (1 << 40, 5, b""),
        (u64::MAX, u64::MAX, b""),
    ] {
        let bytes = store.read(&key("a.clip"), offset, len).await.unwrap();
        assert_eq!(bytes, expected, "{len} bytes from {offset}");
    }

    // A taken key: the same content is success, other content a conflict that changes nothing.
    assert_eq!(bench.put("a.clip", b"0123456789", Overwrite::Never).await.unwrap(), Put::Unchanged);
    let error = bench.put("a.clip", b"other", Overwrite::Never).await.unwrap_err();
    match &error {
        StoreError::Conflict { expected, found, .. } => {
            assert_eq!((*expected, *found), (Digest::of(b"other"), Digest::of(b"0123456789")));
        }
        _ => panic!("{error}"),
    }
    assert!(!error.is_transient());
    assert_eq!(bench.content("a.clip").await.unwrap(), b"0123456789");
    assert_eq!(bench.put("a.clip", b"other", Overwrite::Replace).await.unwrap(), Put::Written);
    assert_eq!(bench.content("a.clip").await.unwrap(), b"other");

    // Empty objects, and keys with directories in them.
    assert_eq!(bench.put("dir/sub/e.clip", b"", Overwrite::Never).await.unwrap(), Put::Written);
    assert_eq!(bench.put("dir/sub/e.clip", b"", Overwrite::Never).await.unwrap(), Put::Unchanged);
    assert_eq!(bench.content("dir/sub/e.clip").await.unwrap(), b"");

    // A file that isn't what was announced, or isn't there, is not published.
    let (file, _) = bench.file(b"truth");
    let never = CancellationToken::new();
    let lie = Digest::of(b"lie");
    let put = store.put(&key("lie.clip"), &file, lie, Overwrite::Never, &never).await;
    assert!(matches!(put.unwrap_err(), StoreError::Mismatch { .. }));
    let gone = bench.files.path().join("gone");
    let error =
        store.put(&key("lie.clip"), &gone, lie, Overwrite::Never, &never).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Io { .. }) && error.to_string().contains("gone"),
        "{error}"
    );
    assert_eq!(bench.content("lie.clip").await, None);

    // A cancelled put leaves nothing.
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let (file, digest) = bench.file(&noise(12 * MIB, 7));
    let put = store.put(&key("c.clip"), &file, digest, Overwrite::Never, &cancelled).await;
    assert!(matches!(put.unwrap_err(), StoreError::Cancelled { .. }));
    assert_eq!(bench.content("c.clip").await, None);

    // Objects of several parts, whose length is no multiple of the part size, and of exactly two.
    for (name, len) in [("big.clip", 12 * MIB + 1), ("two.clip", 10 * MIB)] {
        let content = noise(len, 3);
        assert_eq!(bench.put(name, &content, Overwrite::Never).await.unwrap(), Put::Written);
        assert!(bench.content(name).await.unwrap() == content);
        assert_eq!(bench.put(name, &content, Overwrite::Never).await.unwrap(), Put::Unchanged);
        let other = bench.put(name, &noise(len, 4), Overwrite::Never).await;
        assert!(matches!(other.unwrap_err(), StoreError::Conflict { .. }));
        assert!(bench.content(name).await.unwrap() == content);
    }

    // Of concurrent writers exactly one wins, small or large.
    for (name, len) in [("race.clip", 1000), ("big-race.clip", 6 * MIB)] {
        one_wins(bench, name, len).await;
    }

    listing(bench).await;
    copying(bench).await;
    replacing_what_was_seen(bench).await;
    store.delete(&key("a.clip")).await.unwrap();
    assert_eq!(store.size(&key("a.clip")).await.unwrap(), None);
    made_on_the_way(bench).await;
    assert!(!store.touch(&key("a.clip"), Duration::ZERO).await.unwrap());
}

/// Objects whose bytes come piece by piece.
async fn made_on_the_way(bench: &Bench) {
    let store = &bench.store;
    for len in [0, 10, 5 * MIB, 10 * MIB, 12 * MIB + 1] {
        let content = noise(len, 5);
        let made = bench.make("made.clip", &content, Overwrite::Never).await.unwrap();
        assert_eq!(made, CommitReport::Written, "{len}");
        assert!(bench.content("made.clip").await.unwrap() == content, "{len}");
        let other = noise(len + 1, 6);
        let made = bench.make("made.clip", &other, Overwrite::Never).await.unwrap();
        assert_eq!(made, CommitReport::Taken, "{len}");
        assert!(bench.content("made.clip").await.unwrap() == content, "{len}");
        let made = bench.make("made.clip", &other, Overwrite::Replace).await.unwrap();
        assert_eq!(made, CommitReport::Written, "{len}");
        assert!(bench.content("made.clip").await.unwrap() == other, "{len}");
        store.delete(&key("made.clip")).await.unwrap();
    }
    // What is given up, forgotten or cancelled is not there.
    let cancel = CancellationToken::new();
    let begin = async || store.create(&key("made.clip"), &cancel).await.unwrap();
    assert!(begin().await.commit.abort().await.is_none());
    drop(begin().await);
    let NewObject { sink, commit } = begin().await;
    drop(sink);
    cancel.cancel();
    let error = commit.finish(b"", Overwrite::Replace).await.unwrap_err();
    assert!(matches!(error, StoreError::Cancelled { .. }), "{error}");
    assert_eq!(store.size(&key("made.clip")).await.unwrap(), None);
}

/// Objects are listed by prefix, with their sizes and times, and say when they were touched.
async fn listing(bench: &Bench) {
    let store = &bench.store;
    let list = async |prefix: &str| store.list(prefix, "", 100).await.unwrap();
    let names = async |prefix: &str, after: &str, limit| -> Vec<String> {
        let found = store.list(prefix, after, limit).await.unwrap();
        found.iter().map(|object| object.key.to_string()).collect()
    };
    for name in ["list/a-2", "list/a-1", "list/b/c", "list/z", "listed"] {
        bench.put(name, name.as_bytes(), Overwrite::Never).await.unwrap();
    }
    assert_eq!(names("list", "", 9).await, ["listed"]);
    assert_eq!(names("list/", "", 9).await, ["list/a-1", "list/a-2", "list/z"]);
    assert_eq!(names("list/", "", 2).await, ["list/a-1", "list/a-2"]);
    assert_eq!(names("list/", "list/a-2", 2).await, ["list/z"]);
    assert_eq!(names("list/a", "", 9).await, ["list/a-1", "list/a-2"]);
    assert_eq!(names("list/b/", "", 9).await, ["list/b/c"]);
    for nothing in ["list/c", "list/b/c/d", "no/such/place"] {
        assert!(names(nothing, "", 9).await.is_empty(), "{nothing}");
    }
    let before = list("listed").await.remove(0);
    assert_eq!(before.size, 6);
    assert!(before.modified.elapsed().unwrap_or_default() < Duration::from_hours(1));

    // Touched only if its time is older than that.
    assert!(store.touch(&key("listed"), Duration::from_hours(1)).await.unwrap());
    assert_eq!(list("listed").await, std::slice::from_ref(&before));
    while list("listed").await[0].modified <= before.modified {
        // Some servers count whole seconds.
        assert!(store.touch(&key("listed"), Duration::ZERO).await.unwrap());
    }
    assert_eq!(bench.content("listed").await.unwrap(), b"listed");
    assert_eq!(bench.put("listed", b"listed", Overwrite::Never).await.unwrap(), Put::Unchanged);
    for name in ["list/a-1", "list/a-2", "list/b/c", "list/z", "listed"] {
        store.delete(&key(name)).await.unwrap();
    }
    assert!(store.leftovers(Duration::ZERO).await.unwrap().is_empty());
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

/// A copy is whole, independent of what it was made from, and replaces only when told.
async fn copying(bench: &Bench) {
    let store = &bench.store;
    let (from, to) = (key("from.clip"), key("dir/copy.clip"));
    let (written, taken) = (CommitReport::Written, CommitReport::Taken);
    let error = store.copy(&from, &to, Overwrite::Replace).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    bench.put("from.clip", b"one", Overwrite::Replace).await.unwrap();
    for (way, report) in
        [(Overwrite::Never, written), (Overwrite::Never, taken), (Overwrite::Replace, written)]
    {
        assert_eq!(store.copy(&from, &to, way).await.unwrap(), report);
        assert_eq!(bench.content("dir/copy.clip").await.unwrap(), b"one");
    }
    bench.put("from.clip", b"two", Overwrite::Replace).await.unwrap();
    assert_eq!(bench.content("dir/copy.clip").await.unwrap(), b"one");
    store.copy(&from, &to, Overwrite::Never).await.unwrap();
    assert_eq!(bench.content("dir/copy.clip").await.unwrap(), b"one");
    store.copy(&from, &to, Overwrite::Replace).await.unwrap();
    assert_eq!(bench.content("dir/copy.clip").await.unwrap(), b"two");
    store.delete(&from).await.unwrap();
    assert_eq!(bench.content("dir/copy.clip").await.unwrap(), b"two");
    store.delete(&to).await.unwrap();
}

/// What was seen is replaced, and nothing else: not what came later, nor nothing.
async fn replacing_what_was_seen(bench: &Bench) {
    let store = &bench.store;
    let name = "seen.clip";
    let seen = async || Overwrite::only(store.stat(&key(name)).await.unwrap().map(|s| s.version));
    assert_eq!(seen().await, Overwrite::Never);
    bench.put(name, b"first", Overwrite::Never).await.unwrap();
    let first = seen().await;
    assert_eq!(seen().await, first, "it stays what it is");
    bench.put("from.clip", b"copied", Overwrite::Never).await.unwrap();
    let large = noise(6 * MIB, 21);

    assert_eq!(bench.put(name, &large, first.clone()).await.unwrap(), Put::Written);
    let second = seen().await;
    assert_ne!(second, first);
    for late in [b"late".to_vec(), noise(6 * MIB, 23)] {
        let error = bench.put(name, &late, first.clone()).await.unwrap_err();
        assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
        let made = bench.make(name, &late, first.clone()).await.unwrap();
        assert_eq!(made, CommitReport::Taken);
    }
    let copied = store.copy(&key("from.clip"), &key(name), first.clone()).await.unwrap();
    assert_eq!(copied, CommitReport::Taken);
    assert!(bench.content(name).await.unwrap() == large);
    // Whose answer was lost finds its own.
    assert_eq!(bench.put(name, &large, first.clone()).await.unwrap(), Put::Unchanged);

    assert_eq!(bench.make(name, b"third", second).await.unwrap(), CommitReport::Written);
    let third = seen().await;
    let copied = store.copy(&key("from.clip"), &key(name), third.clone()).await.unwrap();
    assert_eq!(copied, CommitReport::Written);
    assert_eq!(bench.content(name).await.unwrap(), b"copied");

    store.delete(&key(name)).await.unwrap();
    let error = bench.put(name, b"late", third.clone()).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    assert_eq!(bench.make(name, b"late", third).await.unwrap(), CommitReport::Taken);
    assert_eq!(bench.content(name).await, None, "what is gone stays gone");

    // Of those that saw the same exactly one replaces it.
    bench.put(name, b"first", Overwrite::Never).await.unwrap();
    let first = seen().await;
    let contents: Vec<_> = (0..4).map(|seed| noise(1000, 2 * seed + 31)).collect();
    let puts = contents.iter().map(|content| bench.put(name, content, first.clone()));
    let results = futures_util::future::join_all(puts).await;
    let won = results.iter().filter(|result| matches!(result, Ok(Put::Written))).count();
    assert_eq!(won, 1, "{results:?}");
    for name in [name, "from.clip"] {
        store.delete(&key(name)).await.unwrap();
    }
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

async fn one_wins(bench: &Bench, name: &str, len: usize) {
    let contents: Vec<_> = (0..4).map(|seed| noise(len, 2 * seed + 11)).collect();
    let puts = contents.iter().map(|content| bench.put(name, content, Overwrite::Never));
    let results = futures_util::future::join_all(puts).await;
    let winners: Vec<_> =
        (0..4).filter(|i| matches!(results[*i], Ok(Put::Written))).collect::<Vec<usize>>();
    assert_eq!(winners.len(), 1, "{results:?}");
    assert!(bench.content(name).await.unwrap() == contents[winners[0]]);
    for result in results.iter().filter_map(|result| result.as_ref().err()) {
        assert!(matches!(result, StoreError::Conflict { .. }), "{result}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directory_keeps_the_contract() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("made/by/open");
    let bench = Bench::open(StoreSettings::Directory(path.clone())).await;
    contract(&bench).await;

    let mut names: Vec<_> = std::fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let lock = names.remove(0);
    assert_eq!(lock, ".lock");
    assert_eq!(names, ["big-race.clip", "big.clip", "dir", "list", "race.clip", "two.clip"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_keeps_the_contract() {
    let server = S3Server::start().await;
    contract(&s3(&server).await).await;
    assert_eq!(server.pending_uploads(), 0);
    assert_eq!(
        server.objects(),
        ["big-race.clip", "big.clip", "dir", "list", "race.clip", "two.clip"]
    );
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
