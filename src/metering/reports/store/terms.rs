//! SQL for the terms that periods had: what nothing bills is judged by them for as
//! long as Stripe takes usage, whatever the organization buys afterwards.

use sqlx::PgConnection;
use uuid::Uuid;

/// Keeps the terms of `organizations` with their totals, before they change. They are
/// those of the periods that have ended, and of the one that this very change may cut
/// off; a period that goes on has the new ones.
pub async fn keep(conn: &mut PgConnection, organizations: &[Uuid]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "WITH held AS MATERIALIZED (
           -- The ledger's lock order: totals are written by whoever holds their quota.
           SELECT organization_id, metric, quota, over_limit, overage_rate FROM usage_quotas
            WHERE organization_id = ANY($1)
            ORDER BY organization_id, metric FOR NO KEY UPDATE
         )
         UPDATE usage_totals t
            SET terms_kept_at = now(),
                kept_quota = CASE WHEN v.metric IS NULL THEN held.quota ELSE v.quota END,
                kept_over_limit = coalesce(v.over_limit, held.over_limit),
                kept_overage_rate = held.overage_rate
           FROM held
           LEFT JOIN usage_quota_overrides v
             ON v.organization_id = held.organization_id AND v.metric = held.metric
          WHERE t.organization_id = held.organization_id AND t.metric = held.metric
            AND t.period_end > now() - interval '35 days' AND t.period_start <= now()
            AND (t.terms_kept_at IS NULL OR t.terms_kept_at < t.period_end)",
        organizations
    )
    .execute(conn)
    .await?;
    Ok(())
}
