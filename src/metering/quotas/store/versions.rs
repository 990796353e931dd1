//! SQL for the plans that organizations have, and the versions of them.

use sqlx::PgConnection;
use uuid::Uuid;

use super::HeldPlan;
use crate::catalogue::{Bought, Interval, stored_addons};

/// The plans that organizations have, with version, currency, interval and add-ons.
pub async fn held_plans(conn: &mut PgConnection) -> Result<Vec<HeldPlan>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT plan_tier, plan_version, plan_currency, plan_interval, plan_addons
           FROM organizations GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5"
    )
    .fetch_all(conn)
    .await?;
    let held = rows.into_iter().map(|row| {
        Ok(HeldPlan {
            plan_tier: row.plan_tier,
            plan_version: row.plan_version,
            plan_currency: row.plan_currency,
            plan_interval: row.plan_interval,
            plan_addons: stored_addons(Some(row.plan_addons))?,
        })
    });
    held.collect()
}

/// Gives up to 1,000 organizations that bought a plan while it had one price the
/// currency and interval of that, which their quotas have. Returns their number.
pub async fn adopt_prices(conn: &mut PgConnection) -> Result<u64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"WITH adopted AS (
           UPDATE organizations o
              SET unentered_changes = o.unentered_changes + 1, plan_currency = lower(q.currency),
                  plan_interval = coalesce(o.plan_interval, q.plan_interval)
             FROM (SELECT DISTINCT ON (q.organization_id) q.organization_id, q.currency,
                          q.plan_interval
                     FROM usage_quotas q
                    WHERE q.currency IS NOT NULL AND q.organization_id IN (
                      SELECT c.id FROM organizations c
                       WHERE c.plan_currency IS NULL AND c.plan_version IS NOT NULL
                         AND EXISTS (SELECT FROM usage_quotas h
                                      WHERE h.organization_id = c.id AND h.currency IS NOT NULL)
                       ORDER BY c.id LIMIT 1000 FOR UPDATE SKIP LOCKED)
                    ORDER BY q.organization_id, q.metric) q
            WHERE o.id = q.organization_id
           RETURNING o.id),
         -- As for whatever is entered nowhere.
         marked AS (
           INSERT INTO outbound_changes (organization_id)
           SELECT id FROM adopted
            WHERE (SELECT auth.get_current_org_id()) IS NOT NULL
               OR EXISTS (SELECT FROM outbound_endpoints))
         SELECT count(*) AS "count!" FROM adopted"#
    )
    .fetch_one(conn)
    .await
    .map(i64::unsigned_abs)
}

/// Gives up to 1,000 organizations whose plan a subscription pays for the oldest
/// version of it, if they have none: they bought it before there were versions.
/// Returns their number.
pub async fn adopt_oldest(conn: &mut PgConnection) -> Result<u64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"WITH adopted AS (
           UPDATE organizations o
              SET plan_version = oldest.version, unentered_changes = o.unentered_changes + 1
             FROM (SELECT plan_tier, min(version) AS version FROM plan_versions
                    GROUP BY plan_tier) oldest
            WHERE o.plan_version IS NULL AND oldest.plan_tier = o.plan_tier
              AND o.id IN (SELECT c.id FROM organizations c
                            WHERE c.plan_version IS NULL
                              AND EXISTS (SELECT FROM plan_versions v
                                           WHERE v.plan_tier = c.plan_tier)
                              AND EXISTS (SELECT FROM billing_subscriptions s
                                           WHERE s.organization_id = c.id
                                             AND s.plan_tier = c.plan_tier
                                             AND s.status IN ('active', 'trialing', 'past_due'))
                            ORDER BY c.id LIMIT 1000 FOR UPDATE SKIP LOCKED)
           RETURNING o.id),
         -- As for whatever is entered nowhere.
         marked AS (
           INSERT INTO outbound_changes (organization_id)
           SELECT id FROM adopted
            WHERE (SELECT auth.get_current_org_id()) IS NOT NULL
               OR EXISTS (SELECT FROM outbound_endpoints))
         SELECT count(*) AS "count!" FROM adopted"#
    )
    .fetch_one(conn)
    .await
    .map(i64::unsigned_abs)
}

/// An organization whose subscription has a former version of a plan.
#[derive(Debug, Clone)]
pub struct Behind {
    pub organization_id: Uuid,
    pub version: i32,
    pub bought: Bought,
}

/// Organizations whose subscription has a former version of a plan for which Stripe
/// charges the same; all of them, or those `among` these.
pub async fn behind(
    conn: &mut PgConnection,
    tier: &str,
    version: i32,
    among: Option<&[Uuid]>,
    limit: i64,
) -> Result<Vec<Behind>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT o.id, o.plan_version AS "version!", o.plan_currency, o.plan_interval,
                  o.plan_seats, o.plan_addons
             FROM organizations o
             JOIN plan_versions had ON had.plan_tier = $1 AND had.version = o.plan_version
             JOIN plan_versions sold ON sold.plan_tier = $1 AND sold.version = $2
            WHERE o.plan_tier = $1 AND o.plan_version <> $2
              AND had.billed_digest = sold.billed_digest
              AND ($3::uuid[] IS NULL OR o.id = ANY($3))
            ORDER BY o.id LIMIT $4"#,
        tier,
        version,
        among,
        limit
    )
    .fetch_all(conn)
    .await?;
    let behind = rows.into_iter().map(|row| {
        Ok(Behind {
            organization_id: row.id,
            version: row.version,
            bought: Bought {
                currency: row.plan_currency,
                interval: Interval::of(row.plan_interval.as_deref(), None),
                seats: row.plan_seats.and_then(|seats| seats.try_into().ok()),
                addons: stored_addons(Some(row.plan_addons))?,
            },
        })
    });
    behind.collect()
}

/// Sets the version of the organizations' subscriptions to a plan for which Stripe
/// charges the same.
pub async fn set_version(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    tier: &str,
    version: i32,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE billing_subscriptions s SET plan_version = $3
           FROM plan_versions had, plan_versions sold
          WHERE s.organization_id = ANY($1) AND s.plan_tier = $2
            AND s.plan_version IS DISTINCT FROM $3
            AND had.plan_tier = $2 AND had.version = coalesce(s.plan_version, 1)
            AND sold.plan_tier = $2 AND sold.version = $3
            AND had.billed_digest = sold.billed_digest",
        organizations,
        tier,
        version
    )
    .execute(conn)
    .await?;
    Ok(())
}
