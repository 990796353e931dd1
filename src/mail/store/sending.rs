//! SQL of sending: a mail is leased, sent, and marked by whoever has the lease.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

/// A mail that is due, leased.
#[derive(Debug, Clone)]
pub struct Due {
    pub organization_id: Uuid,
    pub id: Uuid,
    pub lease_id: Uuid,
    pub kind: String,
    pub fact: String,
    pub resource_id: String,
    pub about_at: Option<Timestamp>,
    pub attempts: i32,
}

/// Leases the mail that has been due for longest.
pub async fn claim(conn: &mut PgConnection, lease_secs: f64) -> Result<Option<Due>, sqlx::Error> {
    let row = sqlx::query!(
        r#"UPDATE mails m
              SET lease_id = gen_random_uuid(),
                  next_attempt_at = now() + make_interval(secs => $1)
             FROM (SELECT organization_id, id FROM mails
                    WHERE status = 'pending' AND next_attempt_at <= now()
                    ORDER BY next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED) due
            WHERE m.organization_id = due.organization_id AND m.id = due.id
           RETURNING m.organization_id, m.id, m.lease_id AS "lease_id!", m.kind, m.fact,
                     m.resource_id, m.about_at, m.attempts"#,
        lease_secs
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Due {
        organization_id: row.organization_id,
        id: row.id,
        lease_id: row.lease_id,
        kind: row.kind,
        fact: row.fact,
        resource_id: row.resource_id,
        about_at: row.about_at.map(jiff_sqlx::Timestamp::to_jiff),
        attempts: row.attempts,
    }))
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Sent,
    /// It failed, and is tried again.
    Retry {
        at: Timestamp,
        error: String,
    },
    /// It is given up.
    Failed {
        error: String,
    },
    /// What it tells of holds no more, or nobody is to be told.
    Withdrawn {
        reason: String,
    },
}

impl Outcome {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Retry { .. } => "retried",
            Self::Failed { .. } => "failed",
            Self::Withdrawn { .. } => "withdrawn",
        }
    }
}

/// Records an attempt, and to whom it went. Returns false if the lease was lost.
pub async fn record(
    conn: &mut PgConnection,
    due: &Due,
    recipient: Option<&str>,
    outcome: &Outcome,
) -> Result<bool, sqlx::Error> {
    let (status, next, error) = match outcome {
        Outcome::Sent => ("sent", None, None),
        Outcome::Retry { at, error } => ("pending", Some(*at), Some(error.as_str())),
        Outcome::Failed { error } => ("failed", None, Some(error.as_str())),
        Outcome::Withdrawn { reason } => ("withdrawn", None, Some(reason.as_str())),
    };
    let tried = !matches!(outcome, Outcome::Withdrawn { .. });
    let recorded = sqlx::query!(
        "UPDATE mails
            SET status = $4, lease_id = NULL, attempts = attempts + $5,
                next_attempt_at = coalesce($6, next_attempt_at), recipient = $7,
                error_message = $8,
                ended_at = CASE WHEN $4 <> 'pending' THEN now() END
          WHERE organization_id = $1 AND id = $2 AND lease_id = $3",
        due.organization_id,
        due.id,
        due.lease_id,
        status,
        i32::from(tried),
        next.map(|at| at.to_sqlx()) as _,
        recipient,
        error
    );
    Ok(recorded.execute(conn).await?.rows_affected() == 1)
}
