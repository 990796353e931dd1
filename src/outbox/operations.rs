//! What operators do with deliveries: list them, send them again, and recover what an
//! endpoint missed.

use jiff::Timestamp;
use serde_json::json;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::endpoints::{By, EndpointError, found};
use super::store::deliveries::{self as store, Delivery, Filter, Place, Position, Recovered};
use super::store::endpoints as endpoint_store;
use crate::audit::{self, NewEntry, OPERATORS};
use crate::db::WorkerTx;

pub const RESENT: &str = "event_deliveries_resent";
pub const RECOVERED: &str = "event_deliveries_recovered";

/// Deliveries, newest first.
pub async fn list(
    pool: &PgPool,
    filter: &Filter,
    after: Option<&Position>,
    limit: i64,
) -> Result<Vec<Delivery>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    store::list(tx.conn(), filter, after, limit).await
}

/// A delivery, with the body of its event.
pub async fn find(pool: &PgPool, id: Uuid) -> Result<Option<(Delivery, String)>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    store::find(tx.conn(), id).await
}

/// Sends deliveries again, whatever became of them. Returns those of `ids` that there are.
pub async fn resend(pool: &PgPool, ids: &[Uuid], by: &By) -> Result<Vec<Uuid>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let locked = audit::lock_chains(tx.conn(), &[OPERATORS]).await?;
    let resent = store::resend(tx.conn(), ids).await?;
    if !resent.is_empty() {
        let entry = entry(
            RESENT,
            "event_delivery",
            resent[0],
            json!({"deliveries": resent}),
            by,
        );
        audit::record(&mut tx, &locked, &[entry]).await?;
    }
    tx.commit().await?;
    Ok(resent)
}

/// Events that are recovered in one transaction.
const RECOVERED_AT_ONCE: i64 = 1_000;

/// Sends an endpoint what it has not got of the events made from `since` to `until`, a
/// batch after the other. One that is stopped in between is safe to repeat.
pub async fn recover(
    pool: &PgPool,
    endpoint_id: Uuid,
    since: Timestamp,
    until: Timestamp,
    by: &By,
) -> Result<Recovered, EndpointError> {
    let mut tx = WorkerTx::begin(pool).await?;
    found(tx.conn(), endpoint_id).await?;
    let locked = audit::lock_chains(tx.conn(), &[OPERATORS]).await?;
    let after = json!({"since": since, "until": until});
    let entry = entry(RECOVERED, "event_endpoint", endpoint_id, after, by);
    audit::record(&mut tx, &locked, &[entry]).await?;
    tx.commit().await?;
    let mut recovered = Recovered {
        deliveries: 0,
        events: 0,
    };
    let mut place = Place {
        created_at: since,
        organization_id: Uuid::nil(),
        sequence: 0,
    };
    loop {
        let mut tx = WorkerTx::begin(pool).await?;
        let limit = RECOVERED_AT_ONCE;
        let events = store::to_recover(tx.conn(), endpoint_id, &place, until, limit).await?;
        let Some(last) = events.last() else {
            return Ok(recovered);
        };
        place = last.clone();
        let mut organizations: Vec<Uuid> =
            events.iter().map(|event| event.organization_id).collect();
        organizations.sort_unstable();
        organizations.dedup();
        store::lock_lanes_of(tx.conn(), endpoint_id, &organizations).await?;
        let known = endpoint_store::lock(tx.conn(), endpoint_id).await?;
        known.ok_or(EndpointError::Unknown(endpoint_id))?;
        recovered.deliveries += store::recover(tx.conn(), endpoint_id, &events).await?;
        recovered.events += events.len() as u64;
        tx.commit().await?;
        if events.len() < usize::try_from(limit).unwrap_or(usize::MAX) {
            return Ok(recovered);
        }
    }
}

/// Sends the alerts again that were given up.
pub async fn resend_alerts(pool: &PgPool) -> Result<u64, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let locked = audit::lock_chains(tx.conn(), &[OPERATORS]).await?;
    let alerts = store::resend_alerts(tx.conn()).await?;
    if alerts > 0 {
        let entry = entry(
            RESENT,
            "usage_alert",
            OPERATORS,
            json!({"alerts": alerts}),
            &By::SYSTEM,
        );
        audit::record(&mut tx, &locked, &[entry]).await?;
    }
    tx.commit().await?;
    Ok(alerts)
}

fn entry(
    action: &'static str,
    resource_type: &'static str,
    resource_id: Uuid,
    after: serde_json::Value,
    by: &By,
) -> NewEntry {
    NewEntry {
        organization_id: OPERATORS,
        action,
        actor: by.actor,
        resource_type,
        resource_id: resource_id.to_string(),
        before: None,
        after: Some(after),
        metadata: by.metadata(),
        client: by.client.clone(),
        reason: None,
    }
}
