//! SQL of the views in schema `reporting`, and of the journal.

mod customers;
pub mod journal;

pub use customers::customers;

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;

use super::figures::{CustomerCount, Month, Movement, Owed, Place, Revenue, Trials, Used};

/// Until when movements are booked.
pub async fn booked_until(conn: &mut PgConnection) -> Result<Option<Timestamp>, sqlx::Error> {
    let ran = sqlx::query_scalar!("SELECT ran_at FROM billing_revenue_journal")
        .fetch_optional(conn)
        .await?;
    Ok(ran.flatten().map(|at| at.to_jiff()))
}

pub async fn revenue(conn: &mut PgConnection) -> Result<Vec<Revenue>, sqlx::Error> {
    sqlx::query_as!(
        Revenue,
        r#"SELECT currency AS "currency!", mrr_amount AS "mrr_amount!",
                  discounted_mrr_amount AS "discounted_mrr_amount!", customers AS "customers!"
             FROM reporting.mrr ORDER BY currency"#
    )
    .fetch_all(conn)
    .await
}

/// The months from `from`, newest first.
pub async fn months(conn: &mut PgConnection, from: Timestamp) -> Result<Vec<Month>, sqlx::Error> {
    sqlx::query_as!(
        Month,
        r#"SELECT to_char(month AT TIME ZONE 'UTC', 'YYYY-MM') AS "month!", currency AS "currency!",
                  opening_amount AS "opening_amount!", new_amount AS "new_amount!",
                  reactivation_amount AS "reactivation_amount!",
                  expansion_amount AS "expansion_amount!",
                  contraction_amount AS "contraction_amount!", churn_amount AS "churn_amount!",
                  closing_amount AS "closing_amount!", opening_customers AS "opening_customers!",
                  new_customers AS "new_customers!",
                  reactivated_customers AS "reactivated_customers!",
                  churned_customers AS "churned_customers!",
                  closing_customers AS "closing_customers!",
                  customer_churn_percent::text AS customer_churn_percent,
                  revenue_churn_percent::text AS revenue_churn_percent,
                  net_retention_percent::text AS net_retention_percent
             FROM reporting.mrr_months m WHERE m.month >= $1 ORDER BY m.month DESC, currency"#,
        from.to_sqlx() as _
    )
    .fetch_all(conn)
    .await
}

/// Trials that ended in the months from `from`, newest first, and those that run.
pub async fn trials(conn: &mut PgConnection, from: Timestamp) -> Result<Vec<Trials>, sqlx::Error> {
    sqlx::query_as!(
        Trials,
        r#"SELECT to_char(ends_at AT TIME ZONE 'UTC', 'YYYY-MM') AS "month!", count(*) AS "ended!",
                  count(*) FILTER (WHERE state = 'converted') AS "converted!",
                  count(*) FILTER (WHERE state = 'unpaid') AS "unpaid!",
                  count(*) FILTER (WHERE state = 'lost') AS "lost!",
                  round(100.0 * count(*) FILTER (WHERE state = 'converted') / count(*), 2)::text
                    AS "conversion_percent!"
             FROM reporting.trials
            WHERE ends_at >= $1 AND ends_at <= now() AND state <> 'running'
            GROUP BY 1 ORDER BY 1 DESC"#,
        from.to_sqlx() as _
    )
    .fetch_all(conn)
    .await
}

/// How many trials run, and how many of them end within seven days.
pub async fn running_trials(conn: &mut PgConnection) -> Result<(i64, i64), sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT count(*) AS "running!",
                  count(*) FILTER (WHERE trial_end < now() + interval '7 days') AS "ending!"
             FROM billing_subscriptions
            WHERE status = 'trialing' AND organization_id <> $1"#,
        crate::tenancy::SAMPLE
    )
    .fetch_one(conn)
    .await?;
    Ok((row.running, row.ending))
}

pub async fn owed(conn: &mut PgConnection) -> Result<Vec<Owed>, sqlx::Error> {
    sqlx::query_as!(
        Owed,
        r#"SELECT currency AS "currency!", count(*) AS "subscriptions!",
                  sum(invoices)::bigint AS "invoices!", sum(owed_amount)::bigint AS "owed_amount!"
             FROM reporting.past_due WHERE currency IS NOT NULL GROUP BY currency ORDER BY currency"#
    )
    .fetch_all(conn)
    .await
}

pub async fn at_risk(conn: &mut PgConnection) -> Result<Vec<Used>, sqlx::Error> {
    sqlx::query_as!(
        Used,
        r#"SELECT organization_id AS "organization_id!", metric AS "metric!", currency,
                  overage AS "overage!", overage_rate AS "overage_rate!"
             FROM reporting.usage_at_risk"#
    )
    .fetch_all(conn)
    .await
}

pub async fn customer_counts(conn: &mut PgConnection) -> Result<Vec<CustomerCount>, sqlx::Error> {
    sqlx::query_as!(
        CustomerCount,
        r#"SELECT plan_tier AS "plan_tier!", standing AS "standing!", count(*) AS "organizations!"
             FROM reporting.customers GROUP BY 1, 2 ORDER BY 1, 2"#
    )
    .fetch_all(conn)
    .await
}

/// Which movements to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub from: Option<Timestamp>,
    /// Exclusive.
    pub to: Option<Timestamp>,
    pub kind: Option<String>,
    pub currency: Option<String>,
}

/// Movements, newest first.
pub async fn movements(
    conn: &mut PgConnection,
    filter: &Filter,
    after: Option<&Place>,
    limit: i64,
) -> Result<Vec<Movement>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT m.organization_id, o.name AS "name?", m.currency, m.sequence, m.kind,
                  m.before_amount, m.after_amount, m.occurred_at, m.booked_at,
                  m.stripe_subscription_id, m.stripe_event_id
             FROM (SELECT * FROM billing_revenue_movements
                    WHERE ($1::timestamptz IS NULL OR occurred_at >= $1)
                      AND ($2::timestamptz IS NULL OR occurred_at < $2)
                      AND ($3::text IS NULL OR kind = $3)
                      AND ($4::text IS NULL OR currency = $4)
                      AND ($5::timestamptz IS NULL
                           OR (occurred_at, organization_id, currency, sequence) < ($5, $6, $7, $8))
                    ORDER BY occurred_at DESC, organization_id DESC, currency DESC, sequence DESC
                    LIMIT $9) m
             LEFT JOIN organizations o ON o.id = m.organization_id
            ORDER BY m.occurred_at DESC, m.organization_id DESC, m.currency DESC, m.sequence DESC"#,
        filter.from.map(|at| at.to_sqlx()) as _,
        filter.to.map(|at| at.to_sqlx()) as _,
        filter.kind,
        filter.currency,
        after.map(|at| at.occurred_at.to_sqlx()) as _,
        after.map(|at| at.organization_id),
        after.map(|at| at.currency.as_str()),
        after.map(|at| at.sequence),
        limit
    )
    .fetch_all(conn)
    .await?;
    let movements = rows.into_iter().map(|row| Movement {
        organization_id: row.organization_id,
        name: row.name,
        currency: row.currency,
        sequence: row.sequence,
        kind: row.kind,
        before_amount: row.before_amount,
        after_amount: row.after_amount,
        occurred_at: row.occurred_at.to_jiff(),
        booked_at: row.booked_at.to_jiff(),
        stripe_subscription_id: row.stripe_subscription_id,
        stripe_event_id: row.stripe_event_id,
    });
    Ok(movements.collect())
}
