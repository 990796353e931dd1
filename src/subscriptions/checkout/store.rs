//! SQL of checkouts.

use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx as _;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Checkout, State};
use crate::db::{RequestTx, TenantTx, words};
use crate::stripe::client::Params;

/// A checkout's row.
struct Row {
    organization_id: Uuid,
    id: Uuid,
    state: String,
    wish: Value,
    params: Value,
    context: Value,
    session_id: Option<String>,
    url: Option<String>,
    expires_at: Option<jiff_sqlx::Timestamp>,
    created_at: jiff_sqlx::Timestamp,
    called_at: Option<jiff_sqlx::Timestamp>,
    recovery_attempts: i32,
    taking_back: Option<bool>,
    why: Option<String>,
}

impl TryFrom<Row> for Checkout {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> Result<Self, sqlx::Error> {
        let state = words::decode("checkout_sessions.state", &row.state)?;
        let params: Params = serde_json::from_value(row.params)
            .map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(Self {
            organization_id: row.organization_id,
            id: row.id,
            state,
            purchase: row.wish,
            params,
            context: row.context,
            session_id: row.session_id,
            url: row.url,
            expires_at: row.expires_at.map(|at| at.to_jiff()),
            created_at: row.created_at.to_jiff(),
            called_at: row.called_at.map(|at| at.to_jiff()),
            recovery_attempts: row.recovery_attempts,
            taking_back: row.taking_back,
            why: row.why,
        })
    }
}

/// A query of whole rows: all that differs is which, from `WHERE` on.
macro_rules! checkouts {
    ($which:tt, $($argument:expr),+ $(,)?) => {
        sqlx::query_as!(
            Row,
            r#"SELECT organization_id, id, state, wish, params, context,
                  stripe_checkout_session_id AS session_id, url,
                  expires_at AS "expires_at: jiff_sqlx::Timestamp",
                  created_at AS "created_at: jiff_sqlx::Timestamp",
                  called_at AS "called_at: jiff_sqlx::Timestamp", recovery_attempts, taking_back,
                  error_message AS why
             FROM checkout_sessions"# + $which,
            $($argument),+
        )
    };
}

/// Enters a checkout. Returns false if one is open.
pub async fn insert(
    tx: &mut TenantTx,
    id: Uuid,
    purchase: &Value,
    params: &Params,
    context: &Value,
) -> Result<bool, sqlx::Error> {
    let organization_id = tx.organization_id();
    let params = serde_json::to_value(params).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let inserted = sqlx::query_scalar!(
        "INSERT INTO checkout_sessions (organization_id, id, wish, params, context)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (organization_id) WHERE state IN ('creating', 'open') DO NOTHING
         RETURNING id",
        organization_id,
        id,
        purchase,
        params,
        context
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(inserted.is_some())
}

/// The checkout that is open, or about to be.
pub async fn open(tx: &mut RequestTx) -> Result<Option<Checkout>, sqlx::Error> {
    let organization_id = tx.organization_id();
    let row = checkouts!(
        r#"
            WHERE organization_id = $1 AND state IN ('creating', 'open')"#,
        organization_id
    )
    .fetch_optional(tx.conn())
    .await?;
    row.map(Checkout::try_from).transpose()
}

/// The checkout of this id.
pub async fn by_id(tx: &mut RequestTx, id: Uuid) -> Result<Option<Checkout>, sqlx::Error> {
    let organization_id = tx.organization_id();
    let row = checkouts!(
        r#"
            WHERE organization_id = $1 AND id = $2"#,
        organization_id,
        id
    )
    .fetch_optional(tx.conn())
    .await?;
    row.map(Checkout::try_from).transpose()
}

/// The checkout of one of Stripe's sessions.
pub async fn by_session(
    tx: &mut RequestTx,
    session_id: &str,
) -> Result<Option<Checkout>, sqlx::Error> {
    let organization_id = tx.organization_id();
    let row = checkouts!(
        r#"
            WHERE organization_id = $1 AND stripe_checkout_session_id = $2"#,
        organization_id,
        session_id
    )
    .fetch_optional(tx.conn())
    .await?;
    row.map(Checkout::try_from).transpose()
}

/// Notes that the call begins, and returns when. `None` if the checkout was closed
/// meanwhile.
pub async fn mark_called(tx: &mut TenantTx, id: Uuid) -> Result<Option<Timestamp>, sqlx::Error> {
    let organization_id = tx.organization_id();
    let called = sqlx::query_scalar!(
        r#"UPDATE checkout_sessions SET called_at = now()
            WHERE organization_id = $1 AND id = $2 AND state = 'creating'
        RETURNING called_at AS "called_at!: jiff_sqlx::Timestamp""#,
        organization_id,
        id
    );
    let called = called.fetch_optional(tx.conn()).await?;
    Ok(called.map(|at| at.to_jiff()))
}

/// Closes a checkout that has no page. Returns false if it has one by now, or another
/// request has called Stripe since `called_at`.
pub async fn give_up(
    tx: &mut TenantTx,
    id: Uuid,
    called_at: Option<Timestamp>,
    error: &str,
) -> Result<bool, sqlx::Error> {
    let organization_id = tx.organization_id();
    let closed = sqlx::query!(
        "UPDATE checkout_sessions
            SET state = 'failed', error_message = $4, finished_at = now(), next_recovery_at = NULL
          WHERE organization_id = $1 AND id = $2 AND state = 'creating'
            AND called_at IS NOT DISTINCT FROM $3",
        organization_id,
        id,
        called_at.map(|at| at.to_sqlx()) as _,
        error
    );
    Ok(closed.execute(tx.conn()).await?.rows_affected() > 0)
}

/// Decides, once, whether what was bought is taken back. Returns what was decided first.
pub async fn decide(
    tx: &mut TenantTx,
    id: Uuid,
    taking_back: Option<&str>,
) -> Result<bool, sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query_scalar!(
        r#"UPDATE checkout_sessions
              SET taking_back = coalesce(taking_back, $3::text IS NOT NULL),
                  error_message = CASE WHEN taking_back IS NULL THEN $3 ELSE error_message END
            WHERE organization_id = $1 AND id = $2
        RETURNING taking_back AS "taking_back!""#,
        organization_id,
        id,
        taking_back
    )
    .fetch_one(tx.conn())
    .await
}

/// Notes the page that Stripe has made. Returns false if the checkout has one, or is over.
pub async fn opened(
    tx: &mut TenantTx,
    id: Uuid,
    session_id: &str,
    url: Option<&str>,
    expires_at: Option<Timestamp>,
) -> Result<bool, sqlx::Error> {
    let organization_id = tx.organization_id();
    let opened = sqlx::query!(
        "UPDATE checkout_sessions
            SET state = 'open', stripe_checkout_session_id = $3, url = $4, expires_at = $5,
                recovery_attempts = 0, next_recovery_at = NULL,
                next_look_at = now() + interval '2 minutes'
          WHERE organization_id = $1 AND id = $2 AND state = 'creating'",
        organization_id,
        id,
        session_id,
        url,
        expires_at.map(|at| at.to_sqlx()) as _
    );
    Ok(opened.execute(tx.conn()).await?.rows_affected() > 0)
}

/// Moves a checkout that is not over to `state`. Returns false if it is there, or over,
/// already.
pub async fn advance(
    tx: &mut TenantTx,
    id: Uuid,
    state: State,
    subscription_id: Option<&str>,
) -> Result<bool, sqlx::Error> {
    let organization_id = tx.organization_id();
    let over = state.is_over();
    let moved = sqlx::query!(
        "UPDATE checkout_sessions
            SET state = $3, stripe_subscription_id = coalesce($4, stripe_subscription_id),
                finished_at = CASE WHEN $5 THEN now() END,
                url = CASE WHEN $5 THEN NULL ELSE url END,
                recovery_attempts = 0, next_recovery_at = NULL
          WHERE organization_id = $1 AND id = $2 AND state <> $3
            AND state IN ('creating', 'open', 'processing')",
        organization_id,
        id,
        state.as_str(),
        subscription_id,
        over
    );
    Ok(moved.execute(tx.conn()).await?.rows_affected() > 0)
}

/// Checkouts of all organizations that Stripe must be asked about, oldest first: pages
/// that may never have been made, that have expired, whose payer is done, those of
/// organizations that have subscribed otherwise, and now and then those that are open.
pub async fn due(
    conn: &mut PgConnection,
    in_flight: SignedDuration,
    limit: i64,
) -> Result<Vec<Checkout>, sqlx::Error> {
    let rows = checkouts!(
        r#" c
            WHERE state IN ('creating', 'open', 'processing')
              AND (next_recovery_at IS NULL OR next_recovery_at <= now())
              AND CASE state
                WHEN 'creating' THEN
                  coalesce(called_at, created_at) <= now() - $1::bigint * interval '1 second'
                WHEN 'open' THEN expires_at <= now() - interval '1 minute'
                  OR taking_back OR coalesce(next_look_at, created_at) <= now()
                  OR EXISTS (SELECT FROM billing_checkout_sessions m
                              WHERE m.organization_id = c.organization_id AND m.status <> 'open'
                                AND m.stripe_checkout_session_id = c.stripe_checkout_session_id)
                  OR EXISTS (SELECT FROM billing_subscriptions s
                              WHERE s.organization_id = c.organization_id
                                AND s.status NOT IN ('canceled', 'incomplete', 'incomplete_expired'))
                ELSE EXISTS (SELECT FROM billing_checkout_sessions m
                              WHERE m.organization_id = c.organization_id
                                AND m.payment_status <> 'unpaid'
                                AND m.stripe_checkout_session_id = c.stripe_checkout_session_id)
                  OR NOT EXISTS (SELECT FROM billing_subscriptions s
                                  WHERE s.organization_id = c.organization_id
                                    AND s.stripe_subscription_id = c.stripe_subscription_id
                                    AND s.status IN ('active', 'trialing', 'incomplete'))
              END
            ORDER BY created_at LIMIT $2"#,
        in_flight.as_secs(),
        limit
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Checkout::try_from).collect()
}

/// Looks at an open page again after `pause`; a minute later if something else calls for it.
pub async fn look_again(
    tx: &mut TenantTx,
    id: Uuid,
    pause: SignedDuration,
) -> Result<(), sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query!(
        "UPDATE checkout_sessions
            SET next_look_at = now() + $3::bigint * interval '1 second',
                next_recovery_at = now() + interval '1 minute'
          WHERE organization_id = $1 AND id = $2 AND state = 'open'",
        organization_id,
        id,
        pause.as_secs()
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Looks at a checkout again after `pause`.
pub async fn postpone(
    tx: &mut TenantTx,
    id: Uuid,
    pause: SignedDuration,
) -> Result<(), sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query!(
        "UPDATE checkout_sessions
            SET recovery_attempts = recovery_attempts + 1,
                next_recovery_at = now() + $3::bigint * interval '1 second'
          WHERE organization_id = $1 AND id = $2 AND state IN ('creating', 'open', 'processing')",
        organization_id,
        id,
        pause.as_secs()
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
