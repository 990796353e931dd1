//! SQL for the plans and versions that organizations have.

use sqlx::PgConnection;

/// The tiers that organizations have, or run on, and how many do.
pub async fn held_tiers(conn: &mut PgConnection) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT plan_tier AS "plan_tier!", count(*) AS "organizations!"
             FROM (SELECT id, plan_tier FROM organizations
                   UNION
                   SELECT organization_id, plan_tier FROM billing_subscriptions
                    WHERE status NOT IN ('canceled', 'incomplete_expired')) held
            WHERE plan_tier IS NOT NULL
            GROUP BY plan_tier ORDER BY plan_tier"#
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.plan_tier, row.organizations))
        .collect())
}

/// Running subscriptions that have a version at one of its prices.
#[derive(Debug, Clone)]
pub struct Holders {
    pub plan_tier: String,
    pub version: i32,
    pub currency: Option<String>,
    /// `None`: not known, or one by which no plan is sold.
    pub plan_interval: Option<String>,
    pub subscriptions: i64,
}

/// How many run on each version, by currency and interval.
pub async fn holders(conn: &mut PgConnection) -> Result<Vec<Holders>, sqlx::Error> {
    sqlx::query_as!(
        Holders,
        r#"SELECT plan_tier AS "plan_tier!", coalesce(plan_version, 1) AS "version!",
                  lower(currency) AS currency, plan_interval, count(*) AS "subscriptions!"
             FROM billing_subscriptions
            WHERE status IN ('active', 'trialing', 'past_due') AND plan_tier IS NOT NULL
            GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"#
    )
    .fetch_all(conn)
    .await
}
