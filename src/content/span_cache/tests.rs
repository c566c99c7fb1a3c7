use std::os::unix::fs::FileExt as _;
use std::sync::Barrier;
use std::time::SystemTime;

use super::*;

const MIB: u64 = 1 << 20;

fn key(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn content(cache: &SpanCache, name: &str, length: usize) -> Option<Vec<u8>> {
    let entry = cache.get(&key(name), length as u64)?;
    let mut bytes = vec![0; length];
    entry.read_exact_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

fn path(dir: &Path, name: &str) -> PathBuf {
    SpanCache::open(dir, MIB).0.path(&key(name))
}

#[test]
fn what_was_put_comes_back_in_every_process() {
    let dir = tempfile::tempdir().unwrap();
    let cache = SpanCache::open(dir.path(), MIB);
    assert!(content(&cache, "a", 5).is_none() && !cache.contains(&key("a")));
    assert!(cache.put(&key("a"), b"hello") && cache.put(&key("empty"), b""));
    for cache in [&cache, &SpanCache::open(dir.path(), MIB)] {
        assert_eq!(content(cache, "a", 5).unwrap(), b"hello");
        assert_eq!(content(cache, "empty", 0).unwrap(), b"");
        let entry = cache.get(&key("a"), 5).unwrap();
        let mut part = [0; 3];
        entry.read_exact_at(&mut part, 1).unwrap();
        assert_eq!(&part, b"ell");
        // The trailer is no content.
        assert!(entry.read_exact_at(&mut part, 3).is_err());
        assert!(entry.read_exact_at(&mut part, u64::MAX).is_err());
    }
    cache.remove(&key("a"));
    assert!(content(&cache, "a", 5).is_none());
}

/// What a power cut does to files that were renamed before their blocks were written.
#[test]
fn torn_and_stale_files_are_found_and_thrown_away() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = vec![7; 300_000];
    let harms: [fn(&File); 5] = [
        |file| file.set_len(0).unwrap(),
        |file| file.set_len(299_999).unwrap(),
        |file| file.write_all_at(&[0; 4096], 8192).unwrap(),
        |file| file.write_all_at(&[8], 299_999).unwrap(),
        |file| file.write_all_at(&[0; 56], 300_000).unwrap(),
    ];
    for (at, harm) in harms.into_iter().enumerate() {
        assert!(SpanCache::open(dir.path(), MIB).put(&key("a"), &bytes));
        let path = path(dir.path(), "a");
        harm(&File::options().write(true).open(&path).unwrap());
        let cache = SpanCache::open(dir.path(), MIB);
        assert!(content(&cache, "a", 300_000).is_none(), "harm {at}");
        assert!(!path.exists(), "harm {at}");
        assert!(cache.put(&key("a"), &bytes) && content(&cache, "a", 300_000).is_some());
    }
}

#[test]
fn another_entrys_file_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let cache = SpanCache::open(dir.path(), MIB);
    assert!(cache.put(&key("a"), b"aaaaa") && cache.put(&key("b"), b"bbbbb"));
    fs::copy(path(dir.path(), "b"), path(dir.path(), "a")).unwrap();
    assert!(content(&cache, "a", 5).is_none());
    // And what has another length than it should.
    assert!(content(&cache, "b", 4).is_none());
}

#[test]
fn the_least_recently_opened_go_and_what_is_open_stays() {
    let dir = tempfile::tempdir().unwrap();
    let cache = SpanCache::open(dir.path(), 10 * 100_000);
    let bytes = vec![1; 90_000];
    let past = SystemTime::now() - Duration::from_hours(1);
    for at in 0..10 {
        assert!(cache.put(&key(&at.to_string()), &bytes));
        let file = File::options().append(true).open(path(dir.path(), &at.to_string())).unwrap();
        file.set_modified(past + Duration::from_secs(at)).unwrap();
    }
    let held = SpanCache::open(dir.path(), MIB).get(&key("0"), 90_000).unwrap();
    drop(cache.get(&key("1"), 90_000).unwrap()); // was opened last
    for at in 10..14 {
        assert!(cache.put(&key(&at.to_string()), &bytes), "{at}");
    }
    let kept = |name: &str| cache.get(&key(name), 90_000).is_some();
    assert!(kept("0") && kept("1") && kept("13"));
    assert!(!kept("2") && !kept("3"));
    let used: u64 = eviction_size(dir.path());
    assert!(used <= 10 * 100_000, "{used}");
    drop(held);
}

fn eviction_size(dir: &Path) -> u64 {
    let directories = fs::read_dir(dir.join("v1/spans")).unwrap();
    directories
        .flat_map(|directory| fs::read_dir(directory.unwrap().path()).unwrap())
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum()
}

#[test]
fn a_cache_that_is_full_of_what_is_open_keeps_nothing_and_fails_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = SpanCache::open(dir.path(), 100_000);
    assert!(cache.put(&key("a"), &vec![1; 90_000]));
    let held = cache.get(&key("a"), 90_000).unwrap();
    assert!(!cache.put(&key("b"), &vec![1; 90_000]));
    assert!(!cache.put(&key("too large"), &vec![1; 200_000]));
    assert_eq!(content(&cache, "a", 90_000).unwrap(), vec![1; 90_000]);
    drop(held);
}

#[test]
fn a_directory_that_can_not_be_written_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    let cache = SpanCache::open(&file, MIB);
    assert!(!cache.put(&key("a"), b"a") && content(&cache, "a", 1).is_none());
}

#[test]
fn a_writer_that_failed_or_died_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = SpanCache::open(dir.path(), MIB);
    let failing = |out: &mut dyn io::Write| {
        out.write_all(b"half")?;
        Err(io::ErrorKind::Other.into())
    };
    assert!(!cache.put_with(&key("a"), 8, failing));
    assert_eq!(fs::read_dir(dir.path().join("v1/tmp")).unwrap().count(), 0);
    fs::write(dir.path().join("v1/tmp/orphan"), b"half").unwrap();
    let living = dir.path().join("v1/tmp/living");
    let lock = File::create(&living).unwrap();
    lock.lock().unwrap();
    drop(SpanCache::open(dir.path(), MIB));
    assert!(living.exists() && !dir.path().join("v1/tmp/orphan").exists());
}

#[test]
fn one_claims_and_the_others_wait() {
    let dir = tempfile::tempdir().unwrap();
    let [one, other] = [(); 2].map(|()| SpanCache::open(dir.path(), MIB));
    let claim = one.claim(&key("a")).unwrap();
    assert!(other.claim(&key("a")).is_none() && other.claim(&key("b")).is_some());
    // Those of the living are left alone.
    assert!(SpanCache::open(dir.path(), MIB).claim(&key("a")).is_none());
    drop(claim);
    assert!(other.claim(&key("a")).is_some());
    assert_eq!(fs::read_dir(dir.path().join("v1/claims")).unwrap().count(), 0);
    fs::write(dir.path().join("v1/claims/orphan"), b"").unwrap();
    drop(SpanCache::open(dir.path(), MIB));
    assert_eq!(fs::read_dir(dir.path().join("v1/claims")).unwrap().count(), 0);
}

/// Readers and writers of the same entries see whole ones or none, whatever is evicted meanwhile.
#[test]
fn many_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let barrier = Barrier::new(4);
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let (dir, barrier) = (dir.path(), &barrier);
            scope.spawn(move || {
                let cache = SpanCache::open(dir, 400_000);
                barrier.wait();
                for at in 0..200_usize {
                    let name = (at * 7 + usize::from(thread)) % 12;
                    let length = 50_000 + name;
                    let value = u8::try_from(name).unwrap();
                    if let Some(found) = content(&cache, &name.to_string(), length) {
                        assert!(found.iter().all(|byte| *byte == value));
                    } else {
                        cache.put(&key(&name.to_string()), &vec![value; length]);
                    }
                }
            });
        }
    });
    assert!(eviction_size(dir.path()) <= 400_000 + 4 * 60_000);
}
