//! Rollouts over a database of their own, and jobs and images as a service leaves them there.

#![allow(clippy::cast_sign_loss, reason = "versions are 1 and 2")]

use clipwright::archive::ClipVersion;
use clipwright::jobs::reconcile::Reconciler as _;
use clipwright::rollouts::{
    Guard, NewRollout, NewStart, Report, Rollout, RolloutChanges, RolloutState, Rollouts,
    StartOutcome, Sticky, Tally, Temperature, Tidy, Window,
};
use clipwright::workspaces::{Access, Actor, Change};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::postgres::TestDatabase;

pub(crate) struct Fixture {
    pub(crate) database: TestDatabase,
    pub(crate) rollouts: Rollouts,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let database = TestDatabase::create().await;
        let rollouts = Rollouts::new(database.pool().clone());
        Self { database, rollouts }
    }

    pub(crate) fn pool(&self) -> &PgPool {
        self.database.pool()
    }

    pub(crate) async fn rollout(&self, name: &str, guard: f64) -> Rollout {
        let new = NewRollout {
            name: name.to_owned(),
            percent: 50.0,
            salt: name.to_owned(),
            sticky: Sticky::Image,
            workspaces: None,
            kinds: None,
            sources: None,
            guard,
        };
        self.rollouts.create(&new, &change()).await.unwrap()
    }

    pub(crate) async fn becomes(&self, name: &str, state: RolloutState) {
        let changes = RolloutChanges { state: Some(state), ..RolloutChanges::default() };
        self.rollouts.change(name, &changes, &change()).await.unwrap().unwrap();
    }

    /// A job of this rollout about image `n`, that ended so.
    pub(crate) async fn job(&self, rollout: &str, n: u64, arm: i16, ended: &Ended) -> Uuid {
        let (state, result, error) = match ended {
            Ended::Succeeded { produced, seconds, size } => {
                let result = json!({
                    "seconds": seconds, "archive": { "size": size },
                    "version": { "decided": arm, "produced": produced },
                });
                ("succeeded", Some(result), None)
            }
            Ended::Failed { fault, code } => {
                ("failed", None, Some(json!({ "fault": fault, "code": code })))
            }
            Ended::Cancelled => ("cancelled", None, None),
        };
        let id = Uuid::now_v7();
        sqlx::query(
            "WITH job AS (
                 INSERT INTO job (id, workspace_id, kind, spec_version, spec, spec_digest, image_id,
                                  priority, state, max_attempts, finished_at, result, error)
                 VALUES ($1, 'default', 'pull', 1, '{}', decode(repeat('00', 32), 'hex'), $2, 0, $3, 3,
                         now(), $4, $5)
                 RETURNING id),
             image AS (
                 INSERT INTO image (workspace_id, image_id, job_id)
                 SELECT 'default', $2, id FROM job WHERE $3 = 'succeeded'
                 ON CONFLICT (workspace_id, image_id) DO UPDATE SET job_id = excluded.job_id)
             INSERT INTO rollout_trial (job_id, rollout_id, arm)
             SELECT job.id, rollout.id, $6 FROM job, rollout WHERE rollout.name = $7",
        )
        .bind(id)
        .bind(image(n))
        .bind(state)
        .bind(result)
        .bind(error)
        .bind(arm)
        .bind(rollout)
        .execute(self.pool())
        .await
        .unwrap();
        id
    }

    /// Starts of image `n`; how many were new.
    pub(crate) async fn starts(&self, n: u64, starts: &[NewStart]) -> i64 {
        self.starts_by(n, starts, true).await
    }

    /// As whoever runs the fleet reports them, or a tenant.
    pub(crate) async fn starts_by(&self, n: u64, starts: &[NewStart], is_vouched: bool) -> i64 {
        let (workspace, image) = ("default".parse().unwrap(), image(n).parse().unwrap());
        let reported = self.rollouts.report_starts(&workspace, &image, starts, is_vouched);
        reported.await.unwrap().unwrap().accepted
    }

    pub(crate) async fn tally(&self) {
        Tally { rollouts: self.rollouts.clone() }.run().await.unwrap();
    }

    /// How many rollouts it rolled back.
    pub(crate) async fn guard(&self) -> u64 {
        Guard { rollouts: self.rollouts.clone() }.run().await.unwrap()
    }

    pub(crate) async fn tidy(&self) {
        let tidy = Tidy { rollouts: self.rollouts.clone() };
        while tidy.run().await.unwrap() > 0 {}
    }

    pub(crate) async fn report(&self, name: &str) -> Report {
        self.rollouts.report(name, Window::default()).await.unwrap().unwrap()
    }

    pub(crate) async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(self.pool()).await.unwrap()
    }
}

/// How a job ended.
pub(crate) enum Ended {
    Succeeded { produced: u8, seconds: f64, size: u64 },
    Failed { fault: &'static str, code: &'static str },
    Cancelled,
}

impl Ended {
    /// As it should be.
    pub(crate) fn well(arm: i16) -> Self {
        Self::Succeeded { produced: arm as u8, seconds: 1.0, size: 1000 }
    }

    /// By our own fault.
    pub(crate) fn badly() -> Self {
        Self::Failed { fault: "ours", code: "internal" }
    }
}

pub(crate) fn image(n: u64) -> String {
    format!("{n:016x}")
}

/// A start that went well and of which nothing was measured.
pub(crate) fn start(arm: i16) -> NewStart {
    NewStart {
        id: Uuid::now_v7(),
        at: None,
        clip_version: ClipVersion::try_from(arm as u8).unwrap(),
        temperature: Temperature::Cold,
        outcome: StartOutcome::Succeeded,
        start_seconds: None,
        first_exec_ms: None,
        wire_bytes: None,
        range_gets: None,
        cache_hits: None,
        host: None,
    }
}

pub(crate) fn change() -> Change {
    Change::by(&Access::full(Actor::Local), None)
}

/// A report as a client sees it.
pub(crate) fn json_of(report: &Report) -> Value {
    serde_json::to_value(report).unwrap()
}
