//! SQL that reads what mails tell of, as it is now.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

/// To whom a mail goes.
pub struct Addressee {
    pub name: String,
    pub external_id: Option<String>,
    pub email: Option<String>,
    /// Archived or erased.
    pub closed: bool,
}

pub async fn addressee(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<Option<Addressee>, sqlx::Error> {
    sqlx::query_as!(
        Addressee,
        r#"SELECT name, external_id, email,
                  archived_at IS NOT NULL OR erased_at IS NOT NULL AS "closed!"
             FROM organizations WHERE id = $1"#,
        organization_id
    )
    .fetch_optional(conn)
    .await
}

pub struct Invoice {
    pub number: Option<String>,
    pub status: Option<String>,
    pub currency: String,
    pub amount_remaining: i64,
    pub attempt_count: i32,
    pub hosted_invoice_url: Option<String>,
    pub next_payment_attempt: Option<Timestamp>,
    /// A mail says that the payer has to act, and this one would say the same.
    pub acts: bool,
}

pub async fn invoice(
    conn: &mut PgConnection,
    organization_id: Uuid,
    id: &str,
    fact: &str,
) -> Result<Option<Invoice>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT number, status, currency, amount_remaining, attempt_count, hosted_invoice_url,
                  next_payment_attempt,
                  EXISTS (SELECT FROM mails WHERE organization_id = $1
                             AND kind = 'action_required' AND fact = $3) AS "acts!"
             FROM billing_invoices WHERE organization_id = $1 AND stripe_invoice_id = $2"#,
        organization_id,
        id,
        fact
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Invoice {
        number: row.number,
        status: row.status,
        currency: row.currency,
        amount_remaining: row.amount_remaining,
        attempt_count: row.attempt_count,
        hosted_invoice_url: row.hosted_invoice_url,
        next_payment_attempt: row.next_payment_attempt.map(jiff_sqlx::Timestamp::to_jiff),
        acts: row.acts,
    }))
}

/// A trial that still ends at `ends_at`.
pub struct Trial {
    pub plan_tier: Option<String>,
    /// Whether the subscription ends with it.
    pub ends: bool,
}

pub async fn trial(
    conn: &mut PgConnection,
    organization_id: Uuid,
    subscription: &str,
    ends_at: Timestamp,
) -> Result<Option<Trial>, sqlx::Error> {
    sqlx::query_as!(
        Trial,
        r#"SELECT plan_tier,
                  cancel_at_period_end OR coalesce(cancel_at <= trial_end, false) AS "ends!"
             FROM billing_subscriptions
            WHERE organization_id = $1 AND stripe_subscription_id = $2 AND status = 'trialing'
              AND trial_end = $3 AND trial_end > now()"#,
        organization_id,
        subscription,
        ends_at.to_sqlx() as _
    )
    .fetch_optional(conn)
    .await
}

/// A card that expires at the end of this month.
pub struct Card {
    pub brand: Option<String>,
    pub last4: Option<String>,
    pub exp_month: i16,
    pub exp_year: i16,
}

pub async fn card(
    conn: &mut PgConnection,
    organization_id: Uuid,
    id: &str,
) -> Result<Option<Card>, sqlx::Error> {
    sqlx::query_as!(
        Card,
        r#"SELECT brand, last4, exp_month AS "exp_month!", exp_year AS "exp_year!"
             FROM billing_payment_methods
            WHERE organization_id = $1 AND stripe_payment_method_id = $2 AND status = 'attached'
              AND exp_year = extract(year FROM now() AT TIME ZONE 'UTC')
              AND exp_month = extract(month FROM now() AT TIME ZONE 'UTC')"#,
        organization_id,
        id
    )
    .fetch_optional(conn)
    .await
}

/// A threshold that was reached in a period that is not over.
pub struct Quota {
    pub usage: Decimal,
    pub quota: Decimal,
    pub period_end: Timestamp,
    /// Whether all of it is used by now.
    pub reached: bool,
    pub over_limit: Option<String>,
}

pub async fn quota(
    conn: &mut PgConnection,
    organization_id: Uuid,
    metric: &str,
    period_start: Timestamp,
    threshold: i16,
) -> Result<Option<Quota>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT a.usage, a.quota, a.period_end, q.over_limit AS "over_limit?",
                  EXISTS (SELECT FROM usage_alerts b
                           WHERE b.organization_id = $1 AND b.metric = $2
                             AND b.period_start = $3 AND b.threshold >= 100) AS "reached!"
             FROM usage_alerts a
             LEFT JOIN effective_usage_quotas q
               ON q.organization_id = a.organization_id AND q.metric = a.metric
            WHERE a.organization_id = $1 AND a.metric = $2 AND a.period_start = $3
              AND a.threshold = $4 AND a.period_end > now()"#,
        organization_id,
        metric,
        period_start.to_sqlx() as _,
        threshold
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Quota {
        usage: row.usage,
        quota: row.quota,
        period_end: row.period_end.to_jiff(),
        reached: row.reached,
        over_limit: row.over_limit,
    }))
}
