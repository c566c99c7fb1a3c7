//! What was counted of a rollout, from the database.

use chrono::NaiveDate;
use uuid::Uuid;

use super::{PARTS, Rollouts, Sketch, Sketches, Window};
use crate::jobs::queue::{Connection, QueueError, patiently};

/// Counts of both versions.
#[derive(Debug, Default)]
pub(super) struct Counts(Sketches);

impl Counts {
    /// How often something happened.
    pub(super) fn count(&self, what: &str, arm: u8) -> u64 {
        let parts = self.0.get(&(what.to_owned(), arm));
        parts.into_iter().flatten().map(Sketch::count).sum()
    }

    /// What was measured in each part.
    pub(super) fn parts(&self, measure: &str, arm: u8) -> Vec<Sketch> {
        self.0.get(&(measure.to_owned(), arm)).cloned().unwrap_or_default()
    }

    fn add(&mut self, row: &Row) {
        let (Ok(arm), Ok(part)) = (u8::try_from(row.arm), usize::try_from(row.part)) else {
            return;
        };
        // Whoever made a schema with more parts than these knows what to do with them.
        if part >= PARTS {
            return;
        }
        let parts = self.0.entry((row.measure.clone(), arm)).or_default();
        parts.resize(PARTS, Sketch::default());
        for (bucket, count) in row.buckets.iter().zip(&row.counts) {
            parts[part].add(*bucket, u64::try_from(*count).unwrap_or_default());
        }
    }
}

struct Row {
    arm: i16,
    part: i16,
    measure: String,
    buckets: Vec<i16>,
    counts: Vec<i64>,
}

impl Rollouts {
    /// What was counted on these days.
    pub(super) async fn counts(&self, rollout: Uuid, window: Window) -> Result<Counts, QueueError> {
        const ACTION: &str = "read what was counted of a rollout";
        // Clocks of clients that are wrong are refused long before these.
        let first = window.since.or_else(|| NaiveDate::from_ymd_opt(2000, 1, 1));
        let last = window.until.or_else(|| NaiveDate::from_ymd_opt(9999, 12, 31));
        let rows = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let rows = sqlx::query_as!(
                Row,
                "SELECT arm, part, measure, buckets, counts FROM rollout_sketch
                 WHERE rollout_id = $1 AND day BETWEEN $2 AND $3",
                rollout,
                first,
                last,
            )
            .fetch_all(&mut *db)
            .await;
            db.answered(ACTION, rows)
        });
        let mut counts = Counts::default();
        rows.await?.iter().for_each(|row| counts.add(row));
        Ok(counts)
    }
}
