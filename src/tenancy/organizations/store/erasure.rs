//! SQL for erasing an organization.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::db::TenantTx;
use crate::mail;
use crate::projection;

/// A subscription that is or may still be charged for: its id and status.
pub async fn running_subscription(
    tx: &mut TenantTx,
) -> Result<Option<(String, String)>, sqlx::Error> {
    let organization_id = tx.organization_id();
    let row = sqlx::query!(
        "SELECT stripe_subscription_id, status FROM billing_subscriptions
          WHERE organization_id = $1 AND status NOT IN ('canceled', 'incomplete_expired')
          ORDER BY stripe_subscription_id LIMIT 1",
        organization_id
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|row| (row.stripe_subscription_id, row.status)))
}

/// Whether a payer may still subscribe the organization on one of Stripe's pages, or their
/// bank takes its time.
pub async fn has_open_checkout(tx: &mut TenantTx) -> Result<bool, sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM checkout_sessions
                           WHERE organization_id = $1
                             AND state IN ('creating', 'open', 'processing')) AS "open!""#,
        organization_id
    )
    .fetch_one(tx.conn())
    .await
}

pub async fn open_requests(tx: &mut TenantTx) -> Result<i64, sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "open!" FROM billing_stripe_requests
            WHERE organization_id = $1 AND (state = 'open' OR abandoned_at IS NOT NULL)"#,
        organization_id
    )
    .fetch_one(tx.conn())
    .await
}

pub async fn delete_memberships(tx: &mut TenantTx) -> Result<u64, sqlx::Error> {
    let organization_id = tx.organization_id();
    let deleted = sqlx::query!(
        "DELETE FROM organization_members WHERE organization_id = $1",
        organization_id
    );
    Ok(deleted.execute(tx.conn()).await?.rows_affected())
}

pub async fn delete_portal_sessions(tx: &mut TenantTx) -> Result<u64, sqlx::Error> {
    let organization_id = tx.organization_id();
    let deleted = sqlx::query!(
        "DELETE FROM portal_sessions WHERE organization_id = $1",
        organization_id
    );
    Ok(deleted.execute(tx.conn()).await?.rows_affected())
}

pub async fn delete_api_keys(tx: &mut TenantTx) -> Result<u64, sqlx::Error> {
    let organization_id = tx.organization_id();
    let deleted = sqlx::query!(
        "DELETE FROM api_keys WHERE organization_id = $1",
        organization_id
    );
    Ok(deleted.execute(tx.conn()).await?.rows_affected())
}

/// The organization's Stripe customers: `all`, or those not deleted in Stripe.
pub async fn customers(tx: &mut TenantTx, all: bool) -> Result<Vec<String>, sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query_scalar!(
        "SELECT stripe_customer_id FROM billing_customers
          WHERE organization_id = $1 AND ($2 OR deleted_at IS NULL) ORDER BY 1",
        organization_id,
        all
    )
    .fetch_all(tx.conn())
    .await
}

/// Their reasons are operators' own words.
async fn delete_overrides(tx: &mut TenantTx) -> Result<u64, sqlx::Error> {
    let organization_id = tx.organization_id();
    let overrides = sqlx::query!(
        "DELETE FROM feature_overrides WHERE organization_id = $1",
        organization_id
    );
    let features = overrides.execute(tx.conn()).await?.rows_affected();
    let quotas = sqlx::query!(
        "UPDATE usage_quota_overrides SET reason = NULL
          WHERE organization_id = $1 AND reason IS NOT NULL",
        organization_id
    );
    Ok(features + quotas.execute(tx.conn()).await?.rows_affected())
}

/// Stripe's errors may quote what they are about.
async fn clear_errors(tx: &mut TenantTx) -> Result<u64, sqlx::Error> {
    let organization_id = tx.organization_id();
    let charges = sqlx::query!(
        "UPDATE usage_charges SET error_message = NULL
          WHERE organization_id = $1 AND error_message IS NOT NULL",
        organization_id
    );
    let mut rows = charges.execute(tx.conn()).await?.rows_affected();
    let reports = sqlx::query!(
        "UPDATE usage_reports SET error_message = NULL
          WHERE organization_id = $1 AND error_message IS NOT NULL",
        organization_id
    );
    rows += reports.execute(tx.conn()).await?.rows_affected();
    Ok(rows)
}

/// Clears personal data in rows that are kept for their amounts, and deletes
/// stored responses. Returns the rows affected.
pub async fn clear_texts(tx: &mut TenantTx) -> Result<u64, sqlx::Error> {
    let organization_id = tx.organization_id();
    let mut rows = 0;
    let stored_responses = sqlx::query!(
        "DELETE FROM request_idempotency WHERE organization_id = $1",
        organization_id
    );
    rows += stored_responses.execute(tx.conn()).await?.rows_affected();
    // Request ids are the product's.
    let refused = sqlx::query!(
        "DELETE FROM usage_denials WHERE organization_id = $1",
        organization_id
    );
    rows += refused.execute(tx.conn()).await?.rows_affected();
    let requests = sqlx::query!(
        "UPDATE billing_stripe_requests SET params = '{}', context = '{}', error_message = NULL,
                recovery_error = NULL WHERE organization_id = $1",
        organization_id
    );
    rows += requests.execute(tx.conn()).await?.rows_affected();
    let checkouts = sqlx::query!(
        "UPDATE checkout_sessions SET wish = '{}', params = '{}', context = '{}', url = NULL,
                error_message = NULL WHERE organization_id = $1",
        organization_id
    );
    rows += checkouts.execute(tx.conn()).await?.rows_affected();
    rows += projection::erasure::clear_texts(tx.conn(), organization_id).await?;
    rows += delete_overrides(tx).await?;
    rows += clear_errors(tx).await?;
    let usage = sqlx::query!(
        "UPDATE usage_events SET metadata = NULL
          WHERE organization_id = $1 AND metadata IS NOT NULL",
        organization_id
    );
    rows += usage.execute(tx.conn()).await?.rows_affected();
    rows += clear_events(tx).await?;
    rows += mail::erase(tx.conn(), organization_id).await?;
    Ok(rows)
}

/// Clears what events out say of it: whoever has not got them yet gets their frame. The
/// publisher waits, and sees afterwards that the state it read is of before.
async fn clear_events(tx: &mut TenantTx) -> Result<u64, sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query!(
        "INSERT INTO outbound_streams AS stream (organization_id) VALUES ($1)
         ON CONFLICT (organization_id) DO UPDATE SET last_sequence = stream.last_sequence",
        organization_id
    )
    .execute(tx.conn())
    .await?;
    let answers = sqlx::query!(
        "UPDATE outbound_deliveries SET response_excerpt = NULL
          WHERE organization_id = $1 AND response_excerpt IS NOT NULL",
        organization_id
    );
    let mut rows = answers.execute(tx.conn()).await?.rows_affected();
    let events = sqlx::query!(
        "UPDATE outbound_events
            SET body = (body::jsonb || jsonb_build_object(
                  'subject', $1::uuid,
                  'data', jsonb_build_object('organizationId', $1::uuid, 'erased', true)))::json
          WHERE organization_id = $1 AND body #>> '{data,erased}' IS NULL",
        organization_id
    );
    rows += events.execute(tx.conn()).await?.rows_affected();
    Ok(rows)
}

/// Clears the organization's name, external id, e-mail address and metadata.
pub async fn clear_names(tx: &mut TenantTx) -> Result<(), sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query!(
        "UPDATE organizations SET name = 'erased', external_id = NULL, email = NULL,
                metadata = '{}', erased_at = coalesce(erased_at, now()), updated_at = now()
          WHERE id = $1",
        organization_id
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Deletes the kept answers of service keys that are about the organization: they have
/// its name and address, and belong to no organization. Returns how many there were.
pub async fn delete_answers(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<u64, sqlx::Error> {
    let deleted = sqlx::query!(
        "DELETE FROM request_idempotency
          WHERE organization_id = '00000000-0000-0000-0000-000000000000'
            AND position(convert_to($1, 'UTF8') IN body) > 0",
        organization_id.to_string()
    );
    Ok(deleted.execute(conn).await?.rows_affected())
}

/// Deletes what is remembered of the cards that had the organization's trial.
pub async fn delete_trial_cards(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<u64, sqlx::Error> {
    let deleted = sqlx::query!(
        "DELETE FROM trial_cards WHERE organization_id = $1",
        organization_id
    );
    Ok(deleted.execute(conn).await?.rows_affected())
}

/// Deletes users who belong to no other organization and are not operators, with
/// all sessions for the organization.
pub async fn delete_users(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<u64, sqlx::Error> {
    let alone = sqlx::query_scalar!(
        "SELECT u.id FROM organization_members m JOIN users u ON u.id = m.user_id
          WHERE m.organization_id = $1 AND NOT u.operator
            AND NOT EXISTS (SELECT FROM organization_members o
                             WHERE o.user_id = u.id AND o.organization_id <> $1)",
        organization_id
    )
    .fetch_all(&mut *conn)
    .await?;
    sqlx::query!(
        "DELETE FROM user_sessions WHERE user_id = ANY($1) OR for_organization_id = $2",
        &alone,
        organization_id
    )
    .execute(&mut *conn)
    .await?;
    // Of those who were operators once.
    sqlx::query!(
        "WITH codes AS (DELETE FROM operator_recovery_codes WHERE user_id = ANY($1))
         DELETE FROM operator_second_factors WHERE user_id = ANY($1)",
        &alone
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "DELETE FROM organization_members WHERE organization_id = $1",
        organization_id
    )
    .execute(&mut *conn)
    .await?;
    let deleted = sqlx::query!("DELETE FROM users WHERE id = ANY($1)", &alone);
    Ok(deleted.execute(conn).await?.rows_affected())
}

/// The buckets of webhook events.
pub const BUCKETS: std::ops::Range<i16> = 0..1024;

/// Clears the payloads of a bucket's events that belong to the organization or
/// name one of its customers, and deletes its dead letters. The event ids stay,
/// so that no event is applied a second time.
pub async fn clear_payloads(
    conn: &mut PgConnection,
    bucket: i16,
    organization_id: Uuid,
    customers: &[String],
) -> Result<u64, sqlx::Error> {
    // A text search also finds events never assigned to an organization.
    let patterns: Vec<String> = customers
        .iter()
        .map(|customer| customer.replace('_', "\\_"))
        .chain([organization_id.to_string()])
        .map(|named| format!("%\"{named}\"%"))
        .collect();
    let emptied = sqlx::query!(
        r#"UPDATE webhook_events
              SET payload = '{"erased": true}', error_message = NULL, attempts = '[]'
            WHERE bucket = $1 AND (organization_id = $2 OR payload::text LIKE ANY($3))
              AND payload::text <> '{"erased": true}'"#,
        bucket,
        organization_id,
        &patterns
    );
    let emptied = emptied.execute(&mut *conn).await?.rows_affected();
    let dead_letters = sqlx::query_scalar!(
        r#"WITH gone AS (
           DELETE FROM webhook_dead_letter_queue
            WHERE bucket = $1 AND (organization_id = $2 OR payload::text LIKE ANY($3))
           RETURNING bucket, stripe_event_id),
         came AS (
           DELETE FROM webhook_dead_letter_sources s USING gone
            WHERE s.bucket = gone.bucket AND s.stripe_event_id = gone.stripe_event_id)
         SELECT stripe_event_id FROM gone"#,
        bucket,
        organization_id,
        &patterns
    );
    let dead_letters = dead_letters.fetch_all(conn).await?.len();
    Ok(emptied + dead_letters as u64)
}
