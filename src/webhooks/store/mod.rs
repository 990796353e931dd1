//! SQL of the webhook event log.

pub mod bulk;
pub mod dead_letters;
pub mod differences;
mod hours;
pub mod inspect;
pub mod leases;
mod rehearsal;
pub mod rejections;
pub mod replays;

pub use hours::{Hour, hours};
pub use rehearsal::rehearse;

use std::collections::HashSet;

use axum::body::Bytes;
use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgConnection, PgHasArrayType, PgTypeInfo};
use sqlx::{Encode, Postgres, Type};

use super::intake::{Delivery, Source};
use crate::event_log::bucket_of;
use crate::telemetry::trace_context::TraceParent;

/// Wakes the workers of other replicas.
pub const NOTIFY: &str = "NOTIFY webhook_events";
pub const CHANNEL: &str = "webhook_events";

/// JSON text that is sent to PostgreSQL byte for byte.
struct RawJson<'a>(&'a [u8]);

impl Type<Postgres> for RawJson<'_> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("json")
    }
}

impl PgHasArrayType for RawJson<'_> {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("_json")
    }
}

impl Encode<'_, Postgres> for RawJson<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(self.0);
        Ok(IsNull::No)
    }
}

/// Stores `group` in one statement, which is its own transaction, and returns
/// the new ids: those that were neither in the event log nor among the dead
/// letters. Usually there are no dead letters; that is checked first, since a
/// join with them costs a fifth of the statement. One event and many take the
/// same statement.
pub async fn insert(
    conn: &mut PgConnection,
    group: &[Delivery],
    source: Source,
) -> Result<HashSet<String>, sqlx::Error> {
    let size = group.len();
    let mut buckets = Vec::with_capacity(size);
    let mut ids = Vec::with_capacity(size);
    let mut types = Vec::with_capacity(size);
    let mut versions = Vec::with_capacity(size);
    let mut modes = Vec::with_capacity(size);
    let mut accounts = Vec::with_capacity(size);
    let mut times = Vec::with_capacity(size);
    let mut payloads = Vec::with_capacity(size);
    let mut traces = Vec::with_capacity(size);
    for delivery in group {
        let envelope = &delivery.envelope;
        buckets.push(bucket_of(&envelope.id));
        ids.push(envelope.id.as_str());
        types.push(envelope.event_type.as_str());
        versions.push(envelope.api_version.as_deref());
        modes.push(envelope.livemode);
        accounts.push(envelope.account.as_deref());
        times.push(created_at(envelope.created)?);
        payloads.push(RawJson(&delivery.payload));
        traces.push(envelope.trace.as_ref().map(TraceParent::as_str));
    }
    let stored = sqlx::query_scalar!(
        "INSERT INTO webhook_events (bucket, stripe_event_id, event_type, api_version, livemode,
                                     account, event_created_at, payload, traceparent,
                                     source)
         SELECT new.*, $10 FROM unnest($1::smallint[], $2::text[], $3::text[], $4::text[], $5::boolean[],
                              $6::text[], $7::timestamptz[], $8::json[], $9::text[])
             AS new(bucket, id, type, version, livemode, account, created, payload, traceparent)
          WHERE NOT EXISTS (SELECT FROM webhook_dead_letter_queue)
             OR NOT EXISTS (SELECT FROM webhook_dead_letter_queue dead
                             WHERE dead.bucket = new.bucket AND dead.stripe_event_id = new.id)
         ON CONFLICT DO NOTHING
         RETURNING stripe_event_id",
        &buckets,
        &ids as &[&str],
        &types as &[&str],
        &versions as &[Option<&str>],
        &modes,
        &accounts as &[Option<&str>],
        &times as _,
        &payloads as &[RawJson<'_>] as _,
        &traces as &[Option<&str>],
        source.as_str(),
    )
    .fetch_all(conn)
    .await?;
    Ok(stored.into_iter().collect())
}

/// The stored payloads that differ from those in `sent`, with their event ids.
pub async fn differing(
    conn: &mut PgConnection,
    sent: &[(String, Bytes)],
) -> Result<Vec<(String, String)>, sqlx::Error> {
    let buckets: Vec<i16> = sent.iter().map(|(id, _)| bucket_of(id)).collect();
    let ids: Vec<&str> = sent.iter().map(|(id, _)| id.as_str()).collect();
    let payloads: Vec<RawJson<'_>> = sent.iter().map(|(_, body)| RawJson(body)).collect();
    let rows = sqlx::query!(
        r#"WITH sent AS (SELECT * FROM unnest($1::smallint[], $2::text[], $3::json[])
                                     AS sent(bucket, id, payload))
           SELECT DISTINCT ON (id) id AS "id!", kept::text AS "kept!"
             FROM (SELECT sent.id, sent.payload, e.payload AS kept FROM sent
                     JOIN webhook_events e ON e.bucket = sent.bucket AND e.stripe_event_id = sent.id
                    WHERE e.payload_removed_at IS NULL
                   UNION ALL
                   SELECT sent.id, sent.payload, d.payload FROM sent
                     JOIN webhook_dead_letter_queue d
                       ON d.bucket = sent.bucket AND d.stripe_event_id = sent.id) both_of
            WHERE kept::text <> payload::text
            ORDER BY id"#,
        &buckets,
        &ids as &[&str],
        &payloads as &[RawJson<'_>] as _
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.kept)).collect())
}

/// Intake accepts only seconds that a timestamp can hold. One that it let through
/// is rejected here, since a default of 1970 would break the order.
fn created_at(secs: i64) -> Result<jiff_sqlx::Timestamp, sqlx::Error> {
    Timestamp::from_second(secs)
        .map(|at| at.to_sqlx())
        .map_err(|error| sqlx::Error::Encode(error.into()))
}

/// The size of the backlog.
#[derive(Debug, Clone, Copy, Default)]
pub struct Backlog {
    pub dead_letters: i64,
    pub unprocessed: i64,
    pub oldest_unprocessed_secs: i64,
}

pub async fn backlog(conn: &mut PgConnection) -> Result<Backlog, sqlx::Error> {
    sqlx::query_as!(
        Backlog,
        r#"SELECT (SELECT count(*) FROM webhook_dead_letter_queue) AS "dead_letters!",
                  count(*) AS "unprocessed!",
                  coalesce(extract(epoch FROM now() - min(received_at)), 0)::bigint
                    AS "oldest_unprocessed_secs!"
             FROM webhook_events WHERE NOT processed"#
    )
    .fetch_one(conn)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_out_of_range_are_rejected_rather_than_1970() {
        assert!(created_at(i64::MAX).is_err());
        let at = created_at(1_769_853_600).unwrap().to_jiff();
        assert_eq!(at.as_second(), 1_769_853_600);
    }
}
