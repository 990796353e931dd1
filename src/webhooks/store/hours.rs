//! SQL of what came in by the hour.

use jiff::Timestamp;
use sqlx::PgConnection;

/// The events that were received within an hour (UTC), and what became of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hour {
    pub at: Timestamp,
    pub processed: i64,
    /// Of those processed, the ones that were tried more than once.
    pub retried: i64,
    /// Those that wait.
    pub waiting: i64,
    pub dead_letters: i64,
}

impl Hour {
    pub fn received(&self) -> i64 {
        self.processed + self.waiting + self.dead_letters
    }

    /// Those that succeeded at the first attempt.
    pub fn at_once(&self) -> i64 {
        self.processed - self.retried
    }
}

/// The last 24 hours, oldest first, the one that runs included.
pub async fn hours(conn: &mut PgConnection) -> Result<Vec<Hour>, sqlx::Error> {
    // Each count is of an index: events whose payload was removed are older.
    let rows = sqlx::query!(
        r#"WITH since AS (
             SELECT date_trunc('hour', now(), 'UTC') - interval '23 hours' AS at
           ), processed AS (
             SELECT date_trunc('hour', received_at, 'UTC') AS at, count(*) AS events
               FROM webhook_events
              WHERE processed AND payload_removed_at IS NULL
                AND received_at >= (SELECT at FROM since)
              GROUP BY 1
           ), retried AS (
             SELECT date_trunc('hour', received_at, 'UTC') AS at, count(*) AS events
               FROM webhook_events
              WHERE processed AND retry_count > 0
                AND processed_at >= (SELECT at FROM since)
              GROUP BY 1
           ), waiting AS (
             SELECT date_trunc('hour', received_at, 'UTC') AS at, count(*) AS events
               FROM webhook_events WHERE NOT processed GROUP BY 1
           ), dead AS (
             SELECT date_trunc('hour', received_at, 'UTC') AS at, count(*) AS events
               FROM webhook_dead_letter_queue GROUP BY 1
           )
           SELECT h.at AS "at!", coalesce(processed.events, 0) AS "processed!",
                  coalesce(retried.events, 0) AS "retried!",
                  coalesce(waiting.events, 0) AS "waiting!",
                  coalesce(dead.events, 0) AS "dead_letters!"
             FROM generate_series((SELECT at FROM since), now(), interval '1 hour') AS h(at)
             LEFT JOIN processed USING (at) LEFT JOIN retried USING (at)
             LEFT JOIN waiting USING (at) LEFT JOIN dead USING (at)
            ORDER BY h.at"#
    )
    .fetch_all(conn)
    .await?;
    let hours = rows.into_iter().map(|row| Hour {
        at: row.at.to_jiff(),
        processed: row.processed,
        retried: row.retried,
        waiting: row.waiting,
        dead_letters: row.dead_letters,
    });
    Ok(hours.collect())
}
