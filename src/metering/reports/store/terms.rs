//! SQL for the terms that periods had: what nothing bills is judged by them for as
//! long as Stripe takes usage, whatever the organization buys afterwards.

use sqlx::PgConnection;
use uuid::Uuid;

/// Keeps the terms of `organizations` with their totals, before they change. They are
/// those of the periods that have ended, and of the one that this very change may cut
/// off; a period that goes on has the new ones.
pub async fn keep(conn: &mut PgConnection, organizations: &[Uuid]) -> Result<(), sqlx::Error> {
    // Totals are written by whoever holds their quota. Only a statement that begins with the
    // locks held sees what their last holder changed.
    super::lock(conn, organizations).await?;
    sqlx::query!(
        "UPDATE usage_totals t
            SET terms_kept_at = now(), kept_quota = q.quota, kept_over_limit = q.over_limit,
                kept_overage_rate = q.overage_rate, kept_added_quota = u.added_quota,
                kept_added_unlimited = u.added_unlimited
           FROM effective_usage_quotas q
           JOIN usage_quotas u ON u.organization_id = q.organization_id AND u.metric = q.metric
          WHERE q.organization_id = ANY($1)
            AND t.organization_id = q.organization_id AND t.metric = q.metric
            AND t.period_end > now() - interval '35 days' AND t.period_start <= now()
            AND (t.terms_kept_at IS NULL OR t.terms_kept_at < t.period_end)",
        organizations
    )
    .execute(conn)
    .await?;
    Ok(())
}
