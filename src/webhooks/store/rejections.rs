//! SQL of rejected deliveries, by reason and hour.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sqlx::PgConnection;

/// Adds rejected deliveries.
pub async fn add(
    conn: &mut PgConnection,
    new: &BTreeMap<&'static str, u64>,
) -> Result<(), sqlx::Error> {
    let reasons: Vec<&str> = new.keys().copied().collect();
    let deliveries: Vec<i64> = new
        .values()
        .map(|count| i64::try_from(*count).unwrap_or(i64::MAX))
        .collect();
    sqlx::query!(
        "INSERT INTO webhook_rejections AS known (reason, hour, deliveries, last_at)
         SELECT reason, date_trunc('hour', now(), 'UTC'), deliveries, now()
           FROM unnest($1::text[], $2::bigint[]) AS new(reason, deliveries)
          ORDER BY reason
         ON CONFLICT (reason, hour) DO UPDATE SET
           deliveries = known.deliveries + excluded.deliveries, last_at = excluded.last_at",
        &reasons as &[&str],
        &deliveries
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Rejected deliveries of the last day.
#[derive(Debug, Clone)]
pub struct Rejected {
    pub reason: String,
    pub deliveries: i64,
    pub last_at: Timestamp,
}

/// The rejections of the last day, by reason.
pub async fn of_last_day(conn: &mut PgConnection) -> Result<Vec<Rejected>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT reason, sum(deliveries)::bigint AS "deliveries!", max(last_at) AS "last_at!"
             FROM webhook_rejections WHERE last_at > now() - interval '1 day'
            GROUP BY reason ORDER BY reason"#
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Rejected {
            reason: row.reason,
            deliveries: row.deliveries,
            last_at: row.last_at.to_jiff(),
        })
        .collect())
}

/// The newest event that was delivered by Stripe rather than fetched.
#[derive(Debug, Clone)]
pub struct LastDelivery {
    pub event_type: String,
    pub received_at: Timestamp,
    /// Whether it is a thin event, which names its object without its content.
    pub thin: bool,
}

pub async fn last_delivery(conn: &mut PgConnection) -> Result<Option<LastDelivery>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT event_type AS "event_type!", received_at AS "received_at!",
                  -- Those about meters exist in no other form.
                  coalesce(payload ->> 'object' = 'v2.core.event', false)
                    AND event_type NOT LIKE 'v1.billing.meter.%' AS "thin!"
             FROM ((SELECT event_type, received_at, payload FROM webhook_events
                     WHERE processed AND payload_removed_at IS NULL AND source = 'delivery'
                     ORDER BY received_at DESC LIMIT 1)
                   UNION ALL
                   (SELECT event_type, received_at, payload FROM webhook_events
                     WHERE payload_removed_at IS NOT NULL AND source = 'delivery'
                     ORDER BY received_at DESC LIMIT 1)
                   UNION ALL
                   (SELECT event_type, received_at, payload FROM webhook_events
                     WHERE NOT processed AND source = 'delivery'
                     ORDER BY received_at DESC LIMIT 1)
                   UNION ALL
                   (SELECT event_type, received_at, payload FROM webhook_dead_letter_queue d
                     WHERE NOT EXISTS (SELECT FROM webhook_dead_letter_sources s
                                        WHERE s.bucket = d.bucket
                                          AND s.stripe_event_id = d.stripe_event_id
                                          AND s.source <> 'delivery')
                     ORDER BY received_at DESC LIMIT 1)) newest
            ORDER BY received_at DESC LIMIT 1"#
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| LastDelivery {
        event_type: row.event_type,
        received_at: row.received_at.to_jiff(),
        thin: row.thin,
    }))
}
