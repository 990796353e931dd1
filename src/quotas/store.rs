//! The quotas' SQL.

use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::plans::{Catalogue, Plan};

/// Sets the plan of `organizations`, and their quotas to those of the plan. A
/// tier that the catalogue no longer has leaves the quotas as they were.
pub async fn set_plan(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organizations: &[Uuid],
    tier: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE organizations SET plan_tier = $2, updated_at = now() WHERE id = ANY($1)",
        organizations,
        tier
    )
    .execute(&mut *conn)
    .await?;
    match catalogue.plan(tier) {
        Some(plan) => set_quotas(conn, organizations, plan).await,
        None => {
            tracing::warn!(
                tier,
                "the catalogue has no such tier; quotas stay as they were"
            );
            Ok(())
        }
    }
}

async fn set_quotas(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    plan: &Plan,
) -> Result<(), sqlx::Error> {
    let (mut metrics, mut limits, mut kinds, mut rates) = (vec![], vec![], vec![], vec![]);
    for (metric, quota) in &plan.quotas {
        metrics.push(metric.as_str());
        limits.push(quota.quota);
        kinds.push(quota.over_limit.as_str());
        rates.push(quota.overage_rate);
    }
    sqlx::query!(
        "INSERT INTO usage_quotas (organization_id, metric, plan_tier, unlimited, quota, over_limit,
                                   overage_rate)
         SELECT organization, metric, $2, quota IS NULL, quota, kind, rate
           FROM unnest($1::uuid[]) AS o(organization)
          CROSS JOIN unnest($3::text[], $4::numeric[], $5::text[], $6::numeric[])
             AS t(metric, quota, kind, rate)
         ON CONFLICT (organization_id, metric) DO UPDATE SET
           plan_tier = excluded.plan_tier, unlimited = excluded.unlimited, quota = excluded.quota,
           over_limit = excluded.over_limit, overage_rate = excluded.overage_rate,
           updated_at = excluded.updated_at",
        organizations,
        plan.tier,
        &metrics as &[&str],
        &limits as &[Option<Decimal>],
        &kinds as &[&str],
        &rates as &[Option<Decimal>]
    )
    .execute(conn)
    .await?;
    Ok(())
}
