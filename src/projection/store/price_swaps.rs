//! SQL that finds the metered prices that subscriptions had until now.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::unzip;
use crate::metering::charges::UsageCharge;
use crate::projection::versions::merge::ObjectKey;

/// An item that charges the usage of a metric.
#[derive(Debug, Clone)]
pub struct HeldItem {
    pub id: String,
    pub metric: String,
    pub price_id: String,
}

/// The metered items of each subscription as it is stored, and our change that its
/// metadata names.
pub async fn metered_items(
    conn: &mut PgConnection,
    keys: &[ObjectKey],
) -> Result<BTreeMap<ObjectKey, (Vec<HeldItem>, Option<String>)>, sqlx::Error> {
    let (organizations, ids) = unzip(keys);
    let rows = sqlx::query!(
        r#"SELECT s.organization_id, s.stripe_subscription_id,
                  s.metadata ->> 'billing_change_id' AS change,
                  i.id AS "item?", i.metric AS "metric?", i.price AS "price?"
             FROM unnest($1::uuid[], $2::text[]) AS k(organization, id)
             JOIN billing_subscriptions s
               ON s.organization_id = k.organization AND s.stripe_subscription_id = k.id
             LEFT JOIN LATERAL (
               SELECT i.stripe_subscription_item_id AS id, i.stripe_price_id AS price,
                      -- An older replica does not say what an item is for.
                      coalesce(i.metric, b.metric) AS metric
                 FROM billing_subscription_items i
                 LEFT JOIN billing_prices b ON b.stripe_price_id = i.stripe_price_id
                WHERE i.organization_id = s.organization_id
                  AND i.stripe_subscription_id = s.stripe_subscription_id) i
               ON i.metric IS NOT NULL"#,
        &organizations,
        &ids as &[&str]
    )
    .fetch_all(conn)
    .await?;
    let mut held: BTreeMap<ObjectKey, (Vec<HeldItem>, Option<String>)> = BTreeMap::new();
    for row in rows {
        let key = (row.organization_id, row.stripe_subscription_id);
        let (items, change) = held.entry(key).or_default();
        *change = row.change;
        if let (Some(id), Some(metric), Some(price_id)) = (row.item, row.metric, row.price) {
            items.push(HeldItem {
                id,
                metric,
                price_id,
            });
        }
    }
    Ok(held)
}

/// What changes of ours have Stripe charge for usage, by organization and change. An
/// older replica's change charged nothing and is left out.
pub async fn charges_of(
    conn: &mut PgConnection,
    changes: &[(Uuid, Uuid)],
) -> Result<BTreeMap<(Uuid, Uuid), Vec<UsageCharge>>, sqlx::Error> {
    if changes.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (organizations, ids): (Vec<Uuid>, Vec<Uuid>) = changes.iter().copied().unzip();
    let rows = sqlx::query!(
        r#"SELECT k.organization AS "organization!", k.id AS "id!",
                  r.context -> 'usage' AS "usage: Value"
             FROM unnest($1::uuid[], $2::uuid[]) AS k(organization, id)
             JOIN billing_stripe_requests r
               ON r.organization_id = k.organization AND r.context ->> 'id' = k.id::text"#,
        &organizations,
        &ids
    )
    .fetch_all(conn)
    .await?;
    let mut charges = BTreeMap::new();
    for row in rows {
        let Some(usage) = row.usage else { continue };
        let usage =
            serde_json::from_value(usage).map_err(|error| sqlx::Error::Decode(error.into()))?;
        charges.insert((row.organization, row.id), usage);
    }
    Ok(charges)
}
