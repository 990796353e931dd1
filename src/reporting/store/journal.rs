//! SQL of the journal of recurring revenue.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;

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

/// What an organization pays a month in a currency, and what is booked of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub organization_id: Uuid,
    pub currency: String,
    pub before: i64,
    pub after: i64,
    pub discounted: i64,
    /// The number of its last movement, 0 if there is none, and the movement's time.
    pub sequence: i64,
    pub booked_at: Option<Timestamp>,
}

/// Where the balances of organizations are not what their subscriptions come to now.
pub async fn differences(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<Vec<Difference>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"WITH here AS (
             SELECT unnest($1::uuid[]) AS organization_id
           ), paid AS (
             SELECT here.organization_id, r.currency, r.amount, r.discounted_amount
               FROM here
              -- Found by the key, under any plan.
              CROSS JOIN LATERAL (SELECT * FROM reporting.recurring_revenue r
                                   WHERE r.organization_id = here.organization_id OFFSET 0) r
           ), known AS (
             SELECT * FROM billing_revenue_balances WHERE organization_id = ANY($1)
           )
           SELECT organization_id AS "organization_id!", currency AS "currency!",
                  coalesce(known.amount, 0) AS "before!", coalesce(paid.amount, 0) AS "after!",
                  coalesce(paid.discounted_amount, 0) AS "discounted!",
                  coalesce(known.sequence, 0) AS "sequence!", known.occurred_at AS "booked_at?"
             FROM paid FULL JOIN known USING (organization_id, currency)
            WHERE (coalesce(paid.amount, 0), coalesce(paid.discounted_amount, 0))
                  <> (coalesce(known.amount, 0), coalesce(known.discounted_amount, 0))"#,
        organizations
    )
    .fetch_all(conn)
    .await?;
    let differences = rows.into_iter().map(|row| Difference {
        organization_id: row.organization_id,
        currency: row.currency,
        before: row.before,
        after: row.after,
        discounted: row.discounted,
        sequence: row.sequence,
        booked_at: row.booked_at.map(|at| at.to_jiff()),
    });
    Ok(differences.collect())
}

/// A subscription of the mirror, and what it comes to a month in each currency.
pub struct Mirrored {
    pub organization_id: Uuid,
    pub stripe_subscription_id: String,
    pub last_event_id: String,
    pub last_event_at: Timestamp,
    pub began_at: Timestamp,
    pub amounts: Vec<(String, i64)>,
}

pub async fn mirrored(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<Vec<Mirrored>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT s.organization_id, s.stripe_subscription_id, s.last_event_id, s.last_event_at,
                  least(coalesce(s.trial_end, s.stripe_created_at), s.last_event_at)
                    AS "began_at!",
                  paid.currencies AS "currencies!", paid.amounts AS "amounts!"
             FROM billing_subscriptions s
            CROSS JOIN LATERAL (
              SELECT coalesce(array_agg(currency), '{}') AS currencies,
                     coalesce(array_agg(amount), '{}') AS amounts
                FROM (SELECT currency, sum(monthly_amount)::bigint AS amount
                        FROM reporting.recurring_items i
                       WHERE i.organization_id = s.organization_id
                         AND i.stripe_subscription_id = s.stripe_subscription_id
                         AND i.monthly_amount <> 0
                       GROUP BY currency) sums) paid
            WHERE s.organization_id = ANY($1)"#,
        organizations
    )
    .fetch_all(conn)
    .await?;
    let mirrored = rows.into_iter().map(|row| Mirrored {
        organization_id: row.organization_id,
        stripe_subscription_id: row.stripe_subscription_id,
        last_event_id: row.last_event_id,
        last_event_at: row.last_event_at.to_jiff(),
        began_at: row.began_at.to_jiff(),
        amounts: row.currencies.into_iter().zip(row.amounts).collect(),
    });
    Ok(mirrored.collect())
}

/// An item as an event shows it.
#[derive(Serialize)]
pub struct ShownItem<'a, T: Serialize> {
    pub state: usize,
    pub organization_id: Uuid,
    pub stripe_subscription_id: &'a str,
    pub status: &'a str,
    pub collection_paused: Option<&'a str>,
    pub taxed: bool,
    pub subscription_currency: Option<&'a str>,
    #[serde(flatten)]
    pub item: &'a T,
}

/// What the items come to a month, by state and currency: as `reporting.recurring_items` has it,
/// with the tax share that is known now.
pub async fn priced<T: Serialize>(
    conn: &mut PgConnection,
    items: &[ShownItem<'_, T>],
) -> Result<Vec<(usize, String, i64)>, sqlx::Error> {
    let document =
        serde_json::to_string(items).map_err(|error| sqlx::Error::Encode(error.into()))?;
    let rows = sqlx::query!(
        r#"SELECT i.state AS "state!", lower(coalesce(i.currency, i.subscription_currency)) AS "currency!",
                  sum(billing_monthly_amount(
                    coalesce(i.unit_amount_decimal, i.unit_amount), i.quantity,
                    i.quantity_divide_by, i.quantity_round, i.recurring_interval,
                    i.recurring_interval_count,
                    CASE WHEN i.included_tax_percent > 0
                         THEN ARRAY[100, 100 + i.included_tax_percent]
                         WHEN i.tax_behavior = 'inclusive' AND i.taxed
                              AND coalesce(i.included_tax_percent, 0) = 0
                         THEN billing_untaxed_share(i.organization_id, i.stripe_subscription_id,
                                                    i.stripe_price_id) END))::bigint AS "amount!"
             FROM json_to_recordset($1::text::json) AS i(
                    state bigint, organization_id uuid, stripe_subscription_id text, status text,
                    collection_paused text, taxed boolean, subscription_currency text,
                    stripe_price_id text, currency text, unit_amount bigint,
                    unit_amount_decimal numeric, quantity bigint, quantity_divide_by bigint,
                    quantity_round text, tax_behavior text, included_tax_percent numeric,
                    usage_type text, recurring_interval text, recurring_interval_count integer)
            WHERE i.status IN ('active', 'past_due')
              AND coalesce(i.collection_paused, '') NOT IN ('void', 'mark_uncollectible')
              AND i.usage_type IS DISTINCT FROM 'metered'
              AND i.recurring_interval IS NOT NULL
              AND coalesce(i.unit_amount_decimal, i.unit_amount) IS NOT NULL
              AND coalesce(i.currency, i.subscription_currency) IS NOT NULL
            GROUP BY 1, 2"#,
        document
    )
    .fetch_all(conn)
    .await?;
    let priced = rows.into_iter().filter_map(|row| {
        let state = usize::try_from(row.state).ok()?;
        Some((state, row.currency, row.amount))
    });
    Ok(priced.collect())
}

/// A movement to enter.
#[derive(Debug, Serialize)]
pub struct NewMovement {
    pub organization_id: Uuid,
    pub currency: String,
    pub sequence: i64,
    pub kind: &'static str,
    pub before_amount: i64,
    pub after_amount: i64,
    pub occurred_at: Timestamp,
    pub stripe_subscription_id: String,
    pub stripe_event_id: String,
}

/// A balance to keep.
#[derive(Debug, Serialize)]
pub struct Balance {
    pub organization_id: Uuid,
    pub currency: String,
    pub amount: i64,
    pub discounted_amount: i64,
    pub sequence: i64,
    pub occurred_at: Timestamp,
}

/// Enters movements, adds them to their months, and keeps the balances that they come to.
pub async fn enter(
    conn: &mut PgConnection,
    movements: &[NewMovement],
    balances: &[Balance],
) -> Result<(), sqlx::Error> {
    let document = |rows: Result<String, serde_json::Error>| {
        rows.map_err(|error| sqlx::Error::Encode(error.into()))
    };
    sqlx::query!(
        "WITH booked AS (
           INSERT INTO billing_revenue_movements
                  (organization_id, currency, sequence, kind, before_amount, after_amount,
                   occurred_at, stripe_subscription_id, stripe_event_id)
           SELECT organization_id, currency, sequence, kind, before_amount, after_amount,
                  occurred_at, stripe_subscription_id, stripe_event_id
             FROM json_populate_recordset(NULL::billing_revenue_movements, $1::text::json)
           RETURNING currency, kind, occurred_at, after_amount - before_amount AS amount
         ), added AS (
           INSERT INTO billing_revenue_months AS m (month, currency, kind, movements, amount)
           SELECT date_trunc('month', occurred_at, 'UTC'), currency, kind, count(*), sum(amount)
             FROM booked GROUP BY 1, 2, 3
           ON CONFLICT (month, currency, kind) DO UPDATE
              SET movements = m.movements + excluded.movements,
                  amount = m.amount + excluded.amount
         )
         INSERT INTO billing_revenue_balances
                (organization_id, currency, amount, discounted_amount, sequence, occurred_at)
         SELECT organization_id, currency, amount, discounted_amount, sequence, occurred_at
           FROM json_populate_recordset(NULL::billing_revenue_balances, $2::text::json)
         ON CONFLICT (organization_id, currency) DO UPDATE
            SET amount = excluded.amount, discounted_amount = excluded.discounted_amount,
                sequence = excluded.sequence, occurred_at = excluded.occurred_at",
        document(serde_json::to_string(movements))?,
        document(serde_json::to_string(balances))?
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes all that is booked.
pub async fn forget(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM billing_revenue_movements")
        .execute(&mut *conn)
        .await?;
    sqlx::query!("DELETE FROM billing_revenue_months")
        .execute(&mut *conn)
        .await?;
    sqlx::query!("DELETE FROM billing_revenue_balances")
        .execute(conn)
        .await?;
    Ok(())
}
