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
                  i.stripe_subscription_item_id AS "item?", i.metric AS "metric?",
                  i.stripe_price_id AS "price?"
             FROM unnest($1::uuid[], $2::text[]) AS k(organization, id)
             JOIN billing_subscriptions s
               ON s.organization_id = k.organization AND s.stripe_subscription_id = k.id
             LEFT JOIN billing_subscription_items i
               ON i.organization_id = s.organization_id
              AND i.stripe_subscription_id = s.stripe_subscription_id
              AND i.metric IS NOT NULL"#,
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

/// What a change of ours has Stripe charge for usage; `None` if there is no such
/// change, or an older replica made it, which charged nothing.
pub async fn charges_of(
    conn: &mut PgConnection,
    organization_id: Uuid,
    change: Uuid,
) -> Result<Option<Vec<UsageCharge>>, sqlx::Error> {
    let usage = sqlx::query_scalar!(
        r#"SELECT context -> 'usage' AS "usage: Value" FROM billing_stripe_requests
            WHERE organization_id = $1 AND context ->> 'id' = $2"#,
        organization_id,
        change.to_string()
    )
    .fetch_optional(conn)
    .await?;
    let Some(usage) = usage.flatten() else {
        return Ok(None);
    };
    serde_json::from_value(usage).map_err(|error| sqlx::Error::Decode(error.into()))
}
