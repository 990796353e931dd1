//! Projects invoices with their lines, and payment outcomes of subscriptions.

use std::collections::BTreeMap;

use billing_domain::event_order::EventOrder;
use billing_domain::money;
use billing_domain::status::InvoiceStatus;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::decode::Decoded;
use super::store;
use super::types::{Effects, NewAlert, Results};
use super::versions::{Mirrored, Version, merge};
use crate::mail::{Fact, Kind};
use crate::stripe::objects::{BillingObject, Invoice};

/// The event of a deleted draft.
const DELETED: &str = "invoice.deleted";
const PAYMENT_FAILED: &str = "invoice.payment_failed";
const ACTION_REQUIRED: &str = "invoice.payment_action_required";
/// Ranks after all other states of an invoice.
const DELETED_RANK: u8 = 15;

/// Whether `version` is of a deleted draft.
pub fn is_deleted(version: &Version) -> bool {
    let order = version.order();
    order.terminal && order.rank == DELETED_RANK
}

impl Mirrored for Invoice {
    const RESOURCE: &'static str = "invoice";

    fn of(object: &BillingObject) -> Option<&Self> {
        match object {
            BillingObject::Invoice(invoice) => Some(invoice),
            _ => None,
        }
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn order(&self, event_type: &str, created: i64) -> EventOrder {
        if event_type == DELETED {
            return EventOrder {
                terminal: true,
                created,
                rank: DELETED_RANK,
            };
        }
        let (terminal, stage) = match &self.status {
            None | Some(InvoiceStatus::Draft) => (false, 0),
            Some(InvoiceStatus::Open) => (false, 1),
            // Both are final.
            Some(InvoiceStatus::Paid | InvoiceStatus::Void) => (true, 3),
            Some(InvoiceStatus::Uncollectible | InvoiceStatus::Unknown(_)) => (false, 2),
        };
        // Within one second and status, these two come first.
        let event_rank = match event_type {
            "invoice.created" => 0,
            "invoice.finalized" => 1,
            _ => 2,
        };
        EventOrder {
            terminal,
            created,
            rank: stage * 3 + event_rank,
        }
    }
}

/// How a payment ended. Declared in ascending order: within a second a success is
/// the later one, since a failed payment may be retried and a paid invoice stays
/// paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PaymentOutcome {
    Failed,
    Succeeded,
}

/// The newest payment outcome of a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Payment {
    pub organization_id: Uuid,
    pub stripe_subscription_id: String,
    pub outcome: PaymentOutcome,
    pub billing_reason: Option<String>,
    pub stripe_invoice_id: String,
    pub last_event_at: Timestamp,
    pub last_event_id: String,
    /// Whether the invoice is paid, void or uncollectible by now.
    #[serde(skip)]
    pub settled: bool,
}

impl Payment {
    /// Later is greater.
    pub fn order(&self) -> (i64, PaymentOutcome, &str) {
        (
            self.last_event_at.as_second(),
            self.outcome,
            &self.last_event_id,
        )
    }
}

pub async fn apply(
    conn: &mut PgConnection,
    results: &mut Results<'_>,
    effects: &mut Effects,
) -> Result<(), sqlx::Error> {
    let keys: Vec<merge::ObjectKey> = results.by_object::<Invoice>().into_keys().collect();
    if keys.is_empty() {
        return Ok(());
    }
    let stored = store::invoices::load(conn, &keys).await?;
    let merged =
        merge::merge_events::<Invoice>(conn, results, effects, &stored, |_, invoice, version| {
            if is_deleted(version) {
                return store::invoices::deleted();
            }
            summary(invoice)
        })
        .await?;
    store::invoices::save(conn, &merged).await?;

    let payments = payments(results.decoded);
    store::invoices::note_failures(conn, &failures(results.decoded)).await?;
    store::invoices::save_payments(conn, &payments.into_values().collect::<Vec<_>>()).await?;
    for event in results.decoded {
        effects.alerts.extend(failed_payment(event));
        effects.alerts.extend(action_required(event));
        effects.mails.extend(mail_of(event));
    }
    Ok(())
}

/// When each invoice of the batch failed first, whether or not the event is superseded.
fn failures(events: &[Decoded<'_>]) -> BTreeMap<merge::ObjectKey, Timestamp> {
    let mut first = BTreeMap::<merge::ObjectKey, Timestamp>::new();
    for event in events {
        let failed = event.stored.event_type == PAYMENT_FAILED;
        if let (true, Some(owner), Some(invoice)) =
            (failed, event.owner, Invoice::of(&event.object))
        {
            let at = event.stored.created;
            let known = first.entry((owner, invoice.id.clone())).or_insert(at);
            *known = at.min(*known);
        }
    }
    first
}

/// The newest payment outcome in the batch, by subscription.
fn payments(events: &[Decoded<'_>]) -> BTreeMap<merge::ObjectKey, Payment> {
    let mut newest = BTreeMap::<merge::ObjectKey, Payment>::new();
    for payment in events.iter().filter_map(payment_of) {
        let key = (
            payment.organization_id,
            payment.stripe_subscription_id.clone(),
        );
        match newest.get(&key) {
            Some(known) if known.order() >= payment.order() => {}
            _ => {
                newest.insert(key, payment);
            }
        }
    }
    newest
}

fn payment_of(event: &Decoded<'_>) -> Option<Payment> {
    let BillingObject::Invoice(invoice) = &event.object else {
        return None;
    };
    let outcome = match event.stored.event_type.as_str() {
        "invoice.payment_succeeded" | "invoice.paid" => PaymentOutcome::Succeeded,
        PAYMENT_FAILED => PaymentOutcome::Failed,
        _ => return None,
    };
    Some(Payment {
        organization_id: event.owner?,
        stripe_subscription_id: invoice.subscription_id.clone()?,
        outcome,
        billing_reason: invoice.billing_reason.clone(),
        stripe_invoice_id: invoice.id.clone(),
        last_event_at: event.stored.created,
        last_event_id: event.stored.id.clone(),
        settled: false,
    })
}

/// Whether an event of `event_type` may begin or end a deduced status, or says since when
/// a payment is due.
pub fn touches_status(invoice: &Invoice, event_type: &str) -> bool {
    let is_settled = |status: &InvoiceStatus| status.is_settled();
    invoice.subscription_id.is_some()
        && (event_type.starts_with("invoice.payment_")
            || invoice.attempt_count > 0
            || invoice.status.as_ref().is_some_and(is_settled))
}

fn failed_payment(event: &Decoded<'_>) -> Option<NewAlert> {
    let BillingObject::Invoice(invoice) = &event.object else {
        return None;
    };
    if event.stored.event_type != PAYMENT_FAILED {
        return None;
    }
    let amount = money::display(invoice.amount_due, &invoice.currency);
    let next = match invoice.next_payment_attempt {
        Some(time) => format!("Stripe tries again at {time}"),
        None => "Stripe will not try again by itself".to_owned(),
    };
    Some(NewAlert {
        organization_id: event.owner?,
        kind: "payment_failed",
        key: event.stored.id.clone(),
        resource_type: "invoice",
        resource_id: invoice.id.clone(),
        message: format!(
            "payment of {amount} for invoice {} failed (attempt {}); {next}",
            invoice.number.as_deref().unwrap_or(&invoice.id),
            invoice.attempt_count
        ),
        occurred_at: event.stored.created,
    })
}

/// The mail to the payer, unless somebody is about to pay: whoever subscribes or changes a
/// plan sees on that page how the payment went.
fn mail_of(event: &Decoded<'_>) -> Option<Fact> {
    let kind = match event.stored.event_type.as_str() {
        PAYMENT_FAILED => Kind::PaymentFailed,
        ACTION_REQUIRED => Kind::ActionRequired,
        _ => return None,
    };
    let invoice = Invoice::of(&event.object)?;
    let watched = ["subscription_create", "subscription_update"];
    let reason = invoice.billing_reason.as_deref();
    if reason.is_some_and(|reason| watched.contains(&reason)) {
        return None;
    }
    let (attempt, at) = (invoice.attempt_count, event.stored.created);
    Some(Fact::of_invoice(
        kind,
        event.owner?,
        &invoice.id,
        attempt,
        at,
    ))
}

fn action_required(event: &Decoded<'_>) -> Option<NewAlert> {
    let invoice = Invoice::of(&event.object)?;
    if event.stored.event_type != ACTION_REQUIRED {
        return None;
    }
    let amount = money::display(invoice.amount_due, &invoice.currency);
    let way = match &invoice.hosted_invoice_url {
        Some(url) => format!("the payer confirms it at {url}"),
        None => "the payer has to confirm it".to_owned(),
    };
    Some(NewAlert {
        organization_id: event.owner?,
        kind: "payment_action_required",
        key: event.stored.id.clone(),
        resource_type: Invoice::RESOURCE,
        resource_id: invoice.id.clone(),
        message: format!(
            "payment of {amount} for invoice {} requires action by the payer; {way}",
            invoice.number.as_deref().unwrap_or(&invoice.id)
        ),
        occurred_at: event.stored.created,
    })
}

fn summary(invoice: &Invoice) -> Value {
    json!({
        "number": invoice.number,
        "status": invoice.status,
        "currency": invoice.currency,
        "subtotalAmount": invoice.subtotal,
        "taxAmount": invoice.tax,
        "totalAmount": invoice.total,
        "dueAmount": invoice.amount_due,
        "paidAmount": invoice.amount_paid,
        "remainingAmount": invoice.amount_remaining,
        "attemptCount": invoice.attempt_count,
        "nextPaymentAttempt": invoice.next_payment_attempt,
        "dueDate": invoice.due_date,
        "periodStart": invoice.period_start,
        "periodEnd": invoice.period_end,
    })
}
