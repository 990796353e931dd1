//! SQL of the organizations of each standing, as `reporting.customers` has them. Each list begins
//! with what makes the standing, in the order of ids, and ends with its page: the view looks at
//! all organizations.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::reporting::figures::Customer;

/// Of the candidates `o` that `$from` names in the order of their ids, those for whom `$holds`.
macro_rules! standing {
    ($conn:expr, $standing:expr, $after:expr, $limit:expr, $from:literal, $holds:literal) => {
        sqlx::query_as!(
            Customer,
            r#"SELECT o.id AS "organization_id!", o.name AS "name!", o.external_id,
                      o.plan_tier AS "plan_tier!", $1::text AS "standing!",
                      (SELECT coalesce(json_agg(json_build_object('currency', b.currency,
                                                                  'mrrAmount', b.amount)
                                                ORDER BY b.currency), '[]')
                         FROM billing_revenue_balances b
                        WHERE b.organization_id = o.id AND b.amount > 0) AS "pays!"
                 FROM "#
                + $from
                + r#"
                WHERE o.id > $2 AND o.archived_at IS NULL AND o.erased_at IS NULL
                  AND o.id <> '5a3b1e00-0000-7000-8000-000000000001'
                  AND "#
                + $holds
                + r#"
                ORDER BY o.id LIMIT $3"#,
            $standing,
            $after,
            $limit
        )
        .fetch_all($conn)
        .await
    };
}

/// Organizations of a standing after an id.
pub async fn customers(
    conn: &mut PgConnection,
    standing: &str,
    after: Uuid,
    limit: i64,
) -> Result<Vec<Customer>, sqlx::Error> {
    // One row of an organization is looked for at a time, which is never made a join: it would
    // read all of them. Most organizations may pay, and so their balances are walked along.
    match standing {
        "past_due" => standing!(
            conn,
            standing,
            after,
            limit,
            "(SELECT DISTINCT organization_id FROM billing_subscriptions
               WHERE status IN ('past_due', 'unpaid') AND organization_id > $2) late
             JOIN organizations o ON o.id = late.organization_id",
            "true"
        ),
        "paying" => standing!(
            conn,
            standing,
            after,
            limit,
            "(WITH RECURSIVE walk AS (
                SELECT $2::uuid AS organization_id, 0::bigint AS found, false AS stands
                UNION ALL
                SELECT next.organization_id, walk.found + next.stands::integer, next.stands
                  FROM walk
                 CROSS JOIN LATERAL (
                   SELECT b.organization_id,
                          (SELECT 1 FROM billing_subscriptions s
                            WHERE s.organization_id = b.organization_id
                              AND s.status IN ('past_due', 'unpaid') LIMIT 1) IS NULL
                          AND (SELECT 1 FROM organizations o
                                WHERE o.id = b.organization_id AND o.archived_at IS NULL
                                  AND o.erased_at IS NULL
                                  AND o.id <> '5a3b1e00-0000-7000-8000-000000000001' LIMIT 1)
                              IS NOT NULL AS stands
                     FROM billing_revenue_balances b
                    WHERE b.amount > 0 AND b.organization_id > walk.organization_id
                    ORDER BY b.organization_id LIMIT 1) next
                 WHERE walk.found < $3)
              SELECT organization_id FROM walk WHERE stands) paid
             JOIN organizations o ON o.id = paid.organization_id",
            "true"
        ),
        "trialing" => standing!(
            conn,
            standing,
            after,
            limit,
            "(SELECT DISTINCT organization_id FROM billing_subscriptions
               WHERE status = 'trialing' AND organization_id > $2) tries
             JOIN organizations o ON o.id = tries.organization_id",
            "(SELECT 1 FROM billing_subscriptions s
               WHERE s.organization_id = o.id AND s.status IN ('past_due', 'unpaid') LIMIT 1) IS NULL
             AND (SELECT 1 FROM billing_revenue_balances b
                   WHERE b.organization_id = o.id AND b.amount > 0 LIMIT 1) IS NULL"
        ),
        _ => standing!(
            conn,
            standing,
            after,
            limit,
            "organizations o",
            "(SELECT 1 FROM billing_revenue_balances b
               WHERE b.organization_id = o.id AND b.amount > 0 LIMIT 1) IS NULL
             AND (SELECT 1 FROM billing_subscriptions s
                   WHERE s.organization_id = o.id
                     AND s.status IN ('past_due', 'unpaid', 'trialing') LIMIT 1) IS NULL"
        ),
    }
}
