//! A replica of the version before works on while a new one has brought the schema to its end: by the
//! statements that it would send, which `tests/fixtures/previous.json` holds
//! (`scripts/previous_statements.py` wrote it, of the version that landed last).

use std::path::Path;

use clipwright::database::{Database, DatabaseSettings, Migrations};
use clipwright::digest::Digest;
use clipwright::jobs::job::{JobSpec, JobState};
use clipwright::jobs::queue::{NewJob, Queue, Vault};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::migrate::Migrator;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Executor as _, PgPool, Postgres, Row as _, SqlSafeStr as _};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::queue::new_job;
use crate::support::postgres::TestDatabase;

#[derive(Deserialize)]
struct Previous {
    /// Number of its last migration.
    migrations: i64,
    statements: Vec<String>,
}

impl Previous {
    fn read() -> Self {
        serde_json::from_str(include_str!("fixtures/previous.json")).unwrap()
    }

    /// The statement that has these words.
    fn statement(&self, words: &str) -> Query<'_, Postgres, PgArguments> {
        let mut found = self.statements.iter().filter(|statement| statement.contains(words));
        let statement = found.next().unwrap_or_else(|| panic!("no statement has {words:?}"));
        assert!(found.next().is_none(), "several statements have {words:?}");
        sqlx::query(AssertSqlSafe(statement.clone()))
    }

    /// Brings an empty database to where that version had it.
    async fn migrate(&self, pool: &PgPool) {
        let mut migrator = Migrator::new(Path::new("migrations")).await.unwrap();
        migrator.migrations.to_mut().retain(|migration| migration.version <= self.migrations);
        migrator.run(pool).await.unwrap();
    }

    async fn submit(&self, pool: &PgPool, n: u64) -> Uuid {
        let (id, spec) = (Uuid::now_v7(), new_job(n).spec);
        let json = serde_json::to_value(&spec).unwrap();
        let digest = Digest::of(json.to_string().as_bytes());
        let nothing = || None::<String>;
        let submitted = self
            .statement("INSERT INTO job (id, workspace_id, kind, spec, spec_digest, spec_version,")
            .bind(id)
            .bind("default")
            .bind(spec.kind().as_str())
            .bind(json)
            .bind(digest.as_bytes().as_slice())
            .bind(JobSpec::VERSION)
            .bind(spec.image_id().as_str())
            .bind(0i16)
            .bind(nothing())
            .bind(86_400.0)
            .bind(3i32)
            .bind(nothing())
            .bind(nothing())
            .bind("")
            .bind(None::<f64>)
            .bind(Vec::<String>::new())
            .bind(Vec::<Vec<u8>>::new())
            .bind(Vec::<Vec<u8>>::new())
            .bind(digest.as_bytes().as_slice())
            .bind(spec.host())
            .bind(None::<Vec<u8>>)
            .bind(false)
            .bind(None::<Uuid>)
            .bind(nothing())
            .bind(nothing())
            .bind(None::<Vec<u8>>)
            .bind(None::<Vec<u8>>)
            .fetch_one(pool)
            .await
            .unwrap();
        submitted.get("id!")
    }

    /// The job and its fence.
    async fn claim(&self, pool: &PgPool) -> Option<(Uuid, i64)> {
        let claimed = self
            .statement("fence = nextval('job_fence')")
            .bind(vec!["pull".to_owned(), "migrate".to_owned()])
            .bind(false)
            .bind(JobSpec::VERSION)
            .bind(vec![String::new()])
            .bind("of the version before")
            .bind(600.0)
            .bind(i64::MAX)
            .fetch_optional(pool)
            .await
            .unwrap()?;
        Some((claimed.get("id!"), claimed.get("fence!")))
    }

    async fn finish(&self, pool: &PgPool, (job, fence): (Uuid, i64)) {
        let held = self
            .statement("AS ours (job_id, fence, lasts)")
            .bind(vec![job])
            .bind(vec![fence])
            .bind(vec![600.0])
            .fetch_all(pool);
        assert_eq!(held.await.unwrap().len(), 1);
        let told = self
            .statement("last_event < $3 AS is_new")
            .bind(job)
            .bind(fence)
            .bind(1i64)
            .bind(json!({"event": "warning", "data": {"message": "x"}}))
            .fetch_all(pool);
        assert_eq!(told.await.unwrap().len(), 1);
        let ended = self
            .statement("SET state = 'succeeded', reason = NULL")
            .bind(job)
            .bind(fence)
            .bind(json!({}))
            .fetch_all(pool);
        assert_eq!(ended.await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn every_statement_of_the_version_before_is_still_one() {
    let database = TestDatabase::create().await;
    let mut connection = database.pool().acquire().await.unwrap();
    let previous = Previous::read();
    assert!(previous.statements.len() > 30);
    for statement in previous.statements {
        let prepared = (&mut *connection).prepare(AssertSqlSafe(statement.clone()).into_sql_str());
        if let Err(error) = prepared.await {
            panic!("{error}: {statement}");
        }
    }
}

#[tokio::test]
async fn both_versions_do_each_others_jobs() {
    let previous = Previous::read();
    let empty = TestDatabase::empty().await;
    let old = empty.pool();
    previous.migrate(old).await;
    let (held, waiting) = (previous.submit(old, 1).await, previous.submit(old, 2).await);
    let claimed = previous.claim(old).await.unwrap();
    assert_eq!(claimed.0, held);

    // The new version comes, in the middle of it.
    let settings = DatabaseSettings::Url(SecretString::from(empty.url().to_owned()));
    let never = CancellationToken::new();
    let database = Database::start(&settings, Migrations::Apply, &never).await.unwrap();
    let queue = Queue::new(database.work_pool().clone(), Vault::new([]));
    previous.finish(old, claimed).await;
    let claim = async || crate::queue::claim(&queue, "w", false).await.unwrap();
    let lease = claim().await.unwrap();
    assert_eq!(lease.job.id, waiting);
    assert!(previous.claim(old).await.is_none());
    queue.release(&lease).await.unwrap();
    let claimed = previous.claim(old).await.unwrap();
    assert_eq!(claimed.0, waiting);
    assert!(claim().await.is_none());
    previous.finish(old, claimed).await;

    // Each takes what the other has accepted.
    let of_old = previous.submit(old, 3).await;
    let lease = claim().await.unwrap();
    assert_eq!(lease.job.id, of_old);
    let of_new = queue.submit(NewJob { ..new_job(4) }).await.unwrap().job.id;
    let claimed = previous.claim(old).await.unwrap();
    assert_eq!(claimed.0, of_new);
    previous.finish(old, claimed).await;
    queue.succeed(&lease, &crate::queue::result_for(&lease.job)).await.unwrap();
    for id in [held, waiting, of_old, of_new] {
        assert_eq!(queue.get(id).await.unwrap().unwrap().state, JobState::Succeeded);
    }
    let events: Vec<Value> =
        sqlx::query_scalar("SELECT body FROM job_event WHERE job_id = $1 ORDER BY seq")
            .bind(of_new)
            .fetch_all(old)
            .await
            .unwrap();
    assert_eq!(events.len(), 4);
    database.stop().await;
}
