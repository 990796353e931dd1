//! The projection: Stripe's events and responses become rows, and with them an
//! organization's plan and quotas.
//!
//! Events are applied in batches. A batch is decoded; its organizations are
//! found and locked; the stored state of each object is read; pure rules merge
//! the events into it; the result is written with its audit entries. A round
//! trip is shared by the whole batch, and the batch is one transaction.
//!
//! Nothing here receives events, schedules them or calls Stripe: `event_log` has
//! the events, `webhooks` decides when to apply them.

mod charge;
mod checkout_session;
mod customer;
mod decode;
mod discount;
mod dispute;
pub mod erasure;
mod event_types;
mod extract;
mod history;
mod invoice;
mod invoice_payment;
mod items;
mod known_tier;
mod missing_subscriptions;
mod owner;
mod past_due;
mod payment_method;
mod payment_status;
mod periods;
mod plan_assignment;
mod price_changes;
mod price_swaps;
mod refund;
mod schedule;
mod store;
mod stripe_response;
mod subscription;
mod subscription_change;
mod types;
mod versions;

use std::collections::{BTreeSet, HashSet};

use sqlx::PgConnection;
use uuid::Uuid;

use crate::audit::{self, Actor};
pub use crate::config::UnknownCustomers;
use crate::event_log::StoredEvent;
use crate::mail;
use crate::metering::reports;
pub use customer::mirror as mirror_customer;
use decode::Decoded;
pub use discount::coupon_known;
use event_types::action;
pub use event_types::{DISCOUNT_TYPES, FURTHER_TYPES, HANDLED_TYPES, LINKING_TYPE, MAIN_TYPES};
pub use extract::{Emptied, extract, remove_payloads};
pub use history::{SubscriptionState, complete_terms, subscription_states};
pub use missing_subscriptions::{EndedHere, end_missing};
pub use owner::organizations_in;
pub use past_due::review as review_past_due;
pub use payment_method::mirror as mirror_payment_method;
pub use plan_assignment::{PlanSource, plan_of};
pub use price_changes::repriced_since;
pub use schedule::prices_of as prices_of_schedule;
pub use store::customers::second_customers;
pub use store::discounts::{Unexplained, unexplained};
pub use store::invoice_lines::replace_all as replace_invoice_lines;
pub use store::unclaimed::count as unclaimed;
pub use store::updated;
pub use stripe_response::{MirrorError, MirrorOutcome, ResponseKind, StripeResponse, mirror};
pub use types::{Applied, Batch, Context, Handled, HandlerError, NewAlert, report_alerts};
use types::{Effects, Results};

/// All audit actions of events.
pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    let handled = HANDLED_TYPES.into_iter().map(action);
    let deduced = [plan_assignment::CHANGED, payment_status::STATUS_CHANGED];
    handled.chain(deduced).chain(past_due::ACTIONS)
}

/// Applies `events` within the transaction of `conn`.
///
/// # Errors
/// Database errors only. A problem of one event is its result and does not
/// affect the others.
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
    note_rejected_usage(conn, events, &results).await?;
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
    let erased = erasure::erased(conn, &decoded).await?;
    erasure::empty_events(conn, &erased, &mut decoded, &mut results).await?;
    if !decoded.is_empty() {
        apply_locked(conn, context, decoded, &locked, &mut results, &mut applied).await?;
    }
    erasure::erase_again(conn, &erased).await?;
    let answered = |result: Option<_>| result.expect("each event has its result");
    applied.results = results.into_iter().map(answered).collect();
    Ok(applied)
}

/// Enters the events about usage that Stripe rejected.
async fn note_rejected_usage(
    conn: &mut PgConnection,
    events: &[&StoredEvent],
    results: &[Option<Result<Handled, HandlerError>>],
) -> Result<(), sqlx::Error> {
    let noted = events.iter().zip(results);
    let noted = noted.filter(|(_, result)| matches!(result, Some(Ok(Handled::Noted))));
    let noted: Vec<_> = noted
        .map(|(event, _)| (&*event.id, &*event.event_type, event.created))
        .collect();
    reports::enter_meter_errors(conn, &noted).await
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
        (a.order.created, a.order.rank, &a.stored.id).cmp(&(
            b.order.created,
            b.order.rank,
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
    mail::queue(conn, &effects.mails).await?;
    let raised = store::alerts(conn, effects.alerts).await?;
    applied.alerts.extend(raised);
    applied.appended = audit::append(conn, &locked.chains, &effects.entries).await?;
    applied.graces = effects.graces;
    Ok(())
}

/// Makes ignored events due again whose owner was processed concurrently with
/// them. Returns their number.
pub async fn wake_claimed(conn: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let known = store::unclaimed::known_by_now(conn).await?;
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    store::unclaimed::wake(conn, &known).await
}

/// Makes events of `customer` due again that were ignored because it belonged to
/// no organization. Returns their number.
pub async fn wake_customer(conn: &mut PgConnection, customer: &str) -> Result<u64, sqlx::Error> {
    store::unclaimed::wake(conn, &[customer]).await
}

/// Invoices come before subscriptions, since a failed payment affects the status
/// of its subscription.
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
    refund::apply(conn, &mut results, effects).await?;
    invoice_payment::apply(conn, &mut results, effects).await?;
    charge::link(conn, decoded).await?;
    payment_method::apply(conn, &mut results, effects).await?;
    invoice::apply(conn, &mut results, effects).await?;
    let unnamed = schedule::apply(conn, context.catalogue, &mut results, effects).await?;
    subscription::apply(conn, context.catalogue, &mut results, effects).await?;
    store::subscriptions::mark_stale(conn, &unnamed).await?;
    discount::apply(conn, &mut results, effects).await?;
    if context.key_is_live.is_some() {
        discount::ask_for_missing(conn, &results).await?;
    }
    // With a key, missing items are fetched instead.
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
