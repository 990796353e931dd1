//! The usage reports' SQL.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::plans::{Catalogue, metered_lookup_key};

/// A total of an organization that is billed for it.
#[derive(Debug, Clone)]
pub struct Open {
    pub organization_id: Uuid,
    pub metric: String,
    pub period_start: Timestamp,
    pub period_end: Timestamp,
    pub total: Decimal,
    /// What Stripe is, or will be, told.
    pub reported: Decimal,
    pub stripe_customer_id: String,
}

/// What is to be said of a total.
#[derive(Debug, Clone)]
pub struct Entered {
    pub identifier: String,
    pub event_name: String,
    pub units: Decimal,
    /// What was told, with it.
    pub reported: Decimal,
    pub at: Timestamp,
}

/// The totals of periods that ended after `since`, of organizations whose
/// subscription began before the period and has a price for the metric.
pub async fn open(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    since: Timestamp,
) -> Result<Vec<Open>, sqlx::Error> {
    let billed = catalogue.plans().iter().flat_map(|plan| {
        let keys = plan.quotas.keys();
        keys.filter_map(move |metric| Some((metered_lookup_key(plan, metric)?, metric.as_str())))
    });
    let (keys, metrics): (Vec<String>, Vec<&str>) = billed.unzip();
    let rows = sqlx::query!(
        r#"SELECT t.organization_id, t.metric, t.period_start, t.period_end, t.total, t.reported,
                  s.stripe_customer_id AS "stripe_customer_id!"
             FROM usage_totals t
            CROSS JOIN LATERAL (
              SELECT s.stripe_customer_id FROM billing_subscriptions s
                JOIN billing_subscription_items i
                  ON i.organization_id = s.organization_id
                 AND i.stripe_subscription_id = s.stripe_subscription_id
                JOIN unnest($1::text[], $2::text[]) AS billed(lookup_key, metric)
                  ON billed.lookup_key = i.lookup_key AND billed.metric = t.metric
               WHERE s.organization_id = t.organization_id
                 AND coalesce(s.stripe_created_at, s.current_period_start) <= t.period_start
                 AND (s.ended_at IS NULL OR s.ended_at > t.period_start)
               ORDER BY s.stripe_created_at DESC LIMIT 1) s
            WHERE t.period_end > $3
            ORDER BY t.organization_id, t.metric, t.period_start"#,
        &keys,
        &metrics as &[&str],
        since.to_sqlx() as _
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Open {
            organization_id: row.organization_id,
            metric: row.metric,
            period_start: row.period_start.to_jiff(),
            period_end: row.period_end.to_jiff(),
            total: row.total,
            reported: row.reported,
            stripe_customer_id: row.stripe_customer_id,
        })
        .collect())
}

/// Enters a report and what it makes of the total; false: another was first,
/// and nothing may be committed.
pub async fn enter(
    conn: &mut PgConnection,
    total: &Open,
    entered: &Entered,
    now: Timestamp,
) -> Result<bool, sqlx::Error> {
    let noted = sqlx::query!(
        "UPDATE usage_totals SET reported = $5
          WHERE organization_id = $1 AND metric = $2 AND period_start = $3 AND reported = $4",
        total.organization_id,
        total.metric,
        total.period_start.to_sqlx() as _,
        total.reported,
        entered.reported
    )
    .execute(&mut *conn)
    .await?;
    let inserted = sqlx::query_scalar!(
        "INSERT INTO usage_reports (organization_id, identifier, metric, period_start,
                                    stripe_customer_id, event_name, units, at, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (organization_id, identifier) DO NOTHING RETURNING identifier",
        total.organization_id,
        entered.identifier,
        total.metric,
        total.period_start.to_sqlx() as _,
        total.stripe_customer_id,
        entered.event_name,
        entered.units,
        entered.at.to_sqlx() as _,
        now.to_sqlx() as _
    )
    .fetch_optional(conn)
    .await?;
    Ok(noted.rows_affected() == 1 && inserted.is_some())
}

/// A report that Stripe is not known to have.
#[derive(Debug, Clone)]
pub struct Unsent {
    pub organization_id: Uuid,
    pub identifier: String,
    pub metric: String,
    pub stripe_customer_id: String,
    pub event_name: String,
    pub units: Decimal,
    pub at: Timestamp,
    /// When Stripe may have heard of it.
    pub attempted_at: Option<Timestamp>,
}

/// The reports that are to be sent, oldest first.
pub async fn unsent(conn: &mut PgConnection) -> Result<Vec<Unsent>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT organization_id, identifier, metric, stripe_customer_id, event_name, units, at,
                attempted_at
           FROM usage_reports WHERE sent_at IS NULL ORDER BY created_at, identifier"
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Unsent {
            organization_id: row.organization_id,
            identifier: row.identifier,
            metric: row.metric,
            stripe_customer_id: row.stripe_customer_id,
            event_name: row.event_name,
            units: row.units,
            at: row.at.to_jiff(),
            attempted_at: row.attempted_at.map(|at| at.to_jiff()),
        })
        .collect())
}

/// From here on Stripe may have heard of it; the first time counts.
pub async fn attempting(conn: &mut PgConnection, row: &Unsent) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_reports SET attempted_at = coalesce(attempted_at, now())
          WHERE organization_id = $1 AND identifier = $2",
        row.organization_id,
        row.identifier
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn sent(conn: &mut PgConnection, row: &Unsent) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_reports SET sent_at = now(), error_message = NULL
          WHERE organization_id = $1 AND identifier = $2",
        row.organization_id,
        row.identifier
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Records an attempt that failed; `certain`: Stripe did not take it.
pub async fn failed(
    conn: &mut PgConnection,
    row: &Unsent,
    error: &str,
    certain: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE usage_reports SET error_message = $3,
                attempted_at = CASE WHEN $4 THEN NULL ELSE attempted_at END
          WHERE organization_id = $1 AND identifier = $2",
        row.organization_id,
        row.identifier,
        error,
        certain
    )
    .execute(conn)
    .await?;
    Ok(())
}
