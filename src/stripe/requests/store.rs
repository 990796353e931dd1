//! The SQL of requests to Stripe.

use jiff::SignedDuration;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{NewRequest, Request, Subject};
use crate::db::TenantTx;

/// A request as its row has it.
struct Row {
    organization_id: Uuid,
    id: Uuid,
    subject: String,
    operation: String,
    target_id: Option<String>,
    params: Value,
    context: Value,
    created_at: jiff_sqlx::Timestamp,
}

impl TryFrom<Row> for Request {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> Result<Self, sqlx::Error> {
        Ok(Self {
            organization_id: row.organization_id,
            id: row.id,
            subject: row.subject,
            operation: row.operation,
            target_id: row.target_id,
            params: serde_json::from_value(row.params)
                .map_err(|error| sqlx::Error::Decode(error.into()))?,
            context: row.context,
            created_at: row.created_at.to_jiff(),
        })
    }
}

/// Enters a request; false: one about the subject is open.
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
        "SELECT organization_id, id, subject, operation, target_id, params, context, created_at
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
        "SELECT organization_id, id, subject, operation, target_id, params, context, created_at
           FROM billing_stripe_requests
          WHERE organization_id = $1 AND subject = $2 AND state = 'open'",
        organization_id,
        subject.as_str()
    )
    .fetch_optional(tx.conn())
    .await?;
    row.map(Request::try_from).transpose()
}

pub async fn was_done(tx: &mut TenantTx, request_key: &str) -> Result<bool, sqlx::Error> {
    let organization_id = tx.organization_id();
    let done = sqlx::query_scalar!(
        "SELECT id FROM billing_stripe_requests
          WHERE organization_id = $1 AND state = 'succeeded' AND context ->> 'requestKey' = $2
          LIMIT 1",
        organization_id,
        request_key
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(done.is_some())
}

pub async fn lock_open(conn: &mut PgConnection, request: &Request) -> Result<bool, sqlx::Error> {
    let locked = sqlx::query_scalar!(
        "SELECT id FROM billing_stripe_requests
          WHERE organization_id = $1 AND id = $2 AND state = 'open' FOR UPDATE",
        request.organization_id,
        request.id
    )
    .fetch_optional(conn)
    .await?;
    Ok(locked.is_some())
}

/// Closes a request that Stripe has carried out.
pub async fn succeeded(
    conn: &mut PgConnection,
    request: &Request,
    object_id: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE billing_stripe_requests
            SET state = 'succeeded', stripe_object_id = $3, finished_at = now()
          WHERE organization_id = $1 AND id = $2",
        request.organization_id,
        request.id,
        object_id
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Closes a request that Stripe has refused, and not acted upon.
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

/// Requests of all organizations that have been open for at least `age`,
/// oldest first.
pub async fn open(
    conn: &mut PgConnection,
    age: SignedDuration,
) -> Result<Vec<Request>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT organization_id, id, subject, operation, target_id, params, context, created_at
           FROM billing_stripe_requests
          WHERE state = 'open' AND created_at <= now() - $1::bigint * interval '1 second'
          ORDER BY created_at, id",
        age.as_secs()
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Request::try_from).collect()
}
