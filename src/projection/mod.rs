//! What Stripe's events do: they mirror its objects, and with them set an
//! organization's plan and quotas.
//!
//! Events are applied in batches. A batch is decoded, its organizations are
//! found and locked, the stored state of every object it names is read, the
//! events are folded over that state by pure rules, and what came out is
//! written with its audit entries: the cost of a round trip is shared by the
//! whole batch, and its transaction has all of it or nothing.

mod charge;
mod checkout_session;
mod customer;
mod decode;
mod dispute;
mod event_types;
mod invoice;
mod invoice_payment;
mod items;
mod known_tier;
mod missing_subscriptions;
mod owner;
mod payment_method;
mod periods;
mod plan_assignment;
mod price_changes;
mod store;
mod stripe_response;
mod subscription;
mod versions;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jiff::Timestamp;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::audit::{self, Actor, NewEntry};
use crate::catalogue::Catalogue;
pub use crate::config::UnknownCustomers;
use crate::metering::grace;
use crate::stripe::account::Account;
use crate::stripe::event::EventData;
use crate::stripe::objects::{Invoice, PaymentMethod, Subscription};
use crate::telemetry::metrics;
use decode::Decoded;
use event_types::action;
pub use event_types::{FURTHER_TYPES, HANDLED_TYPES, LINKING_TYPE, MAIN_TYPES};
pub use missing_subscriptions::{EndedHere, end_missing};
pub use price_changes::repriced_since;
pub use store::customers::second_customers;
pub use store::invoice_lines::replace_all as replace_invoice_lines;
pub use store::unclaimed::count as unclaimed;
pub use store::updated;
pub use stripe_response::{Answer, MirrorError, Shown, mirror};

/// An event as the inbox keeps it.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    pub bucket: i16,
    pub id: String,
    pub event_type: String,
    pub api_version: Option<String>,
    pub livemode: bool,
    pub account: Option<String>,
    pub created: Timestamp,
    pub payload: String,
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handled {
    /// It changed, or confirmed, the state of its object.
    Applied(Uuid),
    /// A later event of the object was applied before it.
    Superseded(Uuid),
    /// Its type has no handler.
    Ignored,
    /// It is nobody's that we know, as a guest's payment is. What it waits for
    /// would say whose it is: then it is processed again.
    Unclaimed { waiting_for: Option<String> },
    /// It belongs to the other mode than the configured key.
    LivemodeMismatch,
    /// It belongs to another account than the configured key.
    ForeignAccount,
}

impl Handled {
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Applied(_) => "applied",
            Self::Superseded(_) => "superseded",
            Self::Ignored | Self::Unclaimed { .. } => "ignored",
            Self::LivemodeMismatch => "livemode_mismatch",
            Self::ForeignAccount => "foreign_account",
        }
    }

    pub fn organization_id(&self) -> Option<Uuid> {
        match self {
            Self::Applied(id) | Self::Superseded(id) => Some(*id),
            _ => None,
        }
    }
}

/// Why an event could not be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandlerError {
    /// It may be applied once its customer is known.
    #[error("{problem}")]
    UnknownOrganization {
        customer_id: Option<String>,
        problem: String,
    },
    /// Another transaction holds its organization at this moment.
    #[error("another transaction holds organization {0}")]
    Locked(Uuid),
    /// The database refused it for a reason that may pass.
    #[error("{0}")]
    Refused(String),
    /// No retry changes what it says.
    #[error("{0}")]
    Permanent(String),
}

/// What the handlers know besides the events.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    pub catalogue: &'a Catalogue,
    /// The mode of the configured key; None without one: both modes are taken.
    pub key_is_live: Option<bool>,
    pub unknown_customers: UnknownCustomers,
    /// Whose that key is.
    pub account: Account,
}

/// The result of a batch: one result for each event, and what to count once
/// the transaction is committed.
#[derive(Debug, Default)]
pub struct Applied {
    pub results: Vec<Result<Handled, HandlerError>>,
    /// The actions of the audit entries that were written.
    pub audit_actions: Vec<&'static str>,
    /// The alerts that were raised, but those that were there before.
    pub alerts: Vec<NewAlert>,
    /// The grace periods that ended.
    pub graces: Vec<grace::Ended>,
}

impl Applied {
    /// Counts what was written; to be called once it is committed.
    pub fn count(&self) {
        metrics::audit_entries(&self.audit_actions);
        report_alerts(&self.alerts);
        grace::count(&self.graces);
    }
}

/// Counts and logs alerts that were committed.
pub fn report_alerts(alerts: &[NewAlert]) {
    for alert in alerts {
        metrics::alert(alert.kind);
        tracing::warn!(
            kind = alert.kind,
            organization_id = %alert.organization_id,
            resource_type = alert.resource_type,
            resource_id = alert.resource_id,
            detail = alert.message,
            "Billing alert raised"
        );
    }
}

/// How a batch meets organizations that others hold, and whose its events are.
#[derive(Debug, Default)]
pub struct Batch {
    /// Wait for them, rather than leave their events out.
    pub wait: bool,
    /// Those to leave out without asking.
    pub blocked: HashSet<Uuid>,
    /// The organization of each event, once it is found: known although the
    /// transaction failed.
    pub owners: Vec<Option<Uuid>>,
}

/// The actions that audit entries of events have.
pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    let handled = HANDLED_TYPES.into_iter().map(action);
    handled.chain([plan_assignment::CHANGED, subscription::STATUS_CHANGED])
}

/// Something an operator or the customer should hear about.
#[derive(Debug, Clone)]
pub struct NewAlert {
    pub organization_id: Uuid,
    pub kind: &'static str,
    /// What makes it one alert: raised again, it is the same.
    pub key: String,
    pub resource_type: &'static str,
    pub resource_id: String,
    pub message: String,
    pub occurred_at: Timestamp,
}

/// What a batch is about to write.
struct Effects {
    /// Whose doing it is.
    actor: Actor,
    entries: Vec<NewEntry>,
    alerts: Vec<NewAlert>,
    /// Grace periods that a new plan ended.
    graces: Vec<grace::Ended>,
}

impl Effects {
    fn of(actor: Actor) -> Self {
        Self {
            actor,
            entries: Vec::new(),
            alerts: Vec::new(),
            graces: Vec::new(),
        }
    }

    fn record(&mut self, event: &Decoded<'_>, entry: NewEntry) {
        let metadata = json!({
            "stripe_event_id": event.stored.id,
            "event_type": event.stored.event_type,
        });
        self.entries.push(NewEntry {
            actor: self.actor,
            metadata,
            ..entry
        });
    }
}

/// Applies `events` within the transaction of `conn`.
///
/// # Errors
/// Of the database only: what is wrong with an event is in its result, and
/// does not keep the others from being applied.
pub async fn apply(
    conn: &mut PgConnection,
    context: &Context<'_>,
    events: &[&StoredEvent],
    batch: &mut Batch,
) -> Result<Applied, sqlx::Error> {
    let mut results = vec![None; events.len()];
    let mut decoded = Vec::new();
    for (index, event) in events.iter().enumerate() {
        match decode::decode(context, index, event) {
            Ok(event) => decoded.push(event),
            Err(result) => results[index] = Some(result),
        }
    }
    let found = owner::find(conn, context, &mut decoded).await?;
    for (index, result) in found.unowned {
        results[index] = Some(result);
    }
    owner::remember_unclaimed(conn, events, &results).await?;
    decoded.retain(|event| event.owner.is_some());
    batch.owners = vec![None; events.len()];
    for event in &decoded {
        batch.owners[event.index] = event.owner;
    }
    let locked = lock(conn, &decoded, batch).await?;
    decoded.retain(|event| {
        let owner = event.owner.expect("those without were left out");
        let free = locked.organizations.contains(&owner);
        if !free {
            results[event.index] = Some(Err(HandlerError::Locked(owner)));
        }
        free
    });
    let mut applied = Applied {
        alerts: store::alerts(conn, found.alerts).await?,
        ..Applied::default()
    };
    owner::remember_customers(conn, &found.joined, &mut decoded, &mut results).await?;
    if !decoded.is_empty() {
        apply_locked(conn, context, decoded, &locked, &mut results, &mut applied).await?;
    }
    let answered = |result: Option<_>| result.expect("each event has its result");
    applied.results = results.into_iter().map(answered).collect();
    Ok(applied)
}

/// The organizations that a batch may change.
struct Locked {
    organizations: HashSet<Uuid>,
    chains: audit::LockedChains,
}

/// Locks the organizations of `decoded`, as far as `batch` allows.
async fn lock(
    conn: &mut PgConnection,
    decoded: &[Decoded<'_>],
    batch: &Batch,
) -> Result<Locked, sqlx::Error> {
    let organizations: BTreeSet<Uuid> = decoded
        .iter()
        .filter_map(|event| event.owner)
        .filter(|owner| !batch.blocked.contains(owner))
        .collect();
    let wanted: Vec<Uuid> = organizations.into_iter().collect();
    if batch.wait {
        let chains = audit::lock_chains(conn, &wanted).await?;
        let organizations = wanted.into_iter().collect();
        return Ok(Locked {
            organizations,
            chains,
        });
    }
    let (chains, organizations) = audit::lock_free_chains(conn, &wanted).await?;
    Ok(Locked {
        organizations,
        chains,
    })
}

/// Applies events whose organizations are locked.
async fn apply_locked(
    conn: &mut PgConnection,
    context: &Context<'_>,
    mut decoded: Vec<Decoded<'_>>,
    locked: &Locked,
    results: &mut [Option<Result<Handled, HandlerError>>],
    applied: &mut Applied,
) -> Result<(), sqlx::Error> {
    decoded.sort_by(|a, b| {
        (a.place.created, a.place.rank, &a.stored.id).cmp(&(
            b.place.created,
            b.place.rank,
            &b.stored.id,
        ))
    });
    owner::wake_unclaimed(conn, &decoded).await?;
    store::applied_events(conn, &decoded).await?;
    items::complete(conn, &mut decoded).await?;

    let mut effects = Effects::of(Actor::Webhook);
    let handled = apply_decoded(conn, context, &decoded, &mut effects).await?;
    for (event, handled) in decoded.iter().zip(handled) {
        results[event.index] = Some(Ok(handled));
    }
    let raised = store::alerts(conn, effects.alerts).await?;
    applied.alerts.extend(raised);
    audit::append(conn, &locked.chains, &effects.entries).await?;
    applied.audit_actions = effects.entries.iter().map(|entry| entry.action).collect();
    applied.graces = effects.graces;
    Ok(())
}

/// Lets events be processed again whose owner is known by now, though they and
/// what names it were processed at one moment. Returns how many those are.
pub async fn wake_claimed(conn: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let known = store::unclaimed::known_by_now(conn).await?;
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    store::unclaimed::wake(conn, &known).await
}

/// Lets events of `customer` be processed again that were ignored because it
/// was no organization's. Returns how many those are.
pub async fn wake_customer(conn: &mut PgConnection, customer: &str) -> Result<u64, sqlx::Error> {
    store::unclaimed::wake(conn, &[customer]).await
}

/// Invoices come before subscriptions: a failed payment shows in the status of
/// its subscription.
async fn apply_decoded(
    conn: &mut PgConnection,
    context: &Context<'_>,
    decoded: &[Decoded<'_>],
    effects: &mut Effects,
) -> Result<Vec<Handled>, sqlx::Error> {
    let mut results = Results {
        decoded,
        newer: vec![false; decoded.len()],
    };
    customer::apply(conn, &mut results, effects).await?;
    checkout_session::apply(conn, &mut results, effects).await?;
    charge::apply(conn, &mut results, effects).await?;
    dispute::apply(conn, &mut results, effects).await?;
    invoice_payment::apply(conn, &mut results, effects).await?;
    charge::link(conn, decoded).await?;
    payment_method::apply(conn, &mut results, effects).await?;
    invoice::apply(conn, &mut results, effects).await?;
    subscription::apply(conn, context.catalogue, &mut results, effects).await?;
    // With a key they are fetched at once.
    if context.key_is_live.is_none() {
        effects
            .alerts
            .extend(decoded.iter().filter_map(items::alert));
    }
    let handled = decoded.iter().zip(&results.newer).map(|(event, newer)| {
        let owner = event.owner.expect("events without an owner were left out");
        if *newer {
            Handled::Applied(owner)
        } else {
            Handled::Superseded(owner)
        }
    });
    Ok(handled.collect())
}

/// The events of a batch, and which of them turned out to be newer than what
/// was stored.
struct Results<'a> {
    decoded: &'a [Decoded<'a>],
    newer: Vec<bool>,
}

/// The events of a batch by the object they are about.
type ByObject<'a, T> = BTreeMap<(Uuid, String), Vec<(usize, &'a Decoded<'a>, &'a T)>>;

impl<'a> Results<'a> {
    fn by_object<T: versions::Mirrored>(&self) -> ByObject<'a, T> {
        let mut objects = ByObject::new();
        for (position, event) in self.decoded.iter().enumerate() {
            if let (Some(owner), Some(object)) = (event.owner, T::of(&event.object)) {
                let key = (owner, object.id().to_owned());
                objects
                    .entry(key)
                    .or_default()
                    .push((position, event, object));
            }
        }
        objects
    }
}
