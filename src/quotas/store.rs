//! The quotas' SQL.

use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::plans::Catalogue;

/// Sets an organization's plan, and its quotas to those of the plan. A tier
/// that the catalogue no longer has keeps the quotas it had.
pub async fn set_plan(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organization_id: Uuid,
    tier: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE organizations SET plan_tier = $2, updated_at = now() WHERE id = $1",
        organization_id,
        tier
    )
    .execute(&mut *conn)
    .await?;
    match catalogue.plan(tier) {
        Some(_) => set_quotas(conn, catalogue, organization_id, tier).await,
        None => {
            tracing::warn!(%organization_id, tier, "the catalogue has no such tier; quotas stay as they were");
            Ok(())
        }
    }
}

async fn set_quotas(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    organization_id: Uuid,
    tier: &str,
) -> Result<(), sqlx::Error> {
    let quotas = catalogue
        .plan(tier)
        .map(|plan| &plan.quotas)
        .into_iter()
        .flatten();
    let (mut metrics, mut limits, mut kinds, mut rates) = (vec![], vec![], vec![], vec![]);
    for (metric, quota) in quotas {
        metrics.push(metric.as_str());
        limits.push(quota.quota);
        kinds.push(quota.over_limit.as_str());
        rates.push(quota.overage_rate);
    }
    sqlx::query!(
        "INSERT INTO usage_quotas (organization_id, metric, plan_tier, unlimited, quota, over_limit,
                                   overage_rate)
         SELECT $1, metric, $2, quota IS NULL, quota, kind, rate
           FROM unnest($3::text[], $4::numeric[], $5::text[], $6::numeric[])
             AS t(metric, quota, kind, rate)
         ON CONFLICT (organization_id, metric) DO UPDATE SET
           plan_tier = excluded.plan_tier, unlimited = excluded.unlimited, quota = excluded.quota,
           over_limit = excluded.over_limit, overage_rate = excluded.overage_rate,
           updated_at = excluded.updated_at",
        organization_id,
        tier,
        &metrics as &[&str],
        &limits as &[Option<Decimal>],
        &kinds as &[&str],
        &rates as &[Option<Decimal>]
    )
    .execute(conn)
    .await?;
    Ok(())
}
