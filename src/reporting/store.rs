//! SQL of the journal, and of the views in schema `reporting`.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

use super::figures::{
    Customer, CustomerCount, Month, Movement, Owed, Place, Revenue, Trials, Used,
};

/// How far the journal has read. Its row is locked; `None` while another process has it.
pub struct Journal {
    pub ran_at: Option<Timestamp>,
    pub compared_at: Option<Timestamp>,
    pub now: Timestamp,
}

pub async fn lock(conn: &mut PgConnection) -> Result<Option<Journal>, sqlx::Error> {
    sqlx::query!(
        "INSERT INTO billing_revenue_journal (name) VALUES ('journal') ON CONFLICT DO NOTHING"
    )
    .execute(&mut *conn)
    .await?;
    let row = sqlx::query!(
        r#"SELECT ran_at, compared_at, now() AS "now!" FROM billing_revenue_journal
            WHERE name = 'journal' FOR UPDATE SKIP LOCKED"#
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Journal {
        ran_at: row.ran_at.map(|at| at.to_jiff()),
        compared_at: row.compared_at.map(|at| at.to_jiff()),
        now: row.now.to_jiff(),
    }))
}

pub async fn ran(conn: &mut PgConnection, compared_all: bool) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE billing_revenue_journal
            SET ran_at = now(), compared_at = CASE WHEN $1 THEN now() ELSE compared_at END
          WHERE name = 'journal'",
        compared_all
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The organizations whose subscriptions were written since.
pub async fn written_since(
    conn: &mut PgConnection,
    since: Timestamp,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT DISTINCT organization_id FROM billing_subscriptions
          WHERE updated_at >= $1 ORDER BY organization_id",
        since.to_sqlx() as _
    )
    .fetch_all(conn)
    .await
}

/// Organizations with subscriptions, by id.
pub async fn next(
    conn: &mut PgConnection,
    after: Uuid,
    limit: i64,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT DISTINCT organization_id FROM billing_subscriptions
          WHERE organization_id > $1 ORDER BY organization_id LIMIT $2",
        after,
        limit
    )
    .fetch_all(conn)
    .await
}

/// Brings the balances of organizations to what their subscriptions are now, and enters what
/// moved. Returns how many movements that is.
pub async fn book(conn: &mut PgConnection, organizations: &[Uuid]) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"WITH here AS (
             SELECT unnest($1::uuid[]) AS organization_id
           ), paid AS (
             SELECT here.organization_id, r.currency, r.amount, r.discounted_amount, r.began_at
               FROM here
              -- Found by the key, under any plan.
              CROSS JOIN LATERAL (SELECT * FROM reporting.recurring_revenue r
                                   WHERE r.organization_id = here.organization_id OFFSET 0) r
           ), newest AS (
             SELECT here.organization_id, s.stripe_subscription_id, s.last_event_id, s.last_event_at
               FROM here
              CROSS JOIN LATERAL (SELECT * FROM billing_subscriptions s
                                   WHERE s.organization_id = here.organization_id
                                   ORDER BY last_event_at DESC, stripe_subscription_id LIMIT 1) s
           ), known AS (
             SELECT * FROM billing_revenue_balances WHERE organization_id = ANY($1)
           ), changed AS (
             SELECT organization_id, currency, coalesce(known.amount, 0) AS before,
                    coalesce(paid.amount, 0) AS after,
                    coalesce(paid.discounted_amount, 0) AS discounted,
                    coalesce(known.sequence, 0) AS sequence,
                    CASE WHEN known.sequence IS NULL THEN paid.began_at
                         ELSE greatest(known.occurred_at, newest.last_event_at) END AS occurred_at,
                    stripe_subscription_id, last_event_id
               FROM paid FULL JOIN known USING (organization_id, currency)
               JOIN newest USING (organization_id)
              WHERE (coalesce(paid.amount, 0), coalesce(paid.discounted_amount, 0))
                    <> (coalesce(known.amount, 0), coalesce(known.discounted_amount, 0))
           ), booked AS (
             INSERT INTO billing_revenue_movements
                    (organization_id, currency, sequence, kind, before_amount, after_amount,
                     occurred_at, stripe_subscription_id, stripe_event_id)
             SELECT organization_id, currency, sequence + 1,
                    CASE WHEN before = 0 AND sequence = 0 THEN 'new'
                         WHEN before = 0 THEN 'reactivation'
                         WHEN after = 0 THEN 'churn'
                         WHEN after > before THEN 'expansion'
                         ELSE 'contraction' END,
                    before, after, occurred_at, stripe_subscription_id, last_event_id
               FROM changed WHERE before <> after
             RETURNING currency, kind, occurred_at, after_amount - before_amount AS amount
           ), added AS (
             INSERT INTO billing_revenue_months AS m (month, currency, kind, movements, amount)
             SELECT date_trunc('month', occurred_at, 'UTC'), currency, kind, count(*), sum(amount)
               FROM booked GROUP BY 1, 2, 3
             ON CONFLICT (month, currency, kind) DO UPDATE
                SET movements = m.movements + excluded.movements,
                    amount = m.amount + excluded.amount
           ), kept AS (
             INSERT INTO billing_revenue_balances AS balance
                    (organization_id, currency, amount, discounted_amount, sequence, occurred_at)
             SELECT organization_id, currency, after, discounted,
                    sequence + (before <> after)::integer, occurred_at
               FROM changed
             ON CONFLICT (organization_id, currency) DO UPDATE
                SET amount = excluded.amount, discounted_amount = excluded.discounted_amount,
                    sequence = excluded.sequence,
                    occurred_at = CASE WHEN balance.sequence = excluded.sequence
                                       THEN balance.occurred_at ELSE excluded.occurred_at END
           )
           SELECT count(*) AS "movements!" FROM booked"#,
        organizations
    )
    .fetch_one(conn)
    .await
}

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

/// Organizations of a standing after an id. Those that are few are found by what makes them so.
pub async fn customers(
    conn: &mut PgConnection,
    standing: &str,
    after: Uuid,
    limit: i64,
) -> Result<Vec<Customer>, sqlx::Error> {
    sqlx::query_as!(
        Customer,
        r#"SELECT c.organization_id AS "organization_id!", c.name AS "name!", c.external_id,
                  c.plan_tier AS "plan_tier!", c.standing AS "standing!",
                  (SELECT coalesce(json_agg(json_build_object('currency', b.currency,
                                                              'mrrAmount', b.amount)
                                            ORDER BY b.currency), '[]')
                     FROM billing_revenue_balances b
                    WHERE b.organization_id = c.organization_id AND b.amount > 0) AS "pays!"
             FROM reporting.customers c
            WHERE c.standing = $1 AND c.organization_id > $2
              AND ($1 NOT IN ('past_due', 'trialing') OR c.organization_id IN (
                    SELECT s.organization_id FROM billing_subscriptions s
                     WHERE s.status IN ('trialing', 'past_due', 'unpaid')))
            ORDER BY c.organization_id LIMIT $3"#,
        standing,
        after,
        limit
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
