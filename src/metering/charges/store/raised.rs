//! SQL for usage over a quota that add-ons are about to raise.

use rust_decimal::Decimal;
use sqlx::PgConnection;
use uuid::Uuid;

use super::super::booking::PriceSwap;
use crate::catalogue::Plan;

/// What a metered price charges over the quota, in the period that goes on.
pub struct OverSoFar {
    /// The same price before and after.
    pub swap: PriceSwap,
    pub used: Decimal,
    pub adjustment: Decimal,
    pub quota: Decimal,
    pub rate: Decimal,
    pub currency: String,
    /// Whether there is no limit any more.
    pub freed: bool,
}

/// Reads what `organizations` are over the quotas by that the add-ons of `plan`, which they
/// are about to have, raise. Neither a trial's usage is charged, nor that of a period which
/// ends with the change: it has the quotas that it had.
#[expect(clippy::too_many_lines, reason = "it is one query")]
pub async fn over_so_far(
    conn: &mut PgConnection,
    plan: &Plan,
    organizations: &[Uuid],
) -> Result<Vec<OverSoFar>, sqlx::Error> {
    let added = plan
        .quotas
        .iter()
        .map(|(metric, quota)| (metric, quota.added));
    let raised = added.filter(|(_, added)| added.unlimited || added.units > Decimal::ZERO);
    let raised: Vec<_> = raised.collect();
    let metrics: Vec<&str> = raised.iter().map(|(metric, _)| metric.as_str()).collect();
    let units: Vec<Decimal> = raised.iter().map(|(_, added)| added.units).collect();
    let freed: Vec<bool> = raised.iter().map(|(_, added)| added.unlimited).collect();
    let rows = sqlx::query!(
        r#"SELECT t.organization_id, t.metric, t.period_start, t.period_end, t.total,
                  t.quota_adjustment, q.quota AS "quota!",
                  coalesce(i.overage_rate, q.overage_rate) AS "rate!", q.currency AS "currency!",
                  s.stripe_subscription_id, s.stripe_customer_id AS "stripe_customer_id!",
                  i.stripe_price_id AS "stripe_price_id!", new.freed AS "freed!",
                  -- A test clock may be ahead of ours.
                  greatest(now(), t.period_start) AS "at!"
             FROM unnest($2::text[], $3::numeric[], $4::boolean[]) AS new(metric, added, freed)
             JOIN usage_quotas u
               ON u.organization_id = ANY($1) AND u.metric = new.metric
              AND (new.added > u.added_quota OR (new.freed AND NOT u.added_unlimited))
             JOIN effective_usage_quotas q
               ON q.organization_id = u.organization_id AND q.metric = u.metric
             JOIN usage_totals t
               ON t.organization_id = u.organization_id AND t.metric = u.metric
             JOIN billing_subscriptions s
               ON s.organization_id = t.organization_id
              AND s.stripe_subscription_id
                = billing_usage_subscription(t.organization_id, t.period_start, $5)
              AND t.period_start = coalesce(s.usage_period_start, s.current_period_start)
             JOIN LATERAL (
               SELECT i.stripe_price_id, b.overage_rate
                 FROM billing_subscription_items i
                 LEFT JOIN billing_prices b ON b.stripe_price_id = i.stripe_price_id
                WHERE i.organization_id = s.organization_id
                  AND i.stripe_subscription_id = s.stripe_subscription_id
                  AND coalesce(i.metric, b.metric) = t.metric
                ORDER BY i.stripe_price_id LIMIT 1) i ON true
            WHERE s.status IN ('active', 'past_due') AND s.access_ended_at IS NULL
              AND (s.trial_end > t.period_start) IS NOT TRUE
              AND t.billed_by IS NULL
              AND NOT q.overridden AND q.over_limit = 'overage' AND q.currency IS NOT NULL
              AND coalesce(i.overage_rate, q.overage_rate) IS NOT NULL
              AND t.total > t.quota_adjustment + q.quota
            ORDER BY t.organization_id, t.metric"#,
        organizations,
        &metrics as &[&str],
        &units,
        &freed,
        plan.tier
    )
    .fetch_all(conn)
    .await?;
    let over = rows.into_iter().map(|row| OverSoFar {
        used: row.total,
        adjustment: row.quota_adjustment,
        quota: row.quota,
        rate: row.rate,
        currency: row.currency,
        freed: row.freed,
        swap: PriceSwap {
            organization_id: row.organization_id,
            subscription_id: row.stripe_subscription_id,
            customer_id: row.stripe_customer_id,
            metric: row.metric,
            period_start: row.period_start.to_jiff(),
            period_end: row.period_end.to_jiff(),
            at: row.at.to_jiff(),
            counts_anew_from: None,
            old_price: Some(row.stripe_price_id.clone()),
            new_price: Some(row.stripe_price_id),
            flexible: false,
            ours: None,
            same_period: true,
            is_late: false,
        },
    });
    Ok(over.collect())
}
