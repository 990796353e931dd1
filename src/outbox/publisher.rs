//! Makes events of changes. A change leaves a mark in its own transaction, which says
//! which entries of the audit log tell of it; the publisher reads the marks of some
//! organizations, reads their states, and then writes the events and takes the marks in one
//! transaction. Several changes become one `organization.state_changed`, the newest.
//!
//! Any number of publishers may run. One that finds a mark gone which it has read leaves
//! the organization to the other.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use futures_util::future::{BoxFuture, join_all};
use jiff::{SignedDuration, Timestamp};
use serde_json::value::RawValue;
use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::data::{QuotaData, Whose};
use super::event::NewEvent;
use super::facts::{self, Entry};
use super::store::changes::{self as store, Alert, Change, Named, Taken, Written};
use super::store::endpoints::{self, Row};
use super::types::EventType;
use crate::db::{self, WorkerTx};
use crate::server::number::Number;
use crate::telemetry::metrics;

/// How often to look for changes.
pub const POLL: Duration = Duration::from_millis(500);
/// Organizations published at a time.
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
        let work = Instant::now();
        if let Some(last) = found.last() {
            *after = *last;
        }
        published |= publish_all(pool, source, &found).await?;
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

/// Publishes what organizations have to tell: together, or, if the database refuses that, each
/// by itself. One that cannot be told of is tried again in the next run; others do not wait for
/// it. Returns whether anything was written.
///
/// # Errors
/// Outages of the database only.
async fn publish_all(
    pool: &PgPool,
    source: &dyn Source,
    organizations: &[Uuid],
) -> Result<bool, PublishError> {
    if organizations.is_empty() {
        return Ok(false);
    }
    match publish_some(pool, source, organizations).await {
        Err(error) if db::is_outage(&error) => Err(error.into()),
        Err(error) if organizations.len() == 1 => {
            unpublished(organizations[0], &error.into());
            Ok(false)
        }
        Err(_) => {
            let mut published = false;
            for organization_id in organizations {
                let alone = std::slice::from_ref(organization_id);
                published |= Box::pin(publish_all(pool, source, alone)).await?;
            }
            Ok(published)
        }
        Ok(published) => Ok(published),
    }
}

fn unpublished(organization_id: Uuid, error: &PublishError) {
    metrics::outbound::unpublished();
    tracing::error!(%organization_id, %error, "Changes could not be published as events");
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

/// What an organization has to tell.
struct Told {
    whose: Whose,
    named: Option<Named>,
    changes: Vec<Change>,
    alerts: Vec<Alert>,
    events: Vec<NewEvent>,
    /// Whether its state is among it.
    tells_state: bool,
}

/// Publishes changes of organizations. Returns whether it did: another may have been faster.
async fn publish_some(
    pool: &PgPool,
    source: &dyn Source,
    organizations: &[Uuid],
) -> Result<bool, sqlx::Error> {
    let told = read(pool, organizations).await?;
    // Read after the marks were: they show whatever these stand for.
    let states = told.into_iter().map(async |mut told| {
        if told.tells_state {
            match state_of(source, told.whose.organization_id).await {
                Ok(event) => told.events.extend(event),
                Err(error) => {
                    unpublished(told.whose.organization_id, &error);
                    return None;
                }
            }
        }
        Some(told)
    });
    let told: Vec<Told> = join_all(states).await.into_iter().flatten().collect();
    write(pool, told).await
}

/// Reads what organizations have to tell, but for their states.
async fn read(pool: &PgPool, organizations: &[Uuid]) -> Result<Vec<Told>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let mut changes = store::of_organizations(tx.conn(), organizations).await?;
    let mut alerts = store::alerts(tx.conn(), organizations).await?;
    // Read after the marks, so that every endpoint older than a change gets its events.
    let endpoints = endpoints::list(tx.conn(), None).await?;
    let mut entries = store::entries(tx.conn(), &changes).await?;
    let mut named = store::named(tx.conn(), organizations).await?;
    tx.commit().await?;
    let mut told = Vec::new();
    for organization_id in organizations {
        let named = named.remove(organization_id);
        let read = Told {
            whose: Whose {
                organization_id: *organization_id,
                external_id: named.as_ref().and_then(|named| named.external_id.clone()),
            },
            named,
            changes: changes.remove(organization_id).unwrap_or_default(),
            alerts: alerts.remove(organization_id).unwrap_or_default(),
            events: Vec::new(),
            tells_state: false,
        };
        let entries = entries.remove(organization_id).unwrap_or_default();
        match with_events(read, &entries, &endpoints) {
            Ok(read) => told.extend(read),
            Err(error) => unpublished(*organization_id, &error.into()),
        }
    }
    Ok(told)
}

/// Makes the events of what was read; `None`: there is nothing to tell.
fn with_events(
    mut told: Told,
    entries: &[Entry],
    endpoints: &[Row],
) -> Result<Option<Told>, serde_json::Error> {
    let whose = &told.whose;
    // An endpoint gets what happens after it was made.
    told.alerts.retain(|alert| {
        let within = SignedDuration::from_secs_f64(store::COMMITTED_WITHIN_SECS);
        let hears = |row: &&Row| alert.again || row.created_at <= alert.raised_at + within;
        let event_type = EventType::of_threshold(alert.threshold).as_str();
        is_wanted(endpoints.iter().filter(hears), whose, event_type)
    });
    if told.changes.is_empty() && told.alerts.is_empty() {
        return Ok(None);
    }
    for entry in entries {
        told.events.extend(facts::event_of(entry, whose)?);
    }
    for alert in &told.alerts {
        told.events.push(of_alert(alert, whose)?);
    }
    let wanted = |event_type: &str| is_wanted(endpoints, whose, event_type);
    told.events.retain(|event| wanted(event.event_type));
    told.tells_state = told.named.is_some()
        && !told.changes.is_empty()
        && wanted(EventType::StateChanged.as_str());
    Ok(Some(told))
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

/// Writes the events and takes what they were made of; nothing of an organization that another
/// was faster with, or that was erased since its state was read. Returns whether anything was
/// written.
async fn write(pool: &PgPool, mut told: Vec<Told>) -> Result<bool, sqlx::Error> {
    told.sort_by_key(|told| told.whose.organization_id);
    let organizations: Vec<Uuid> = told.iter().map(|told| told.whose.organization_id).collect();
    let mut tx = WorkerTx::begin(pool).await?;
    let last = store::lock_streams(tx.conn(), &organizations).await?;
    let named = store::named(tx.conn(), &organizations).await?;
    told.retain(|told| {
        let organization_id = told.whose.organization_id;
        let is_erased = |named: Option<&Named>| named.is_some_and(|named| named.erased);
        last.contains_key(&organization_id)
            && is_erased(named.get(&organization_id)) == is_erased(told.named.as_ref())
    });
    let wanted = told.iter().map(|told| Taken {
        organization_id: told.whose.organization_id,
        changes: &told.changes,
        alerts: &told.alerts,
    });
    let wanted: Vec<Taken<'_>> = wanted.collect();
    let lost = store::take(tx.conn(), &wanted).await?;
    told.retain(|told| !lost.contains(&told.whose.organization_id));
    let written = numbered(&told, &last).map_err(|error| sqlx::Error::Encode(error.into()))?;
    store::write(tx.conn(), &written).await?;
    tx.commit().await?;
    Ok(!told.is_empty())
}

/// The events, each with the next number of its organization.
fn numbered(told: &[Told], last: &HashMap<Uuid, i64>) -> Result<Vec<Written>, serde_json::Error> {
    let mut written = Vec::new();
    for told in told {
        let organization_id = told.whose.organization_id;
        let subject = told.whose.external_id.clone();
        let subject = subject.unwrap_or_else(|| organization_id.to_string());
        let last = last.get(&organization_id).copied().unwrap_or_default();
        for (sequence, event) in (last + 1..).zip(&told.events) {
            written.push(Written {
                organization_id,
                sequence,
                id: event.id,
                event_type: event.event_type,
                body: event.body(&subject, sequence)?,
            });
        }
    }
    Ok(written)
}
