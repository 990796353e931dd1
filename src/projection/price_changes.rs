//! Finds recent changes of a subscription's prices or quantities.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value};
use sqlx::PgConnection;
use uuid::Uuid;

use super::store;
use crate::stripe::event::EventData;

/// Whether an event has changed prices or quantities since `since`.
pub async fn repriced_since(
    conn: &mut PgConnection,
    organization_id: Uuid,
    subscription_id: &str,
    since: Timestamp,
) -> Result<bool, sqlx::Error> {
    let events = store::updates_since(conn, organization_id, subscription_id, since).await?;
    Ok(events
        .iter()
        .filter(|event| event.created >= since)
        .filter_map(|event| EventData::read(&event.payload).ok())
        .any(|data| repriced(&data)))
}

/// Whether the event changes price or quantity of an item. A renewal changes
/// items too, but only their periods.
fn repriced(data: &EventData) -> bool {
    let Some(before) = &data.previous_attributes else {
        return false;
    };
    let older_shape = |before: &Map<String, Value>| {
        ["plan", "quantity"]
            .iter()
            .any(|name| before.contains_key(*name))
    };
    match before.get("items") {
        Some(items) => costs(items) != costs(&data.object["items"]),
        None => older_shape(before),
    }
}

/// Price and quantity of each item.
fn costs(items: &Value) -> BTreeMap<&str, (Option<&str>, Option<i64>)> {
    let items = items["data"].as_array().into_iter().flatten();
    items
        .filter_map(|item| {
            let cost = (item["price"]["id"].as_str(), item["quantity"].as_i64());
            Some((item["id"].as_str()?, cost))
        })
        .collect()
}
