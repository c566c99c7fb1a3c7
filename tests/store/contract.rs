//! What every backend must do, whoever stands before it.

use std::time::Duration;

use clipwright::digest::Digest;
use clipwright::error::Classify as _;
use clipwright::oci::OciSettings;
use clipwright::store::{
    CommitReport, NewObject, Overwrite, Put, RegistrySettings, StoreError, StoreSettings,
};
use tokio_util::sync::CancellationToken;

use super::{Bench, MIB, key, noise, s3};
use crate::support::layout::{Blob, Layout};
use crate::support::registry::Registry;
use crate::support::s3::S3Server;

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

/// A repository of a registry, and where objects wait whose bytes are not known yet.
fn registry(registry: &Registry, scratch: &std::path::Path) -> StoreSettings {
    StoreSettings::Registry(RegistrySettings {
        host: registry.address.clone(),
        repository: "team/archives".to_owned(),
        credentials: None,
        oci: OciSettings::default(),
        scratch: scratch.to_owned(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_keeps_the_contract() {
    let (files, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Registry::start(files.path());
    let bench = Bench::open(registry(&server, scratch.path())).await;
    contract(&bench).await;
    assert!(std::fs::read_dir(scratch.path()).unwrap().next().is_none(), "nothing has a name");
    let uploads = server.repository("team/archives").join("_uploads");
    assert_eq!(std::fs::read_dir(uploads).map_or(0, Iterator::count), 0);
    let mut tags: Vec<String> =
        std::fs::read_dir(server.repository("team/archives/_manifests/tags"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
    tags.sort();
    let left = ["big-race.clip", "big.clip", "dir_-sub_-e.clip", "race.clip", "two.clip"];
    assert_eq!(tags, left);
}

/// Two processes see each other's objects, and what somebody else keeps under a tag is left alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_is_shared_with_others() {
    let (files, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Registry::start(files.path());
    let settings = registry(&server, scratch.path());
    let (one, other) = (Bench::open(settings.clone()).await, Bench::open(settings).await);
    one.put("a.clip", b"first", Overwrite::Never).await.unwrap();
    let seen = other.store.stat(&key("a.clip")).await.unwrap().map(|stat| stat.version);
    assert!(other.put("a.clip", b"other", Overwrite::Never).await.is_err());
    other.put("a.clip", b"second", Overwrite::only(seen.clone())).await.unwrap();
    assert!(one.put("a.clip", b"third", Overwrite::only(seen)).await.is_err());
    assert_eq!(one.content("a.clip").await.unwrap(), b"second");

    let image = Layout::of(&[Blob::file("x", b"x")]);
    server.push(image.path(), "team/archives");
    for overwrite in [Overwrite::Never, Overwrite::Replace] {
        let error = one.put("latest", b"mine", overwrite).await.unwrap_err();
        assert!(matches!(error, StoreError::Rejected { .. }), "{error}");
        assert!(error.to_string().contains("latest"), "{error}");
    }
    assert!(one.store.delete(&key("latest")).await.is_err());
    let listed = one.store.list("", "", 9).await.unwrap();
    assert_eq!(listed.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["a.clip"]);

    // A registry that is away, or lets nobody in.
    drop(server);
    assert!(one.store.check().await.unwrap_err().is_transient());
    let closed = Registry::with_password(files.path());
    let bench = Bench::open(registry(&closed, scratch.path())).await;
    let error = bench.put("b.clip", b"x", Overwrite::Never).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
}
