//! SQL of the projection.
//!
//! Rows are sent as one JSON document per statement: a batch is one round trip
//! per table, and the table defines the types.

pub mod charges;
pub mod checkout_sessions;
pub mod customers;
pub mod discounts;
pub mod disputes;
pub mod erasure;
pub mod extracts;
pub mod invoice_lines;
pub mod invoice_payments;
pub mod invoices;
mod mirrored;
pub mod past_due;
pub mod payment_methods;
pub mod price_swaps;
pub mod refunds;
pub mod schedules;
pub mod subscription_history;
pub mod subscriptions;
pub mod unclaimed;

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::decode::Decoded;
use super::types::NewAlert;
use super::versions::Version;
use super::versions::merge::ObjectKey;
use crate::event_log::bucket_of;

/// The organizations of `claimed` that exist.
pub async fn existing_organizations(
    conn: &mut PgConnection,
    claimed: &HashSet<Uuid>,
) -> Result<HashSet<Uuid>, sqlx::Error> {
    if claimed.is_empty() {
        return Ok(HashSet::new());
    }
    let claimed: Vec<Uuid> = claimed.iter().copied().collect();
    let ids = sqlx::query_scalar!("SELECT id FROM organizations WHERE id = ANY($1)", &claimed)
        .fetch_all(conn)
        .await?;
    Ok(ids.into_iter().collect())
}

/// A stored event that was applied before.
pub struct KeptEvent {
    pub id: String,
    pub event_type: String,
    pub created: Timestamp,
    pub payload: String,
}

/// The events of organizations with these ids that are still stored: whole, or the
/// extract that is left after retention removed the payload. An event that is being
/// replayed is among the dead letters until it succeeds.
pub async fn kept_events(
    conn: &mut PgConnection,
    wanted: &[(Uuid, &str)],
) -> Result<Vec<KeptEvent>, sqlx::Error> {
    let (organizations, ids): (Vec<Uuid>, Vec<&str>) = wanted.iter().copied().unzip();
    let buckets: Vec<i16> = ids.iter().map(|id| bucket_of(id)).collect();
    let rows = sqlx::query!(
        r#"WITH wanted AS (SELECT * FROM unnest($1::smallint[], $2::text[], $3::uuid[])
                                       AS wanted(bucket, id, organization))
           SELECT e.stripe_event_id AS "id!", e.event_type AS "event_type!",
                  e.event_created_at AS "created!",
                  CASE WHEN e.payload_removed_at IS NULL THEN e.payload
                       ELSE coalesce(a.extract, e.payload) END::text AS "payload!"
             FROM wanted
             JOIN webhook_events e ON e.bucket = wanted.bucket AND e.stripe_event_id = wanted.id
             LEFT JOIN billing_applied_events a
               ON a.organization_id = wanted.organization AND a.stripe_event_id = wanted.id
           UNION ALL
           SELECT a.stripe_event_id, a.event_type, a.event_created_at, a.extract::text
             FROM wanted
             JOIN billing_applied_events a
               ON a.organization_id = wanted.organization AND a.stripe_event_id = wanted.id
            WHERE a.extract IS NOT NULL
              AND NOT EXISTS (SELECT FROM webhook_events e
                               WHERE e.bucket = wanted.bucket AND e.stripe_event_id = wanted.id)
           UNION ALL
           SELECT d.stripe_event_id, d.event_type, d.event_created_at, d.payload::text
             FROM wanted
             JOIN webhook_dead_letter_queue d
               ON d.bucket = wanted.bucket AND d.stripe_event_id = wanted.id"#,
        &buckets,
        &ids as &[&str],
        &organizations
    )
    .fetch_all(conn)
    .await?;
    let kept = rows.into_iter().map(|row| KeptEvent {
        id: row.id,
        event_type: row.event_type,
        created: row.created.to_jiff(),
        payload: row.payload,
    });
    Ok(kept.collect())
}

/// The events applied to a subscription.
pub async fn events_of(
    conn: &mut PgConnection,
    organization_id: Uuid,
    subscription_id: &str,
) -> Result<Vec<KeptEvent>, sqlx::Error> {
    let ids = sqlx::query_scalar!(
        "SELECT stripe_event_id FROM billing_applied_events
          WHERE organization_id = $1 AND resource_id = $2
            AND event_type LIKE 'customer.subscription.%'",
        organization_id,
        subscription_id
    )
    .fetch_all(&mut *conn)
    .await?;
    kept_events_of(conn, organization_id, &ids).await
}

async fn kept_events_of(
    conn: &mut PgConnection,
    organization_id: Uuid,
    ids: &[String],
) -> Result<Vec<KeptEvent>, sqlx::Error> {
    let wanted: Vec<_> = ids.iter().map(|id| (organization_id, &**id)).collect();
    kept_events(conn, &wanted).await
}

/// The organizations whose given subscription was ever updated.
pub async fn updated(
    conn: &mut PgConnection,
    subscriptions: &[(Uuid, &str)],
) -> Result<HashSet<Uuid>, sqlx::Error> {
    if subscriptions.is_empty() {
        return Ok(HashSet::new());
    }
    let (organizations, ids): (Vec<Uuid>, Vec<&str>) = subscriptions.iter().copied().unzip();
    let updated = sqlx::query_scalar!(
        r#"SELECT k.organization_id AS "id!"
             FROM unnest($1::uuid[], $2::text[]) AS k(organization_id, subscription_id)
            WHERE EXISTS (SELECT FROM billing_applied_events e
                           WHERE e.organization_id = k.organization_id
                             AND e.resource_id = k.subscription_id
                             AND e.event_type LIKE 'customer.subscription.%'
                             AND e.event_type = 'customer.subscription.updated')"#,
        &organizations,
        &ids as &[&str]
    )
    .fetch_all(conn)
    .await?;
    Ok(updated.into_iter().collect())
}

/// The events that updated a subscription since `since`.
pub async fn updates_since(
    conn: &mut PgConnection,
    organization_id: Uuid,
    subscription_id: &str,
    since: Timestamp,
) -> Result<Vec<KeptEvent>, sqlx::Error> {
    // Events applied before their times were stored may be of any time.
    let ids = sqlx::query_scalar!(
        "SELECT stripe_event_id FROM billing_applied_events
          WHERE organization_id = $1 AND resource_id = $2
            AND (event_created_at >= $3 OR event_created_at IS NULL)
            AND event_type LIKE 'customer.subscription.%'
            AND event_type = 'customer.subscription.updated'",
        organization_id,
        subscription_id,
        since.to_sqlx() as _
    )
    .fetch_all(&mut *conn)
    .await?;
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    kept_events_of(conn, organization_id, &ids).await
}

/// Stores which events were applied to which objects.
pub async fn applied_events(
    conn: &mut PgConnection,
    events: &[Decoded<'_>],
) -> Result<(), sqlx::Error> {
    let owned = || {
        events
            .iter()
            .filter_map(|event| Some((event.owner?, event)))
    };
    let organizations: Vec<Uuid> = owned().map(|(owner, _)| owner).collect();
    let ids: Vec<&str> = owned().map(|(_, event)| event.stored.id.as_str()).collect();
    let types: Vec<&str> = owned()
        .map(|(_, event)| event.stored.event_type.as_str())
        .collect();
    let resources: Vec<&str> = owned().map(|(_, event)| event.object.id()).collect();
    let times: Vec<jiff_sqlx::Timestamp> = owned()
        .map(|(_, event)| event.stored.created.to_sqlx())
        .collect();
    sqlx::query!(
        "INSERT INTO billing_applied_events (
           organization_id, stripe_event_id, event_type, resource_id, event_created_at)
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
         ON CONFLICT DO NOTHING",
        &organizations,
        &ids as &[&str],
        &types as &[&str],
        &resources as &[&str],
        &times as _
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Raises `alerts` and returns the new ones. An alert that is raised again keeps
/// the earliest time.
pub async fn alerts(
    conn: &mut PgConnection,
    alerts: Vec<NewAlert>,
) -> Result<Vec<NewAlert>, sqlx::Error> {
    if alerts.is_empty() {
        return Ok(alerts);
    }
    let mut raised = BTreeMap::<(Uuid, &'static str, String), NewAlert>::new();
    for alert in alerts {
        let key = (alert.organization_id, alert.kind, alert.key.clone());
        raised
            .entry(key)
            .and_modify(|first| first.occurred_at = first.occurred_at.min(alert.occurred_at))
            .or_insert(alert);
    }
    let rows: Vec<_> = raised
        .values()
        .map(|alert| {
            json!({
                "organization_id": alert.organization_id, "kind": alert.kind,
                "alert_key": alert.key, "resource_type": alert.resource_type,
                "resource_id": alert.resource_id, "message": alert.message,
                "occurred_at": alert.occurred_at,
            })
        })
        .collect();
    let new = sqlx::query!(
        r#"INSERT INTO billing_alerts (organization_id, kind, alert_key, resource_type, resource_id,
                                       message, occurred_at)
           SELECT organization_id, kind, alert_key, resource_type, resource_id, message, occurred_at
             FROM json_populate_recordset(NULL::billing_alerts, $1::text::json)
           ON CONFLICT (organization_id, kind, alert_key)
           DO UPDATE SET occurred_at = excluded.occurred_at
            WHERE excluded.occurred_at < billing_alerts.occurred_at
           RETURNING organization_id, kind, alert_key, xmax = 0 AS "inserted!""#,
        document(&rows)?
    )
    .fetch_all(conn)
    .await?;
    let new: HashSet<(Uuid, String, String)> = new
        .into_iter()
        .filter(|row| row.inserted)
        .map(|row| (row.organization_id, row.kind, row.alert_key))
        .collect();
    let is_new = |alert: &NewAlert| {
        new.contains(&(
            alert.organization_id,
            alert.kind.to_owned(),
            alert.key.clone(),
        ))
    };
    Ok(raised.into_values().filter(is_new).collect())
}

/// Rows as a JSON document for `json_populate_recordset`.
fn document<T: Serialize>(rows: &[T]) -> Result<String, sqlx::Error> {
    serde_json::to_string(rows).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// The keys as two arrays for `unnest`.
fn unzip(keys: &[ObjectKey]) -> (Vec<Uuid>, Vec<&str>) {
    keys.iter()
        .map(|(organization, id)| (*organization, id.as_str()))
        .unzip()
}

fn version(
    last_event_at: jiff_sqlx::Timestamp,
    last_event_rank: i16,
    last_event_id: String,
    tied_event_ids: Vec<String>,
) -> Version {
    Version {
        last_event_at: last_event_at.to_jiff(),
        last_event_rank,
        last_event_id,
        tied_event_ids,
    }
}
