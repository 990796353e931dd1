//! Mirrors subscriptions from Stripe's responses to our requests.
//!
//! A response is a state like that of an event and is part of the same order: it
//! comes after all events of its second, including those that its own request
//! caused, which then change nothing. A foreign event that a response outranks
//! may still be the newer one; the subscription is then marked as stale and
//! fetched again. So it is when answers of one second differ.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use billing_domain::event_order::EventOrder;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::decode::Decoded;
use super::discount;
use super::erasure;
use super::payment_status;
use super::schedule;
use super::store;
use super::subscription::{self, Known, StoredSubscription};
use super::types::{Effects, NewAlert, Results};
use super::versions::Version;
use super::versions::merge::{MergedObject, ObjectKey, Stored};
use crate::audit::{self, Actor, LockedChains, NewEntry};
use crate::catalogue::Catalogue;
use crate::metering::grace;
use crate::stripe::objects::{ShapeError, Subscription, SubscriptionSchedule};
use crate::stripe::requests::request_of_key;

/// The prefix of a response's id in a row's `last_event_id`.
const PREFIX: &str = "request:";
/// Ranks after events that create, delete and update.
const RANK: u8 = 3;
/// The longest duration of a request with its retries. Stripe may have created an
/// event at any time during it.
const MAX_REQUEST_DURATION: SignedDuration = SignedDuration::from_mins(2);

/// A subscription in a response from Stripe.
#[derive(Debug, Clone, Copy)]
pub struct StripeResponse<'a> {
    pub organization_id: Uuid,
    /// The id of our request, made before it was sent; later requests have greater ids.
    pub request: Uuid,
    pub kind: ResponseKind,
    /// The subscription, perhaps with its schedule in it.
    pub object: &'a Value,
    /// The time of the response, on the customer's clock.
    pub at: Timestamp,
    /// The actor of the audit entries.
    pub actor: Actor,
}

/// What a response answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseKind {
    /// A change of ours: one is made after the other.
    Change,
    /// A question, which may have been answered while a change was under way.
    Question,
}

/// The outcome of mirroring a response.
#[derive(Debug)]
pub struct MirrorOutcome {
    pub subscription: Subscription,
    /// Whether it was the newest state, and was written.
    pub is_newest: bool,
    /// The subscription's summary before, for audit entries.
    pub before: Option<Value>,
    /// The subscription's summary now.
    pub after: Value,
    /// Entries for the consequences, to be appended after the caller's own.
    pub entries: Vec<NewEntry>,
    /// Newly raised alerts.
    pub alerts: Vec<NewAlert>,
    /// Grace periods that ended.
    pub graces: Vec<grace::Ended>,
}

/// Why a response could not be mirrored.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    #[error("cannot read Stripe's response: {0}")]
    Shape(#[from] ShapeError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Mirrors the subscription of `response` and assigns plan and quotas, within the
/// transaction of `conn`, which holds the organization's audit chain. The catalogue must
/// have learned the object's prices, since the transaction is confined.
pub async fn mirror(
    conn: &mut PgConnection,
    _locked: &LockedChains,
    catalogue: &Catalogue,
    response: StripeResponse<'_>,
) -> Result<MirrorOutcome, MirrorError> {
    let object = Subscription::read(response.object)?;
    let organizations = [response.organization_id];
    let known = Known {
        stored: store::subscriptions::load(conn, &organizations).await?,
        payments: store::subscriptions::payments(conn, &organizations).await?,
        tiers: BTreeMap::new(),
        told: Vec::new(),
    };
    let key: ObjectKey = (response.organization_id, object.id.clone());
    let before = subscription::summaries(&known.stored).remove(&key);
    let version = version(&response, &object);
    let recency = recency(&version, response.request, before.as_ref());
    let is_newest = recency.is_newest();

    let status = payment_status::status_of(&object, &version, known.payments.get(&key));
    let shown = subscription::summary(catalogue, status, &object);
    let before = before.map(|stored| stored.summary);
    let in_doubt = recency.is_in_doubt(response.kind) && before.as_ref() != Some(&shown);
    let after = match &before {
        Some(newer) if !is_newest => newer.clone(),
        _ => shown,
    };
    let mut effects = Effects::of(response.actor);
    effects.alerts.extend(subscription::unknown_plan(
        catalogue,
        response.organization_id,
        &object,
        response.at,
    ));
    let shown = discount::in_subscription(response.organization_id, &object, response.at);
    let discounts = discount::remember(conn, shown).await?;
    if is_newest {
        let merged = MergedObject {
            organization_id: response.organization_id,
            version,
            snapshot: object.clone(),
            undecided: false,
        };
        subscription::write(
            conn,
            catalogue,
            &organizations,
            known,
            vec![merged],
            &mut effects,
        )
        .await?;
    }
    if in_doubt {
        store::subscriptions::mark_stale(conn, &[key]).await?;
    }
    mirror_schedule(conn, catalogue, &response).await?;
    if discounts.are_any() || response.object["schedule"].is_object() {
        audit::count_unentered(conn, &organizations).await?;
    }
    erasure::clear_again(conn, &organizations).await?;
    let alerts = store::alerts(conn, effects.alerts).await?;
    Ok(MirrorOutcome {
        subscription: object,
        is_newest,
        before,
        after,
        entries: effects.entries,
        alerts,
        graces: effects.graces,
    })
}

/// Mirrors the schedule that the subscription has in it.
async fn mirror_schedule(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    response: &StripeResponse<'_>,
) -> Result<(), MirrorError> {
    let shown = &response.object["schedule"];
    if !shown.is_object() {
        return Ok(());
    }
    let schedule = SubscriptionSchedule::read(shown)?;
    let version = version_of(response, schedule.is_ended());
    schedule::mirror(conn, catalogue, response.organization_id, schedule, version).await?;
    Ok(())
}

fn version(response: &StripeResponse<'_>, object: &Subscription) -> Version {
    version_of(response, object.status.is_ended())
}

fn version_of(response: &StripeResponse<'_>, terminal: bool) -> Version {
    let order = EventOrder {
        terminal,
        created: response.at.as_second(),
        rank: RANK,
    };
    Version::at(order, response.at, format!("{PREFIX}{}", response.request))
}

/// Whether a response wrote the row.
pub(super) fn is_response(version: &Version) -> bool {
    version.last_event_id.starts_with(PREFIX)
}

/// How a response stands to what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recency {
    Newer,
    /// An answer of the same second to an earlier request is stored.
    NewerOfOneSecond,
    /// An answer of the same second to a later request is stored.
    OlderOfOneSecond,
    Older,
}

fn recency(version: &Version, request: Uuid, stored: Option<&Stored>) -> Recency {
    let Some(stored) = stored.map(|stored| &stored.version) else {
        return Recency::Newer;
    };
    match version.order().cmp(&stored.order()) {
        Ordering::Greater => Recency::Newer,
        Ordering::Less => Recency::Older,
        Ordering::Equal => match request_of(stored) {
            Some(other) if other > request => Recency::OlderOfOneSecond,
            Some(other) if other < request => Recency::NewerOfOneSecond,
            _ => Recency::Newer,
        },
    }
}

impl Recency {
    fn is_newest(self) -> bool {
        matches!(self, Self::Newer | Self::NewerOfOneSecond)
    }

    /// Whether Stripe may have made the two states in the other order. Our changes are made
    /// one after the other; a question may be answered before a change that was sent first.
    fn is_in_doubt(self, kind: ResponseKind) -> bool {
        match self {
            Self::OlderOfOneSecond => true,
            Self::NewerOfOneSecond => kind == ResponseKind::Question,
            Self::Newer | Self::Older => false,
        }
    }
}

/// The request whose response wrote the row.
fn request_of(version: &Version) -> Option<Uuid> {
    version.last_event_id.strip_prefix(PREFIX)?.parse().ok()
}

/// Whether `request` or an earlier one of ours caused the event.
fn is_of(event: &Decoded<'_>, request: Uuid) -> bool {
    let cause = event.data.caused_by.as_deref().and_then(request_of_key);
    cause.is_some_and(|cause| cause <= request)
}

/// Subscriptions written by a response that outranked an event of the batch
/// which may be newer.
pub(super) fn possibly_stale(
    results: &Results<'_>,
    stored: &BTreeMap<ObjectKey, StoredSubscription>,
) -> Vec<ObjectKey> {
    let mut possibly_stale = Vec::new();
    for (key, events) in results.by_object::<Subscription>() {
        let Some(version) = stored.get(&key).map(|row| &row.version) else {
            continue;
        };
        let Some(request) = request_of(version) else {
            continue;
        };
        let since = version.last_event_at - MAX_REQUEST_DURATION;
        let may_be_newer = events.iter().any(|(position, event, _)| {
            !results.newer[*position]
                && !version.order().terminal
                && event.stored.created >= since
                && !is_of(event, request)
        });
        if may_be_newer {
            possibly_stale.push(key);
        }
    }
    possibly_stale
}
