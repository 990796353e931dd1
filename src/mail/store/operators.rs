//! SQL for operators: mails are listed, tried again and counted.

use jiff::Timestamp;
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

/// A mail, as operators see it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mail {
    pub id: Uuid,
    pub organization_id: Uuid,
    pub kind: String,
    /// The invoice, subscription, payment method or metric.
    pub resource_id: String,
    pub status: String,
    pub attempts: i32,
    pub happened_at: Timestamp,
    pub queued_at: Timestamp,
    /// Null unless it is pending.
    pub next_attempt_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub recipient: Option<String>,
    pub error: Option<String>,
}

/// Which mails to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub organization_id: Option<Uuid>,
    pub status: Option<String>,
}

/// Newest first.
pub async fn list(
    conn: &mut PgConnection,
    filter: &Filter,
    limit: i64,
) -> Result<Vec<Mail>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT id, organization_id, kind, resource_id, status, attempts, happened_at, queued_at,
                next_attempt_at, ended_at, recipient, error_message
           FROM mails
          WHERE ($1::uuid IS NULL OR organization_id = $1) AND ($2::text IS NULL OR status = $2)
          ORDER BY queued_at DESC, id DESC LIMIT $3",
        filter.organization_id,
        filter.status,
        limit
    )
    .fetch_all(conn)
    .await?;
    let mails = rows.into_iter().map(|row| Mail {
        id: row.id,
        organization_id: row.organization_id,
        kind: row.kind,
        resource_id: row.resource_id,
        next_attempt_at: (row.status == "pending").then(|| row.next_attempt_at.to_jiff()),
        status: row.status,
        attempts: row.attempts,
        happened_at: row.happened_at.to_jiff(),
        queued_at: row.queued_at.to_jiff(),
        ended_at: row.ended_at.map(jiff_sqlx::Timestamp::to_jiff),
        recipient: row.recipient,
        error: row.error_message,
    });
    Ok(mails.collect())
}

/// Makes mails due that failed or wait, with all their attempts before them. One that was
/// sent stays sent. Returns those that are.
pub async fn retry(conn: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "UPDATE mails SET status = 'pending', attempts = 0, next_attempt_at = now(),
                lease_id = NULL, ended_at = NULL
          WHERE id = ANY($1)
            AND (status = 'failed' OR (status = 'pending' AND lease_id IS NULL))
         RETURNING id",
        ids
    )
    .fetch_all(conn)
    .await
}

/// How mails are doing.
#[derive(Debug, Clone)]
pub struct State {
    /// Given up within a week.
    pub failed: i64,
    pub last_error: Option<String>,
    /// Withdrawn within a week because the organization has no address.
    pub unaddressed: i64,
    /// How long the oldest one has waited.
    pub oldest_secs: Option<i64>,
    /// When facts were last looked for; `None`: mails never were switched on.
    pub searched_secs: Option<i64>,
}

pub async fn state(conn: &mut PgConnection, no_address: &str) -> Result<State, sqlx::Error> {
    sqlx::query_as!(
        State,
        r#"SELECT (SELECT count(*) FROM mails
                    WHERE status = 'failed' AND ended_at > now() - interval '7 days') AS "failed!",
                  (SELECT error_message FROM mails
                    WHERE status = 'failed' AND ended_at > now() - interval '7 days'
                    ORDER BY ended_at DESC LIMIT 1) AS last_error,
                  (SELECT count(*) FROM mails
                    WHERE status = 'withdrawn' AND ended_at > now() - interval '7 days'
                      AND error_message = $1) AS "unaddressed!",
                  (SELECT extract(epoch FROM now() - min(queued_at))::bigint FROM mails
                    WHERE status = 'pending') AS oldest_secs,
                  (SELECT extract(epoch FROM now() - searched_at)::bigint
                     FROM mail_switch) AS searched_secs"#,
        no_address
    )
    .fetch_one(conn)
    .await
}
