//! Makes events of changes. A change leaves a mark in its own transaction, which says
//! which entries of the audit log tell of it; the publisher reads the marks of an
//! organization, reads its state, and then writes the events and takes the marks in one
//! transaction. Several changes become one `organization.state_changed`, the newest.
//!
//! Any number of publishers may run. One that finds a mark gone which it has read leaves
//! the organization to the other.

use std::time::{Duration, Instant};

use axum::body::Bytes;
use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use serde_json::value::RawValue;
use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::data::{QuotaData, Whose};
use super::event::NewEvent;
use super::facts;
use super::store::changes::{self as store, Alert, Change, Written};
use super::store::endpoints::{self, Row};
use super::types::EventType;
use crate::db::{self, WorkerTx};
use crate::server::number::Number;
use crate::telemetry::metrics;

/// How often to look for changes.
pub const POLL: Duration = Duration::from_millis(500);
/// Organizations looked for at a time.
const BATCH: i64 = 64;
/// After so long, the part's run ends, and the next begins.
const RUN: Duration = Duration::from_secs(5);
/// Publishing pauses for as long as it took, and for so many times as long while intake is
/// busy: what is told of can wait, and what comes in cannot.
const PAUSES_UNDER_PRESSURE: u32 = 9;

/// What publishing needs of rooms that it does not know.
pub trait Source: Send + Sync {
    /// An organization's current state as JSON; `None` if it has none.
    fn state(&self, organization_id: Uuid) -> BoxFuture<'_, Result<Option<Bytes>, String>>;

    /// Whether intake is busy.
    fn busy(&self) -> bool;
}

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("the state of organization {0} cannot be read: {1}")]
    State(Uuid, String),
    #[error("an event cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Publishes what waits, and returns whether there may be more. It starts `after` the
/// organization at which the last run ended, so that every organization gets its turn.
pub async fn publish(
    pool: &PgPool,
    source: &dyn Source,
    stop: &CancellationToken,
    after: &mut Uuid,
) -> Result<bool, PublishError> {
    let (began, mut wrapped, mut published) = (Instant::now(), after.is_nil(), false);
    let mut tx = WorkerTx::begin(pool).await?;
    store::forget_unheard(tx.conn()).await?;
    store::give_past_alerts_up(tx.conn()).await?;
    tx.commit().await?;
    loop {
        let mut tx = WorkerTx::begin(pool).await?;
        let found = store::organizations(tx.conn(), *after, BATCH).await?;
        tx.commit().await?;
        if found.is_empty() {
            *after = Uuid::nil();
            if wrapped {
                return Ok(published);
            }
            wrapped = true;
        }
        for organization_id in found {
            let work = Instant::now();
            *after = organization_id;
            match publish_one(pool, source, organization_id).await {
                Ok(wrote) => published |= wrote,
                Err(PublishError::Database(error)) if db::is_outage(&error) => {
                    return Err(error.into());
                }
                // It is tried again in the next run; others do not wait for it.
                Err(error) => {
                    metrics::outbound::unpublished();
                    tracing::error!(%organization_id, %error, "Changes could not be published as events");
                }
            }
            if stop.is_cancelled() || began.elapsed() > RUN {
                return Ok(published);
            }
            let pauses = if source.busy() {
                PAUSES_UNDER_PRESSURE
            } else {
                1
            };
            tokio::time::sleep(work.elapsed() * pauses).await;
        }
    }
}

/// Whether an endpoint wants events of a type. Disabled ones count: what they missed can
/// be recovered.
fn is_wanted<'e>(
    endpoints: impl IntoIterator<Item = &'e Row>,
    whose: &Whose,
    event_type: &str,
) -> bool {
    endpoints.into_iter().any(|row| {
        let of_organization = row
            .organization_id
            .is_none_or(|only| only == whose.organization_id);
        of_organization && (row.types.is_empty() || row.types.iter().any(|one| one == event_type))
    })
}

/// Publishes an organization's changes. Returns whether it did: another may have been
/// faster.
async fn publish_one(
    pool: &PgPool,
    source: &dyn Source,
    organization_id: Uuid,
) -> Result<bool, PublishError> {
    let mut tx = WorkerTx::begin(pool).await?;
    let changes = store::of_organization(tx.conn(), organization_id).await?;
    let mut alerts = store::alerts(tx.conn(), organization_id).await?;
    // Read after the marks, so that every endpoint older than a change gets its events.
    let endpoints = endpoints::list(tx.conn(), None).await?;
    let entries = store::entries(tx.conn(), organization_id, &changes).await?;
    let named = store::named(tx.conn(), organization_id).await?;
    tx.commit().await?;
    let whose = Whose {
        organization_id,
        external_id: named.as_ref().and_then(|named| named.external_id.clone()),
    };
    let wanted = |event_type: &str| is_wanted(&endpoints, &whose, event_type);
    // An endpoint gets what happens after it was made.
    alerts.retain(|alert| {
        let within = SignedDuration::from_secs_f64(store::COMMITTED_WITHIN_SECS);
        let hears = |row: &&Row| alert.again || row.created_at <= alert.raised_at + within;
        let event_type = EventType::of_threshold(alert.threshold).as_str();
        is_wanted(endpoints.iter().filter(hears), &whose, event_type)
    });
    if changes.is_empty() && alerts.is_empty() {
        return Ok(false);
    }
    let mut events = Vec::new();
    for entry in &entries {
        events.extend(facts::event_of(entry, &whose)?);
    }
    for alert in &alerts {
        events.push(of_alert(alert, &whose)?);
    }
    events.retain(|event| wanted(event.event_type));
    // Read after the marks were, too: it shows whatever they stand for.
    if named.is_some() && !changes.is_empty() && wanted(EventType::StateChanged.as_str()) {
        events.extend(state_of(source, organization_id).await?);
    }
    let erased = named.is_some_and(|named| named.erased);
    write(pool, &whose, erased, &changes, &alerts, &events).await
}

async fn state_of(
    source: &dyn Source,
    organization_id: Uuid,
) -> Result<Option<NewEvent>, PublishError> {
    let read = source.state(organization_id).await;
    let read = read.map_err(|error| PublishError::State(organization_id, error))?;
    let Some(read) = read else { return Ok(None) };
    Ok(Some(NewEvent {
        id: Uuid::now_v7(),
        event_type: EventType::StateChanged.as_str(),
        time: Timestamp::now(),
        data: RawValue::from_string(String::from_utf8_lossy(&read).into_owned())?,
    }))
}

fn of_alert(alert: &Alert, whose: &Whose) -> Result<NewEvent, serde_json::Error> {
    let data = QuotaData {
        whose: whose.clone(),
        metric: alert.metric.clone(),
        threshold: alert.threshold,
        usage: Number(alert.usage),
        quota: Number(alert.quota),
        period_start: alert.period_start,
        period_end: alert.period_end,
    };
    let event_type = EventType::of_threshold(alert.threshold).as_str();
    NewEvent::new(alert.id, event_type, alert.raised_at, &data)
}

/// Writes the events and takes what they were made of; nothing, if another was faster, or
/// if the organization was erased since its state was read. Returns whether it did.
async fn write(
    pool: &PgPool,
    whose: &Whose,
    erased: bool,
    changes: &[Change],
    alerts: &[Alert],
    events: &[NewEvent],
) -> Result<bool, PublishError> {
    let organization_id = whose.organization_id;
    let subject = whose.external_id.clone();
    let subject = subject.unwrap_or_else(|| organization_id.to_string());
    let mut tx = WorkerTx::begin(pool).await?;
    let Some(last) = store::lock_stream(tx.conn(), organization_id).await? else {
        return Ok(false);
    };
    let named = store::named(tx.conn(), organization_id).await?;
    if named.is_some_and(|named| named.erased) != erased
        || !store::take(tx.conn(), organization_id, changes, alerts).await?
    {
        tx.rollback().await?;
        return Ok(false);
    }
    let mut written = Vec::with_capacity(events.len());
    for (sequence, event) in (last + 1..).zip(events) {
        written.push(Written {
            sequence,
            id: event.id,
            event_type: event.event_type,
            body: event.body(&subject, sequence)?,
        });
    }
    store::write(tx.conn(), organization_id, &written).await?;
    tx.commit().await?;
    Ok(true)
}
