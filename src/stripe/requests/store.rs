//! SQL of requests to Stripe.

use jiff::SignedDuration;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{NewRequest, Request, State, Subject, Unreadable};
use crate::db::{TenantTx, words};

/// A request's row.
struct Row {
    organization_id: Uuid,
    id: Uuid,
    subject: String,
    operation: String,
    target_id: Option<String>,
    params: Value,
    context: Value,
    created_at: jiff_sqlx::Timestamp,
    called_at: Option<jiff_sqlx::Timestamp>,
    recovery_attempts: i32,
}

impl TryFrom<Row> for Request {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> Result<Self, sqlx::Error> {
        Ok(Self {
            organization_id: row.organization_id,
            id: row.id,
            subject: words::decode("billing_stripe_requests.subject", &row.subject)?,
            operation: row.operation,
            target_id: row.target_id,
            params: serde_json::from_value(row.params)
                .map_err(|error| sqlx::Error::Decode(error.into()))?,
            context: row.context,
            created_at: row.created_at.to_jiff(),
            called_at: row.called_at.map(|at| at.to_jiff()),
            recovery_attempts: row.recovery_attempts,
        })
    }
}

/// Keeps the organization from being archived or erased until the transaction ends; false
/// if it is already.
pub async fn hold_unarchived(tx: &mut TenantTx) -> Result<bool, sqlx::Error> {
    let organization_id = tx.organization_id();
    let archived = sqlx::query_scalar!(
        r#"SELECT coalesce(archived_at, erased_at) IS NOT NULL AS "archived!" FROM organizations
            WHERE id = $1 FOR SHARE"#,
        organization_id
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(archived != Some(true))
}

/// Stores a request. Returns false if one for the subject is open.
pub async fn insert(tx: &mut TenantTx, id: Uuid, new: &NewRequest) -> Result<bool, sqlx::Error> {
    let organization_id = tx.organization_id();
    let params =
        serde_json::to_value(&new.params).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let inserted = sqlx::query_scalar!(
        "INSERT INTO billing_stripe_requests
           (organization_id, id, subject, operation, target_id, params, context)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (organization_id, subject) WHERE state = 'open' DO NOTHING
         RETURNING id",
        organization_id,
        id,
        new.subject.as_str(),
        new.operation,
        new.target_id,
        params,
        new.context
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(inserted.is_some())
}

pub async fn by_id(tx: &mut TenantTx, id: Uuid) -> Result<Option<Request>, sqlx::Error> {
    let organization_id = tx.organization_id();
    let row = sqlx::query_as!(
        Row,
        "SELECT organization_id, id, subject, operation, target_id, params, context, created_at,
                called_at, recovery_attempts
           FROM billing_stripe_requests WHERE organization_id = $1 AND id = $2",
        organization_id,
        id
    )
    .fetch_optional(tx.conn())
    .await?;
    row.map(Request::try_from).transpose()
}

pub async fn open_about(
    tx: &mut TenantTx,
    subject: Subject,
) -> Result<Option<Request>, sqlx::Error> {
    let organization_id = tx.organization_id();
    let row = sqlx::query_as!(
        Row,
        "SELECT organization_id, id, subject, operation, target_id, params, context, created_at,
                called_at, recovery_attempts
           FROM billing_stripe_requests
          WHERE organization_id = $1 AND subject = $2 AND state = 'open'",
        organization_id,
        subject.as_str()
    )
    .fetch_optional(tx.conn())
    .await?;
    row.map(Request::try_from).transpose()
}

/// The command of a change, by the change's id.
pub async fn command_of(tx: &mut TenantTx, change_id: &str) -> Result<Option<Value>, sqlx::Error> {
    let organization_id = tx.organization_id();
    let found = sqlx::query_scalar!(
        r#"SELECT context -> 'wish' AS "wish: Value" FROM billing_stripe_requests
            WHERE organization_id = $1 AND context ->> 'id' = $2
              AND subject = 'subscription' AND state = 'succeeded' LIMIT 1"#,
        organization_id,
        change_id
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(found.flatten())
}

/// The recorded command of a change that came with this `Idempotency-Key` and
/// succeeded within `lifetime`.
pub async fn completed_command(
    tx: &mut TenantTx,
    request_key: &str,
    lifetime: SignedDuration,
) -> Result<Option<Value>, sqlx::Error> {
    let organization_id = tx.organization_id();
    let wish = sqlx::query_scalar!(
        r#"SELECT context -> 'wish' AS "wish: Value" FROM billing_stripe_requests
          WHERE organization_id = $1 AND state = 'succeeded' AND context ->> 'requestKey' = $2
            AND created_at > now() - $3::bigint * interval '1 second'
          ORDER BY created_at DESC LIMIT 1"#,
        organization_id,
        request_key,
        lifetime.as_secs()
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(wish.flatten())
}

pub async fn lock(conn: &mut PgConnection, request: &Request) -> Result<State, sqlx::Error> {
    let state = sqlx::query_scalar!(
        "SELECT state FROM billing_stripe_requests
          WHERE organization_id = $1 AND id = $2 FOR UPDATE",
        request.organization_id,
        request.id
    )
    .fetch_one(conn)
    .await?;
    words::decode("billing_stripe_requests.state", &state)
}

/// Adds members to the context of an open request.
pub async fn note(
    tx: &mut TenantTx,
    request: &Request,
    members: &Value,
) -> Result<(), sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query!(
        "UPDATE billing_stripe_requests SET context = context || $3
          WHERE organization_id = $1 AND id = $2 AND state = 'open'",
        organization_id,
        request.id,
        members
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Notes that the call begins. Returns false if the request was closed meanwhile.
pub async fn mark_called(tx: &mut TenantTx, request: &Request) -> Result<bool, sqlx::Error> {
    let organization_id = tx.organization_id();
    let called = sqlx::query!(
        "UPDATE billing_stripe_requests SET called_at = now()
          WHERE organization_id = $1 AND id = $2 AND state = 'open'",
        organization_id,
        request.id
    );
    Ok(called.execute(tx.conn()).await?.rows_affected() > 0)
}

/// Closes a request that Stripe has carried out.
pub async fn succeeded(
    conn: &mut PgConnection,
    request: &Request,
    object_id: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE billing_stripe_requests
            SET state = 'succeeded', stripe_object_id = $3, finished_at = now(),
                error_message = NULL
          WHERE organization_id = $1 AND id = $2",
        request.organization_id,
        request.id,
        object_id
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Closes a request that Stripe has not carried out.
pub async fn failed(
    conn: &mut PgConnection,
    request: &Request,
    error: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE billing_stripe_requests
            SET state = 'failed', error_message = $3, finished_at = now()
          WHERE organization_id = $1 AND id = $2",
        request.organization_id,
        request.id,
        error
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Which requests to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Open, whenever their next recovery is due.
    Open,
    /// Open, and due to be recovered.
    Due,
    /// Abandoned by recovery, with an unknown outcome.
    Abandoned,
}

/// Requests of all organizations that are at least `age` old, oldest first. An
/// unreadable row hides no other.
pub async fn find(
    conn: &mut PgConnection,
    which: Which,
    age: SignedDuration,
    limit: i64,
) -> Result<Vec<Result<Request, Unreadable>>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT organization_id, id, subject, operation, target_id, params, context, created_at,
                called_at, recovery_attempts
           FROM billing_stripe_requests
          WHERE created_at <= now() - $1::bigint * interval '1 second'
            AND coalesce(called_at, created_at) <= now() - $1::bigint * interval '1 second'
            AND CASE WHEN $2 THEN abandoned_at IS NOT NULL ELSE state = 'open' END
            AND (NOT $3 OR next_recovery_at IS NULL OR next_recovery_at <= now())
          ORDER BY created_at, id LIMIT $4",
        age.as_secs(),
        which == Which::Abandoned,
        which == Which::Due,
        limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(read).collect())
}

fn read(row: Row) -> Result<Request, Unreadable> {
    let named = (row.organization_id, row.id, row.recovery_attempts);
    Request::try_from(row).map_err(|error| {
        let (organization_id, id, recovery_attempts) = named;
        Unreadable {
            organization_id,
            id,
            recovery_attempts,
            error: error.to_string(),
        }
    })
}

/// Notes that recovery failed; the next attempt is due after `pause`.
pub async fn postpone(
    conn: &mut PgConnection,
    organization_id: Uuid,
    id: Uuid,
    error: &str,
    pause: SignedDuration,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE billing_stripe_requests
            SET recovery_attempts = recovery_attempts + 1, recovery_error = $3,
                next_recovery_at = now() + $4::bigint * interval '1 second'
          WHERE organization_id = $1 AND id = $2 AND state = 'open'",
        organization_id,
        id,
        error,
        pause.as_secs()
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Closes a request with an unknown outcome, for an operator to check.
pub async fn abandon(
    conn: &mut PgConnection,
    organization_id: Uuid,
    id: Uuid,
    error: &str,
) -> Result<bool, sqlx::Error> {
    let abandoned = sqlx::query_scalar!(
        "UPDATE billing_stripe_requests
            SET state = 'failed', error_message = $3, recovery_error = $3, finished_at = now(),
                recovery_attempts = recovery_attempts + 1, abandoned_at = now()
          WHERE organization_id = $1 AND id = $2 AND state = 'open' RETURNING id",
        organization_id,
        id,
        error
    )
    .fetch_optional(conn)
    .await?;
    Ok(abandoned.is_some())
}

/// Notes that the outcome of an abandoned request is known.
pub async fn acknowledge(
    conn: &mut PgConnection,
    organization_id: Uuid,
    id: Uuid,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE billing_stripe_requests SET abandoned_at = NULL
          WHERE organization_id = $1 AND id = $2",
        organization_id,
        id
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The number of abandoned requests, and of those open for longer than `age`.
pub async fn unsettled(
    conn: &mut PgConnection,
    age: SignedDuration,
) -> Result<(i64, i64), sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM billing_stripe_requests
                    WHERE abandoned_at IS NOT NULL) AS "abandoned!",
                  (SELECT count(*) FROM billing_stripe_requests
                    WHERE state = 'open'
                      AND created_at <= now() - $1::bigint * interval '1 second') AS "open!""#,
        age.as_secs()
    )
    .fetch_one(conn)
    .await?;
    Ok((row.abandoned, row.open))
}

/// Whether recovery abandoned a request of the organization to create a
/// subscription.
pub async fn has_abandoned_creation(tx: &mut TenantTx) -> Result<bool, sqlx::Error> {
    let organization_id = tx.organization_id();
    let found = sqlx::query_scalar!(
        "SELECT id FROM billing_stripe_requests
          WHERE organization_id = $1 AND abandoned_at IS NOT NULL
            AND subject = 'subscription' AND operation = 'create' LIMIT 1",
        organization_id
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(found.is_some())
}
