//! SQL of what subscriptions were, and of what the mirror learned to keep later.

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::document;
use crate::projection::SubscriptionState;

/// The newest `depth` events that were applied to each subscription of `organizations`, and
/// whose they are.
pub async fn recent_events(
    conn: &mut PgConnection,
    organizations: &[Uuid],
    depth: i64,
) -> Result<Vec<(Uuid, String)>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT s.organization_id, e.stripe_event_id
           FROM billing_subscriptions s
          CROSS JOIN LATERAL (
            SELECT stripe_event_id FROM billing_applied_events e
             WHERE e.organization_id = s.organization_id
               AND e.resource_id = s.stripe_subscription_id
               AND e.event_type LIKE 'customer.subscription.%'
             ORDER BY e.event_created_at DESC LIMIT $2) e
          WHERE s.organization_id = ANY($1)",
        organizations,
        depth
    )
    .fetch_all(conn)
    .await?;
    let events = rows.into_iter();
    Ok(events
        .map(|row| (row.organization_id, row.stripe_event_id))
        .collect())
}

/// Completes the rows that these states wrote with what the mirror did not keep before.
pub async fn complete_terms(
    conn: &mut PgConnection,
    states: &[(Uuid, &SubscriptionState)],
) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = states
        .iter()
        .map(|(organization, state)| {
            json!({
                "organization_id": organization, "stripe_subscription_id": state.shown.id,
                "last_event_id": state.event_id,
                "collection_paused": state.shown.collection_paused,
            })
        })
        .collect();
    sqlx::query!(
        "UPDATE billing_subscriptions s SET collection_paused = told.collection_paused
           FROM json_populate_recordset(NULL::billing_subscriptions, $1::text::json) told
          WHERE s.organization_id = told.organization_id
            AND s.stripe_subscription_id = told.stripe_subscription_id
            AND s.last_event_id = told.last_event_id
            AND s.collection_paused IS DISTINCT FROM told.collection_paused",
        document(&rows)?
    )
    .execute(&mut *conn)
    .await?;
    let items: Vec<_> = states
        .iter()
        .flat_map(|(organization, state)| {
            state.shown.items.iter().map(move |item| {
                json!({
                    "organization_id": organization, "stripe_subscription_id": state.shown.id,
                    "stripe_subscription_item_id": item.id,
                    "stripe_price_id": item.price_id,
                    "quantity_divide_by": item.quantity_divide_by,
                    "quantity_round": item.quantity_round, "tax_behavior": item.tax_behavior,
                    "included_tax_percent": item.included_tax_percent,
                })
            })
        })
        .collect();
    sqlx::query!(
        "UPDATE billing_subscription_items i
            SET quantity_divide_by = told.quantity_divide_by,
                quantity_round = told.quantity_round, tax_behavior = told.tax_behavior,
                included_tax_percent = told.included_tax_percent
           FROM json_populate_recordset(NULL::billing_subscription_items, $1::text::json) told
          WHERE i.organization_id = told.organization_id
            AND i.stripe_subscription_id = told.stripe_subscription_id
            AND i.stripe_subscription_item_id = told.stripe_subscription_item_id
            AND i.stripe_price_id IS NOT DISTINCT FROM told.stripe_price_id
            AND (i.quantity_divide_by, i.quantity_round, i.tax_behavior, i.included_tax_percent)
                IS DISTINCT FROM (told.quantity_divide_by, told.quantity_round,
                                  told.tax_behavior, told.included_tax_percent)",
        document(&items)?
    )
    .execute(conn)
    .await?;
    Ok(())
}
