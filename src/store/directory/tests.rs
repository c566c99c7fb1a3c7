use super::*;
use crate::store::{SAFE_AGE, sweep};

#[tokio::test]
async fn removes_old_leftovers_of_a_crash_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let [old, young, archive] =
        [".tmp-old", ".tmp-young", "a.clip"].map(|name| directory.path().join(name));
    for path in [&old, &young, &archive] {
        fs::write(path, b"x").unwrap();
    }
    let two_days_ago = SystemTime::now() - SAFE_AGE * 2;
    for path in [&old, &archive] {
        File::options().write(true).open(path).unwrap().set_modified(two_days_ago).unwrap();
    }
    let store = DirectoryStore::open(directory.path()).await.unwrap();
    assert!(old.exists(), "who only opens a store removes nothing");
    sweep(&store).await.unwrap();
    assert!(!old.exists());
    assert!(young.exists() && archive.exists());
}

#[tokio::test]
async fn a_file_where_the_directory_should_be_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("occupied");
    fs::write(&path, b"x").unwrap();
    let error = DirectoryStore::open(&path).await.unwrap_err().to_string();
    assert!(error.contains("open the store") && error.contains("occupied"), "{error}");
}
