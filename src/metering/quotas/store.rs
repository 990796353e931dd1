//! SQL for quotas and their overrides.

use rust_decimal::Decimal;
use serde::Serialize;
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use super::AppliedCatalogue;
use crate::catalogue::{Catalogue, OverLimit, Plan};
use crate::db::TenantTx;
use crate::features;
use crate::server::number::Number;

/// A quota in force.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Quota)]
pub struct QuotaRow {
    #[schema(example = "api_calls")]
    pub metric: String,
    /// Per billing period; null if unlimited.
    #[schema(required)]
    pub quota: Option<Number>,
    /// `hard`, `grace` or `overage`.
    pub over_limit: String,
    /// The price of one unit over the quota: a decimal number in the currency's
    /// major unit; null if overage is not billed.
    #[schema(required)]
    pub overage_rate: Option<String>,
    pub plan_tier: String,
    /// Whether an operator's override replaces the plan's quota.
    pub overridden: bool,
}

impl QuotaRow {
    /// Whether usage over the quota is allowed but has no price.
    pub fn is_never_billed(&self) -> bool {
        self.over_limit == OverLimit::Overage.as_str()
            && self.quota.is_some()
            && self.overage_rate.is_none()
    }
}

macro_rules! quota_row {
    ($row:expr) => {
        QuotaRow {
            metric: $row.metric,
            quota: $row.quota.map(Number),
            over_limit: $row.over_limit,
            overage_rate: $row
                .overage_rate
                .map(|rate: Decimal| rate.normalize().to_string()),
            plan_tier: $row.plan_tier,
            overridden: $row.overridden,
        }
    };
}

/// The quotas of an organization, by metric.
pub async fn list(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<Vec<QuotaRow>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT q.metric, CASE WHEN v.metric IS NULL THEN q.quota ELSE v.quota END AS quota,
                  coalesce(v.over_limit, q.over_limit) AS "over_limit!",
                  CASE WHEN coalesce(v.over_limit, q.over_limit) = 'overage'
                        AND NOT coalesce(v.unlimited, q.unlimited) THEN q.overage_rate END
                    AS overage_rate,
                  q.plan_tier, v.metric IS NOT NULL AS "overridden!"
             FROM usage_quotas q
             LEFT JOIN usage_quota_overrides v
               ON v.organization_id = q.organization_id AND v.metric = q.metric
            WHERE q.organization_id = $1 ORDER BY q.metric"#,
        organization_id
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| quota_row!(row)).collect())
}

/// Locks a quota; the ledger counts nothing under it meanwhile.
pub async fn lock_one(tx: &mut TenantTx, metric: &str) -> Result<Option<QuotaRow>, sqlx::Error> {
    let organization_id = tx.organization_id();
    let locked = sqlx::query!(
        r#"SELECT 1 AS "locked!" FROM usage_quotas WHERE organization_id = $1 AND metric = $2
              FOR NO KEY UPDATE"#,
        organization_id,
        metric
    )
    .fetch_optional(tx.conn())
    .await?;
    if locked.is_none() {
        return Ok(None);
    }
    let quotas = list(tx.conn(), organization_id).await?;
    Ok(quotas.into_iter().find(|quota| quota.metric == metric))
}

pub async fn put_override(
    tx: &mut TenantTx,
    metric: &str,
    quota: Option<Decimal>,
    over_limit: Option<OverLimit>,
) -> Result<(), sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query!(
        "INSERT INTO usage_quota_overrides (organization_id, metric, unlimited, quota, over_limit)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (organization_id, metric) DO UPDATE SET
           unlimited = excluded.unlimited, quota = excluded.quota,
           over_limit = excluded.over_limit, updated_at = excluded.updated_at",
        organization_id,
        metric,
        quota.is_none(),
        quota,
        over_limit.map(OverLimit::as_str)
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

pub async fn remove_override(tx: &mut TenantTx, metric: &str) -> Result<(), sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query!(
        "DELETE FROM usage_quota_overrides WHERE organization_id = $1 AND metric = $2",
        organization_id,
        metric
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The organizations on a plan.
pub async fn organizations_of(
    conn: &mut PgConnection,
    tier: &str,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT id FROM organizations WHERE plan_tier = $1 ORDER BY id",
        tier
    )
    .fetch_all(conn)
    .await
}

/// Updates the quotas of those of `organizations` that are still on `plan`.
pub async fn refresh(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    plan: &Plan,
) -> Result<AppliedCatalogue, sqlx::Error> {
    // The lock keeps a concurrent plan change from being undone. Organizations
    // locked by another transaction are skipped so that the rest need not wait.
    let free = sqlx::query_scalar!(
        "SELECT id FROM organizations WHERE id = ANY($1) AND plan_tier = $2
          ORDER BY id FOR SHARE SKIP LOCKED",
        organizations,
        plan.tier
    )
    .fetch_all(&mut *conn)
    .await?;
    let still = sqlx::query_scalar!(
        r#"WITH locked AS MATERIALIZED (
             SELECT organization_id, metric FROM usage_quotas
              WHERE organization_id = ANY($1)
              ORDER BY organization_id, metric FOR NO KEY UPDATE SKIP LOCKED)
           SELECT id AS "id!" FROM unnest($1::uuid[]) AS free(id)
            WHERE NOT EXISTS (
              SELECT FROM usage_quotas q
               WHERE q.organization_id = free.id
                 AND NOT EXISTS (SELECT FROM locked l
                                  WHERE l.organization_id = q.organization_id
                                    AND l.metric = q.metric))"#,
        &free
    )
    .fetch_all(&mut *conn)
    .await?;
    let left: i64 = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM organizations
            WHERE id = ANY($1) AND plan_tier = $2 AND NOT id = ANY($3)"#,
        organizations,
        plan.tier,
        &still
    )
    .fetch_one(&mut *conn)
    .await?;
    let features = features::assign(conn, &still, plan).await?;
    Ok(AppliedCatalogue {
        changed: set_quotas(conn, &still, plan).await? + features,
        skipped: usize::try_from(left).unwrap_or(usize::MAX),
    })
}

/// Sets the plan of `organizations` and updates their quotas to match. A tier
/// that the catalogue no longer has leaves the quotas unchanged.
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
        Some(plan) => {
            features::assign(conn, organizations, plan).await?;
            set_quotas(conn, organizations, plan).await.map(drop)
        }
        None => {
            tracing::warn!(
                tier,
                "the catalogue has no such tier; quotas are left unchanged"
            );
            Ok(())
        }
    }
}

async fn set_quotas(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    plan: &Plan,
) -> Result<u64, sqlx::Error> {
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
          -- The ledger's lock order.
          ORDER BY organization, metric
         ON CONFLICT (organization_id, metric) DO UPDATE SET
           plan_tier = excluded.plan_tier, unlimited = excluded.unlimited, quota = excluded.quota,
           over_limit = excluded.over_limit, overage_rate = excluded.overage_rate,
           updated_at = excluded.updated_at
         WHERE (usage_quotas.plan_tier, usage_quotas.quota, usage_quotas.over_limit,
                usage_quotas.overage_rate)
            IS DISTINCT FROM (excluded.plan_tier, excluded.quota, excluded.over_limit,
                              excluded.overage_rate)",
        organizations,
        plan.tier,
        &metrics as &[&str],
        &limits as &[Option<Decimal>],
        &kinds as &[&str],
        &rates as &[Option<Decimal>]
    )
    .execute(conn)
    .await
    .map(|done| done.rows_affected())
}
