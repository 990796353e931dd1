//! SQL of subscriptions whose access while past due is to be decided anew.

use billing_domain::past_due::PastDueAccess;
use sqlx::PgConnection;
use uuid::Uuid;

/// Organizations after `after` for whose subscriptions time or the policy has changed what
/// is stored, in order.
pub async fn due(
    conn: &mut PgConnection,
    policy: PastDueAccess,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Uuid>, sqlx::Error> {
    let hours = match policy {
        PastDueAccess::Keep => None,
        PastDueAccess::None => Some(0),
        PastDueAccess::Days(days) => Some(24 * i32::from(days)),
    };
    sqlx::query_scalar!(
        r#"SELECT DISTINCT s.organization_id
             FROM billing_subscriptions s
             LEFT JOIN billing_subscription_payments p
               ON p.organization_id = s.organization_id
              AND p.stripe_subscription_id = s.stripe_subscription_id
            CROSS JOIN LATERAL (
              SELECT s.past_due_since + make_interval(hours => $1::integer) AS at) ends
            WHERE (s.status = 'past_due' OR s.access_ended_at IS NOT NULL)
              AND ($3::uuid IS NULL OR s.organization_id > $3)
              AND CASE WHEN s.status <> 'past_due' THEN true
                  -- A row of before.
                  WHEN s.past_due_since IS NULL AND s.current_period_start IS NOT NULL THEN true
                  ELSE ends.at IS DISTINCT FROM s.access_ends_at
                    -- A test clock may be ahead.
                    OR ($2 OR coalesce(ends.at <= greatest(now(), s.last_event_at,
                                                           p.last_event_at), false))
                       <> (s.access_ended_at IS NOT NULL) END
            ORDER BY s.organization_id LIMIT $4"#,
        hours,
        policy == PastDueAccess::None,
        after,
        limit
    )
    .fetch_all(conn)
    .await
}
