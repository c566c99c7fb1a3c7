//! Many pulls while everything fails: the service is killed, its database falls silent, the registry
//! breaks off and lies. Nothing is lost and nothing is done twice.
//!
//! `CLIPWRIGHT_SOAK` says how many pulls; `make soak` does 10,000.

use std::collections::{BTreeMap, BTreeSet};

use secrecy::SecretString;
use serde_json::Value;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::support::layout::{Blob, Layout, noise, tar};
use crate::support::postgres::TestDatabase;
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;
use crate::support::service::{Service, Settings};

/// Pulls unless told otherwise.
const PULLS: i64 = 80;
/// Faults in a long run; the jobs between two of them are as many in a short one as there is time for.
const FAULTS: i64 = 100;
const LEAST_BETWEEN: i64 = 12;

struct Counts {
    jobs: i64,
    done: i64,
}

async fn counts(database: &TestDatabase) -> Counts {
    let done = "SELECT count(*), count(finished_at) FROM job";
    let (jobs, done) = sqlx::query_as(done).fetch_one(database.pool()).await.unwrap();
    Counts { jobs, done }
}

async fn count(database: &TestDatabase, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(database.pool()).await.unwrap()
}

/// The address of a test's database behind a proxy, which listens on TCP.
fn behind(proxy: &Proxy, database: &TestDatabase) -> SecretString {
    let options = PgConnectOptions::clone(&database.pool().connect_options());
    let url = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(proxy.address.port())
        .username(options.get_username())
        .database(options.get_database().unwrap())
        .ssl_mode(PgSslMode::Disable)
        .to_url_lossy();
    SecretString::from(url.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pulls_while_everything_fails() {
    use secrecy::ExposeSecret as _;
    let pulls = std::env::var("CLIPWRIGHT_SOAK").map_or(PULLS, |pulls| pulls.parse().unwrap());
    let every = (pulls / FAULTS).max(LEAST_BETWEEN);
    let database = TestDatabase::create().await;
    let options = PgConnectOptions::clone(&database.pool().connect_options());
    let far = Proxy::to_socket(options.get_socket().unwrap().join(".s.PGSQL.5432")).await;
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::start(directory.path());
    let layer = Blob::gzip(&tar(&[("data", &noise(1, 200_000)), ("etc/hello", b"hello\n")]));
    registry.push(Layout::of(&[layer]).path(), "app");
    let front = Proxy::start(&registry.address).await;
    let settings = Settings::default()
        .env("DATABASE_URL", behind(&far, &database).expose_secret())
        .argument("lease-seconds", "2")
        .argument("layer-cache-mib", "0")
        .argument("layer-cache-in-store", "false")
        .argument("workers", "4");
    let mut service = Service::start(settings).await;

    let source = format!("{}/app:latest", front.address);
    let mut submitted = BTreeSet::new();
    for n in 0..pulls {
        submitted.insert(service.pull(&format!("{n:016x}"), &source).await);
    }
    let mut faults = BTreeMap::<&str, u32>::new();
    let mut next = every / 2;
    loop {
        let Counts { jobs, done } = counts(&database).await;
        if done == jobs {
            break;
        }
        if done < next {
            tokio::task::yield_now().await;
            continue;
        }
        next = done + every;
        let fault = ["kill -9", "database silent", "registry breaks off", "registry lies"]
            [usize::try_from(faults.values().sum::<u32>() % 4).unwrap()];
        *faults.entry(fault).or_default() += 1;
        match fault {
            "kill -9" => service.crash_and_restart().await,
            "database silent" => {
                far.fall_silent();
                // Until leases are in danger, and for good over the connections that were open.
                far.held_back(8).await;
                far.cut_off_old_connections();
                far.speak();
            }
            "registry breaks off" => front.cut_after(100_000),
            _ => front.garble_after(100_000),
        }
    }

    let ended = "SELECT state, count(*) FROM job GROUP BY state ORDER BY state";
    let ended: Vec<(String, i64)> = sqlx::query_as(ended).fetch_all(database.pool()).await.unwrap();
    let losses = count(&database, "SELECT sum(losses)::bigint FROM job").await;
    let attempts = count(&database, "SELECT sum(attempt)::bigint FROM job").await;
    println!(
        "{pulls} pulls, {attempts} attempts, {losses} lost; faults: {faults:?}; ended: {ended:?}"
    );

    // A lie is found out and the attempt ends; the job goes on unless it met a lie every time.
    for (state, _) in &ended {
        assert!(["succeeded", "failed"].contains(&state.as_str()), "{ended:?}");
    }
    // What a killed process was writing has no name of an archive, and is swept after a day.
    let stored = service.stored().into_iter().filter(|name| !name.starts_with(".tmp-"));
    let stored: BTreeSet<String> = stored.collect();
    let mut published = 0;
    for id in &submitted {
        let job = service.finished(id).await;
        let image = job["spec"]["image_id"].as_str().unwrap();
        match job["state"].as_str().unwrap() {
            "succeeded" => {
                published += 1;
                assert!(stored.contains(&format!("{image}.clip")), "{job}");
                assert_eq!(service.get(&format!("/v1/images/{image}")).await.0, 200);
            }
            // Whatever the changed byte was a part of: the registry is to blame, and says so.
            _ => assert_eq!(job["error"]["fault"], Value::from("upstream"), "{job}"),
        }
    }
    assert_eq!(stored.len(), published, "nothing else lies there: {stored:?}");
    let lies = faults.get("registry lies").map_or(0, |lies| *lies as usize);
    assert!(published + 2 * lies >= submitted.len(), "{ended:?}");
    assert_eq!(count(&database, "SELECT count(*) FROM live_job").await, 0);
    assert_eq!(
        count(&database, "SELECT count(*) FROM image").await,
        i64::try_from(published).unwrap()
    );
    let doubled = "SELECT count(*) FROM (SELECT job_id FROM job_event GROUP BY job_id
                   HAVING count(*) <> max(seq) OR count(*) FILTER (WHERE kind IN
                       ('succeeded', 'failed', 'cancelled', 'expired')) <> 1) AS odd";
    assert_eq!(count(&database, doubled).await, 0, "events without gaps, one final each");
}
