//! SQL that tells mirrored items what their prices are for, where those became known later.

use sqlx::PgConnection;
use uuid::Uuid;

/// Some organizations that have subscriptions whose prices became known later, or are among
/// the `corrected` ones, and that are not to be fetched from Stripe yet.
pub async fn untold(
    conn: &mut PgConnection,
    corrected: &[String],
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT DISTINCT s.organization_id AS "organization_id!"
             FROM billing_subscription_items i
             JOIN billing_prices p USING (stripe_price_id)
             JOIN billing_subscriptions s USING (organization_id, stripe_subscription_id)
            WHERE s.ask_again_since IS NULL
              -- An older replica writes an add-on's empty plan.
              AND ((nullif(i.plan_tier, '') IS NULL AND i.addon IS NULL)
                   OR i.stripe_price_id = ANY($1))
              AND s.status NOT IN ('canceled', 'incomplete_expired') ORDER BY 1 LIMIT 500"#,
        corrected
    )
    .fetch_all(conn)
    .await
}

/// Marks the subscriptions of `organizations` whose prices became known later, or
/// are among the `corrected` ones, as stale: mirrored anew, they get their plan, quotas and version as any other.
pub async fn mark_untold(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    corrected: &[String],
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE billing_subscriptions s SET ask_again_since = now()
          WHERE s.organization_id = ANY($1) AND s.ask_again_since IS NULL
            AND s.status NOT IN ('canceled', 'incomplete_expired')
            AND EXISTS (SELECT FROM billing_subscription_items i
                          JOIN billing_prices p USING (stripe_price_id)
                         WHERE i.organization_id = s.organization_id
                           AND i.stripe_subscription_id = s.stripe_subscription_id
                           AND ((nullif(i.plan_tier, '') IS NULL AND i.addon IS NULL)
                                OR i.stripe_price_id = ANY($2)))",
        organizations,
        corrected
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Tells items of subscriptions what their prices are for, where the prices became
/// known later.
pub async fn tell_items(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<(), sqlx::Error> {
    // What an add-on adds follows only when its subscription is mirrored anew.
    sqlx::query!(
        "WITH told AS (
           UPDATE billing_subscription_items i
              SET plan_tier = nullif(p.plan_tier, ''), metric = p.metric, seats = p.seats,
                  addon = p.addon
             FROM billing_prices p
            WHERE p.stripe_price_id = i.stripe_price_id AND nullif(i.plan_tier, '') IS NULL
              AND i.addon IS NULL AND i.organization_id = ANY($1)
           RETURNING i.organization_id, i.stripe_subscription_id, i.addon)
         UPDATE billing_subscriptions s SET ask_again_since = now()
          WHERE s.organization_id = ANY($1) AND s.ask_again_since IS NULL
            AND s.status NOT IN ('canceled', 'incomplete_expired')
            AND EXISTS (SELECT FROM told
                         WHERE told.organization_id = s.organization_id
                           AND told.stripe_subscription_id = s.stripe_subscription_id
                           AND told.addon IS NOT NULL)",
        organizations
    )
    .execute(&mut *conn)
    .await?;
    // The plan of the subscription follows: the only one that its fees pay for.
    sqlx::query!(
        "UPDATE billing_subscriptions s SET plan_tier = told.plan_tier
           FROM (SELECT i.organization_id, i.stripe_subscription_id, min(i.plan_tier) AS plan_tier
                   FROM billing_subscription_items i
                  WHERE nullif(i.plan_tier, '') IS NOT NULL AND i.metric IS NULL
                    AND i.organization_id = ANY($1)
                  GROUP BY i.organization_id, i.stripe_subscription_id
                 HAVING count(DISTINCT i.plan_tier) = 1) told
          WHERE s.plan_tier IS NULL AND told.organization_id = s.organization_id
            AND told.stripe_subscription_id = s.stripe_subscription_id",
        organizations
    )
    .execute(&mut *conn)
    .await?;
    tell_phases(conn, organizations).await
}

/// The same for the items of scheduled phases.
async fn tell_phases(conn: &mut PgConnection, organizations: &[Uuid]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE billing_subscription_schedules h SET phases = told.phases
           FROM (SELECT s.organization_id, s.stripe_schedule_id,
                        jsonb_agg(jsonb_set(phase, '{items}', (
                          SELECT coalesce(jsonb_agg(
                                   item || jsonb_strip_nulls(jsonb_build_object(
                                     'planTier', nullif(p.plan_tier, ''), 'metric', p.metric,
                                     'seats', nullif(p.seats, false), 'addon', p.addon,
                                     'interval', CASE WHEN p.recurring_interval_count = 1
                                       AND p.recurring_interval IN ('month', 'year')
                                       THEN p.recurring_interval END))
                                   ORDER BY i.n), '[]')
                            FROM jsonb_array_elements(phase -> 'items')
                                 WITH ORDINALITY AS i(item, n)
                            LEFT JOIN billing_prices p ON p.stripe_price_id = item ->> 'price'
                        )) ORDER BY ph.n) AS phases
                   FROM billing_subscription_schedules s,
                        jsonb_array_elements(s.phases) WITH ORDINALITY AS ph(phase, n)
                  WHERE s.organization_id = ANY($1)
                  GROUP BY s.organization_id, s.stripe_schedule_id) told
          WHERE h.organization_id = told.organization_id
            AND h.stripe_schedule_id = told.stripe_schedule_id AND h.phases <> told.phases",
        organizations
    )
    .execute(conn)
    .await?;
    Ok(())
}
