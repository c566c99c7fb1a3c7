//! The guard: rolls a rollout back by itself when v2 fails significantly more often than v1. It looks
//! every few seconds at what came of images since it last looked, which a sequential test allows
//! ([`evidence`]). Each image counts once, by what first came of its job and by its first start; for
//! each of the two half of the false alarms that the rollout allows are left.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use uuid::Uuid;

use super::{RolloutState, Rollouts};
use crate::jobs::queue::{Connection, QueueError, patiently};
use crate::jobs::reconcile::{ReconcileError, Reconciler};
use crate::telemetry::metrics::rollout_rolled_back;

/// How much speaks against v2.
pub(super) mod evidence;

use evidence::{Evidence, Pair, Tried};

/// Images that are judged at a time.
const PAGE: usize = 1000;

/// Rollouts, guarded.
#[derive(Debug)]
pub struct Guard {
    /// Rollouts.
    pub rollouts: Rollouts,
}

/// How far the guard has come with one stage of a rollout.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    rollout: Uuid,
    name: String,
    is_active: bool,
    /// The chance of a false alarm of the rollout.
    pub(super) alpha: f64,
    /// `job` or `start`.
    pub(super) stage: String,
    /// Zero if nothing was judged yet.
    version: i64,
    pub(super) evidence: Evidence,
}

impl Watched {
    /// What the evidence must come to: `None` if nobody guards it.
    pub(super) fn threshold(&self) -> Option<f64> {
        (self.alpha > 0.0).then(|| 2.0 / self.alpha)
    }

    fn is_alarm(&self) -> bool {
        self.is_active && self.threshold().is_some_and(|most| self.evidence.value() >= most)
    }

    fn reason(&self) -> String {
        let Pair { v1, v2 } = self.evidence.totals;
        let what = if self.stage == "job" { "pulls" } else { "starts" };
        format!(
            "{what} of {} of {} images failed with v2, of {} of {} with v1: evidence {:.0} to 1, chance \
             of a false alarm {}",
            v2.failed,
            v2.all,
            v1.failed,
            v1.all,
            self.evidence.value().min(1e12),
            self.alpha,
        )
    }
}

#[async_trait]
impl Reconciler for Guard {
    fn name(&self) -> &'static str {
        "guard of rollouts"
    }

    fn every(&self) -> Duration {
        Duration::from_secs(2)
    }

    async fn run(&self) -> Result<u64, ReconcileError> {
        let mut rolled_back = 0;
        for mut watched in self.rollouts.watched(None).await? {
            loop {
                let images = self.unjudged(&watched).await?;
                let more = images.len() == PAGE;
                for image in &images {
                    watched.evidence.add(image.is_v2, image.has_failed);
                }
                if images.is_empty() && !watched.is_alarm() {
                    break;
                }
                let judged = self.judge(&watched, &images).await?;
                if judged == Judged::RolledBack {
                    let (rollout, reason) = (&watched.name, watched.reason());
                    tracing::warn!(rollout, reason, "the guard rolled a rollout back");
                    rollout_rolled_back();
                    rolled_back += 1;
                }
                if judged != Judged::Goes || !more {
                    break;
                }
                watched.version += 1;
            }
        }
        Ok(rolled_back)
    }
}

/// What first came of an image.
struct ImageOutcome {
    seq: i64,
    is_v2: bool,
    has_failed: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Judged {
    Goes,
    RolledBack,
    /// Somebody else judges the same.
    Elsewhere,
}

impl Rollouts {
    /// What is guarded: both stages of all rollouts, or of one.
    pub(super) async fn watched(&self, one: Option<Uuid>) -> Result<Vec<Watched>, QueueError> {
        const ACTION: &str = "look at what is guarded";
        let rows = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let rows = sqlx::query!(
                r#"SELECT rollout.id, name, state, rollout.guard AS alpha, each.stage AS "stage!",
                          version AS "version?", totals AS "totals?", block AS "block?",
                          evidence AS "evidence?"
                   FROM rollout
                   CROSS JOIN (VALUES ('job'), ('start')) AS each (stage)
                   LEFT JOIN rollout_guard AS seen
                       ON seen.rollout_id = rollout.id AND seen.stage = each.stage
                   WHERE $1::uuid IS NULL OR rollout.id = $1
                   ORDER BY name, each.stage LIMIT 2000"#,
                one,
            )
            .fetch_all(&mut *db)
            .await;
            db.answered(ACTION, rows)
        });
        let rows = rows.await?.into_iter();
        Ok(rows
            .map(|row| Watched {
                rollout: row.id,
                name: row.name,
                is_active: row.state == RolloutState::Active.as_str(),
                alpha: row.alpha,
                stage: row.stage,
                version: row.version.unwrap_or_default(),
                evidence: Evidence {
                    totals: pair(row.totals.as_deref()),
                    block: pair(row.block.as_deref()),
                    logs: row.evidence.and_then(|logs| logs.try_into().ok()).unwrap_or_default(),
                },
            })
            .collect())
    }
}

/// As it stands in the database: images of v1 and those that failed, and of v2.
fn numbers(pair: Pair) -> Vec<i64> {
    let Pair { v1, v2 } = pair;
    [v1.all, v1.failed, v2.all, v2.failed].map(u64::cast_signed).to_vec()
}

fn pair(numbers: Option<&[i64]>) -> Pair {
    let number = |n: usize| {
        let number = numbers.and_then(|numbers| numbers.get(n)).copied().unwrap_or_default();
        number.max(0).cast_unsigned()
    };
    let tried = |n| Tried { all: number(n), failed: number(n + 1) };
    Pair { v1: tried(0), v2: tried(2) }
}

impl Guard {
    /// Images that the guard has not seen, in the order in which they came.
    async fn unjudged(&self, watched: &Watched) -> Result<Vec<ImageOutcome>, QueueError> {
        const ACTION: &str = "look at what came of images";
        patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.rollouts.pool, ACTION).await?;
            let images = sqlx::query_as!(
                ImageOutcome,
                r#"SELECT seq, arm = 2 AS "is_v2!", has_failed FROM rollout_unit
                   WHERE rollout_id = $1 AND stage = $2 AND NOT is_judged ORDER BY seq LIMIT $3"#,
                watched.rollout,
                watched.stage,
                i64::try_from(PAGE).unwrap_or(i64::MAX),
            )
            .fetch_all(&mut *db)
            .await;
            db.answered(ACTION, images)
        })
        .await
    }

    /// Writes down how far the guard has come; and if it has seen enough, ends the rollout and says why.
    async fn judge(
        &self,
        watched: &Watched,
        images: &[ImageOutcome],
    ) -> Result<Judged, QueueError> {
        const ACTION: &str = "write down what the guard makes of a rollout";
        let seqs: Vec<i64> = images.iter().map(|image| image.seq).collect();
        let Evidence { totals, block, logs } = &watched.evidence;
        let (totals, block) = (numbers(*totals), numbers(*block));
        let (reason, value) = (watched.reason(), watched.evidence.value());
        let detail = json!({
            "state": RolloutState::RolledBack, "reason": reason, "stage": watched.stage,
            "v1": { "images": totals[0], "failed": totals[1] },
            "v2": { "images": totals[2], "failed": totals[3] },
            "evidence": value.min(1e12), "threshold": watched.threshold(), "guard": watched.alpha,
        });
        let audit = Uuid::now_v7();
        let judged = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.rollouts.pool, ACTION).await?;
            let judged = sqlx::query!(
                r#"WITH state AS (
                       INSERT INTO rollout_guard AS guard
                           (rollout_id, stage, version, totals, block, evidence)
                       SELECT id, $2, $3::bigint + 1, $4, $5, $6 FROM rollout
                       -- What was judged is forgotten when somebody lets the rollout go on.
                       WHERE id = $1 AND ($3 = 0 OR EXISTS (
                           SELECT FROM rollout_guard WHERE rollout_id = $1 AND stage = $2))
                       ON CONFLICT (rollout_id, stage) DO UPDATE
                       SET version = excluded.version, totals = excluded.totals,
                           block = excluded.block, evidence = excluded.evidence
                       WHERE guard.version = $3
                       RETURNING version),
                   judged AS (
                       UPDATE rollout_unit SET is_judged = true
                       WHERE rollout_id = $1 AND stage = $2 AND NOT is_judged AND seq = ANY($7)
                         AND EXISTS (SELECT FROM state)),
                   back AS (
                       UPDATE rollout SET state = 'rolled_back', reason = $9, updated_at = now()
                       WHERE id = $1 AND state = 'active' AND $8 AND EXISTS (SELECT FROM state)
                       RETURNING name),
                   noted AS (
                       INSERT INTO audit_event (id, actor, action, subject, detail)
                       SELECT $10, 'guard', 'rollout.change', name, $11 FROM back)
                   SELECT EXISTS (SELECT FROM state) AS "ours!",
                          EXISTS (SELECT FROM back) AS "rolled_back!""#,
                watched.rollout,
                watched.stage,
                watched.version,
                &totals,
                &block,
                &logs[..],
                &seqs,
                watched.is_alarm(),
                reason,
                audit,
                detail,
            )
            .fetch_one(&mut *db)
            .await;
            db.answered(ACTION, judged)
        });
        let judged = judged.await?;
        Ok(match (judged.ours, judged.rolled_back) {
            (false, _) => Judged::Elsewhere,
            (true, false) => Judged::Goes,
            (true, true) => Judged::RolledBack,
        })
    }
}
