//! Subscriptions as Stripe shows them in answers to requests of ours.
//!
//! An answer is a state like those that events tell of, and has its place in
//! their order: after all events of its second, those that its own request
//! caused among them, so that they confirm it and change nothing. An event of
//! somebody else's doing that an answer outranked may still be the later one;
//! then Stripe is asked again, and that answer includes it.

use std::collections::BTreeMap;

use billing_domain::event_order::Place;
use billing_domain::subscription::is_ended;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::decode::Decoded;
use super::subscription::{self, Known, StoredSubscription};
use super::versions::Version;
use super::versions::apply::{Folded, Key};
use super::{Effects, NewAlert, Results, store};
use crate::audit::{Actor, LockedChains, NewEntry};
use crate::catalogue::Catalogue;
use crate::metering::grace;
use crate::stripe::objects::{ShapeError, Subscription};
use crate::stripe::requests::request_of_key;

/// What ids of answers begin with, where a row names the event that wrote it.
const PREFIX: &str = "request:";
/// After events that create, delete and update.
const RANK: u8 = 3;
/// A request and its repetitions take no longer than this, and Stripe may have
/// made an event at any time of it.
const LONGEST_REQUEST: SignedDuration = SignedDuration::from_mins(2);

/// A subscription in an answer of Stripe's.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    pub organization_id: Uuid,
    /// The request; ids of later ones are greater.
    pub request: Uuid,
    /// The subscription.
    pub object: &'a Value,
    /// When Stripe answered, on the clock that the customer lives by.
    pub at: Timestamp,
    /// Whose doing it is.
    pub actor: Actor,
}

/// What an answer did to the mirror.
#[derive(Debug)]
pub struct Shown {
    pub subscription: Subscription,
    /// What an audit entry shows of the subscription as it was.
    pub before: Option<Value>,
    /// The same, as it is now.
    pub after: Value,
    /// Entries for what followed from it; to be appended after the caller's.
    pub entries: Vec<NewEntry>,
    /// The alerts that were raised, but those that were there before.
    pub alerts: Vec<NewAlert>,
    /// The grace periods that ended.
    pub graces: Vec<grace::Ended>,
}

/// Why an answer could not be mirrored.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    #[error("Stripe's answer cannot be read: {0}")]
    Shape(#[from] ShapeError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Mirrors the subscription of `answer`, and sets plan and quotas by it, within
/// the transaction of `conn`, which holds the organization's audit chain.
pub async fn mirror(
    conn: &mut PgConnection,
    _locked: &LockedChains,
    catalogue: &Catalogue,
    answer: Answer<'_>,
) -> Result<Shown, MirrorError> {
    let object = Subscription::read(answer.object)?;
    let organizations = [answer.organization_id];
    let known = Known {
        stored: store::subscriptions::load(conn, &organizations).await?,
        payments: store::subscriptions::payments(conn, &organizations).await?,
        tiers: BTreeMap::new(),
        told: Vec::new(),
    };
    let key: Key = (answer.organization_id, object.id.clone());
    let before = subscription::summaries(&known.stored).remove(&key);
    let version = version(&answer, &object);
    let is_newest = before
        .as_ref()
        .is_none_or(|stored| version.place() >= stored.version.place());

    let status = subscription::status_of(&object, &version, known.payments.get(&key));
    let shown = subscription::summary(catalogue, status, &object);
    let before = before.map(|stored| stored.summary);
    let after = match &before {
        Some(newer) if !is_newest => newer.clone(),
        _ => shown,
    };
    let mut effects = Effects::of(answer.actor);
    effects.alerts.extend(subscription::unknown_plan(
        catalogue,
        answer.organization_id,
        &object,
        answer.at,
    ));
    if is_newest {
        let folded = Folded {
            organization_id: answer.organization_id,
            version,
            snapshot: object.clone(),
            undecided: false,
        };
        subscription::write(
            conn,
            catalogue,
            &organizations,
            known,
            vec![folded],
            &mut effects,
        )
        .await?;
    }
    let alerts = store::alerts(conn, effects.alerts).await?;
    Ok(Shown {
        subscription: object,
        before,
        after,
        entries: effects.entries,
        alerts,
        graces: effects.graces,
    })
}

fn version(answer: &Answer<'_>, object: &Subscription) -> Version {
    let place = Place {
        terminal: is_ended(&object.status),
        created: answer.at.as_second(),
        rank: RANK,
    };
    Version::at(place, answer.at, format!("{PREFIX}{}", answer.request))
}

/// Whether an answer wrote the row.
pub(super) fn is_answer(version: &Version) -> bool {
    version.last_event_id.starts_with(PREFIX)
}

/// Whether the request, or an earlier one of ours, caused the event.
fn is_of(event: &Decoded<'_>, request: Uuid) -> bool {
    let cause = event.data.caused_by.as_deref().and_then(request_of_key);
    cause.is_some_and(|cause| cause <= request)
}

/// Subscriptions of which it is not certain that the answer that wrote them is
/// later than an event of the batch that it outranked.
pub(super) fn doubtful(
    results: &Results<'_>,
    stored: &BTreeMap<Key, StoredSubscription>,
) -> Vec<Key> {
    let mut doubtful = Vec::new();
    for (key, events) in results.by_object::<Subscription>() {
        let Some(version) = stored.get(&key).map(|row| &row.version) else {
            continue;
        };
        let id = version.last_event_id.strip_prefix(PREFIX);
        let Some(request) = id.and_then(|id| id.parse::<Uuid>().ok()) else {
            continue;
        };
        let since = version.last_event_at - LONGEST_REQUEST;
        let in_doubt = events.iter().any(|(position, event, _)| {
            !results.newer[*position]
                && !version.place().terminal
                && event.stored.created >= since
                && !is_of(event, request)
        });
        if in_doubt {
            doubtful.push(key);
        }
    }
    doubtful
}
