//! The subscriptions' SQL.

pub mod findings;

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use uuid::Uuid;

use super::state::{Held, Item, Standing};
use crate::catalogue::Catalogue;
use crate::db::TenantTx;

/// The organizations, their plans and their subscriptions, in one round trip;
/// those that do not exist are left out.
pub async fn standings(
    conn: &mut PgConnection,
    organization_ids: &[Uuid],
    catalogue: &Catalogue,
) -> Result<HashMap<Uuid, Standing>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT o.id AS organization_id, o.name, o.plan_tier,
                  (SELECT c.stripe_customer_id FROM billing_customers c
                    WHERE c.organization_id = o.id AND c.deleted_at IS NULL
                      AND c.stripe_customer_id NOT LIKE 'acct\_%'
                    ORDER BY c.linked_at DESC NULLS LAST, c.created_at, c.stripe_customer_id
                    LIMIT 1) AS customer_id,
                  EXISTS (SELECT FROM billing_subscriptions t
                           WHERE t.organization_id = o.id AND t.trial_start IS NOT NULL)
                    AS "had_trial!",
                  s.stripe_subscription_id AS "id?", s.stripe_customer_id AS "held_customer_id?",
                  s.status AS "status?", s.plan_tier AS "held_plan_tier?", s.currency AS "currency?",
                  s.current_period_start AS "period_start?", s.current_period_end AS "period_end?",
                  s.billing_cycle_anchor AS "anchor?", s.billing_mode AS "billing_mode?",
                  s.trial_end AS "trial_end?", s.cancel_at AS "cancel_at?",
                  s.cancel_at_period_end AS "cancel_at_period_end?",
                  s.canceled_at AS "canceled_at?", s.latest_invoice_id AS "latest_invoice_id?",
                  s.discounted AS "discounted?", s.taxed AS "taxed?",
                  s.stripe_test_clock_id AS "test_clock_id?", s.stripe_created_at AS "created?",
                  s.metadata ->> 'billing_change_id' AS change_id,
                  i.stripe_subscription_item_id AS "item_id?", i.stripe_price_id AS "price_id?",
                  i.lookup_key AS "lookup_key?", i.usage_type AS "usage_type?",
                  i.unit_amount AS "unit_amount?", i.recurring_interval AS "interval?",
                  i.recurring_interval_count AS "interval_count?", i.quantity AS "quantity?"
             FROM organizations o
             LEFT JOIN billing_subscriptions s
               ON s.organization_id = o.id AND s.status NOT IN ('canceled', 'incomplete_expired')
             LEFT JOIN billing_subscription_items i
               ON i.organization_id = o.id AND i.stripe_subscription_id = s.stripe_subscription_id
            WHERE o.id = ANY($1)
            ORDER BY i.stripe_subscription_item_id"#,
        organization_ids
    )
    .fetch_all(conn)
    .await?;

    let mut standings = HashMap::<Uuid, (Standing, BTreeMap<String, Held>)>::new();
    for row in rows {
        let (_, held) = standings.entry(row.organization_id).or_insert_with(|| {
            let standing = Standing {
                name: row.name,
                plan_tier: row.plan_tier,
                customer_id: row.customer_id,
                had_trial: row.had_trial,
                subscription: None,
                others: Vec::new(),
            };
            (standing, BTreeMap::new())
        });
        let (Some(id), Some(customer_id), Some(status)) =
            (row.id, row.held_customer_id, row.status)
        else {
            continue;
        };
        let subscription = held.entry(id.clone()).or_insert_with(|| Held {
            id,
            customer_id,
            status,
            plan_tier: row.held_plan_tier,
            currency: row.currency,
            period_start: row.period_start.map(|t| t.to_jiff()),
            period_end: row.period_end.map(|t| t.to_jiff()),
            anchor: row.anchor.map(|t| t.to_jiff()),
            billing_mode: row.billing_mode,
            trial_end: row.trial_end.map(|t| t.to_jiff()),
            cancel_at: row.cancel_at.map(|t| t.to_jiff()),
            cancel_at_period_end: row.cancel_at_period_end.unwrap_or(false),
            canceled_at: row.canceled_at.map(|t| t.to_jiff()),
            latest_invoice_id: row.latest_invoice_id,
            discounted: row.discounted.unwrap_or(false),
            taxed: row.taxed.unwrap_or(false),
            test_clock_id: row.test_clock_id,
            created: row.created.map(|t| t.to_jiff()),
            change_id: row.change_id,
            items: Vec::new(),
        });
        if let Some(id) = row.item_id {
            subscription.items.push(Item {
                id,
                price_id: row.price_id,
                lookup_key: row.lookup_key,
                metered: row.usage_type.as_deref() == Some("metered"),
                unit_amount: row.unit_amount,
                interval: row.interval,
                interval_count: row.interval_count,
                quantity: row.quantity,
            });
        }
    }
    let standings = standings.into_iter().map(|(id, (standing, held))| {
        let (subscription, others) = Standing::choose(held.into_values().collect(), catalogue);
        let standing = Standing {
            subscription,
            others,
            ..standing
        };
        (id, standing)
    });
    Ok(standings.collect())
}

/// A subscription of which Stripe should be asked, and since when.
pub struct Doubt {
    pub organization_id: Uuid,
    pub subscription_id: String,
    pub since: Timestamp,
    /// How often asking has failed.
    pub attempts: i32,
}

/// The subscriptions that are in doubt and due, the longest first.
pub async fn doubts(conn: &mut PgConnection, limit: i64) -> Result<Vec<Doubt>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT organization_id, stripe_subscription_id, ask_again_since AS "since!",
                  recovery_attempts
             FROM billing_subscriptions
            WHERE ask_again_since IS NOT NULL
              AND (next_recovery_at IS NULL OR next_recovery_at <= now())
            ORDER BY ask_again_since LIMIT $1"#,
        limit
    )
    .fetch_all(conn)
    .await?;
    let doubts = rows.into_iter().map(|row| Doubt {
        organization_id: row.organization_id,
        subscription_id: row.stripe_subscription_id,
        since: row.since.to_jiff(),
        attempts: row.recovery_attempts,
    });
    Ok(doubts.collect())
}

/// The doubt is gone, unless it was raised again meanwhile.
pub async fn resolve(tx: &mut TenantTx, doubt: &Doubt) -> Result<(), sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query!(
        "UPDATE billing_subscriptions
            SET ask_again_since = NULL, recovery_attempts = 0, next_recovery_at = NULL
          WHERE organization_id = $1 AND stripe_subscription_id = $2 AND ask_again_since = $3",
        organization_id,
        doubt.subscription_id,
        doubt.since.to_sqlx() as _
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Stripe is asked again after `pause`.
pub async fn postpone(
    tx: &mut TenantTx,
    doubt: &Doubt,
    pause: SignedDuration,
) -> Result<(), sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query!(
        "UPDATE billing_subscriptions
            SET recovery_attempts = recovery_attempts + 1,
                next_recovery_at = now() + $3::bigint * interval '1 second'
          WHERE organization_id = $1 AND stripe_subscription_id = $2",
        organization_id,
        doubt.subscription_id,
        pause.as_secs()
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}
