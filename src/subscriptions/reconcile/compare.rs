//! The differences between a mirrored object and Stripe's. Pure.

use std::collections::BTreeMap;

use billing_domain::subscription::is_ended;
use jiff::Timestamp;
use serde_json::json;

use super::payments::store::{MirroredCharge, MirroredDispute};
use super::store::{CustomerOwner, MirroredInvoice, MirroredMethod, MirroredSubscription};
use crate::stripe::client;
use crate::stripe::objects::{
    Charge, Customer, Dispute, Invoice, PaymentMethod, SchedulePhase, Subscription,
    SubscriptionSchedule,
};

/// The fields that differ, as `field: ours, Stripe's`.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn field(&mut self, name: &str, ours: impl ToString, theirs: impl ToString) {
        let (ours, theirs) = (ours.to_string(), theirs.to_string());
        if ours != theirs {
            self.0.push(format!("{name}: {ours}, {theirs}"));
        }
    }

    fn text(&mut self, name: &str, ours: Option<&str>, theirs: Option<&str>) {
        self.field(name, ours.unwrap_or("none"), theirs.unwrap_or("none"));
    }

    /// Compared to the second, which is Stripe's precision.
    fn time(&mut self, name: &str, ours: Option<Timestamp>, theirs: Option<Timestamp>) {
        let text = |at: Option<Timestamp>| {
            let whole = at.and_then(|at| Timestamp::from_second(at.as_second()).ok());
            whole.map_or_else(|| "none".to_owned(), |at| at.to_string())
        };
        self.field(name, text(ours), text(theirs));
    }
}

fn ids(ids: &[String]) -> String {
    match ids {
        [] => "none".to_owned(),
        ids => ids.join(" "),
    }
}

/// `schedule` is the one that drives the subscription in Stripe.
pub fn subscriptions(
    ours: &MirroredSubscription,
    theirs: &Subscription,
    schedule: Option<&SubscriptionSchedule>,
) -> Vec<String> {
    let mut differ = Differences::default();
    differ.field("status", &ours.status, &theirs.status);
    differ.field("customer", &ours.customer_id, &theirs.customer_id);
    let flag = (ours.cancel_at_period_end, theirs.cancel_at_period_end);
    differ.field("cancel at period end", flag.0, flag.1);
    // If the flag differs, these times only repeat it.
    if flag.0 == flag.1 {
        differ.time("cancel at", ours.cancel_at, theirs.cancel_at);
        differ.time("canceled at", ours.canceled_at, theirs.canceled_at);
    }
    differ.time(
        "period start",
        ours.period_start,
        theirs.current_period_start,
    );
    differ.time("period end", ours.period_end, theirs.current_period_end);
    differ.time("trial start", ours.trial_start, theirs.trial_start);
    differ.time("trial end", ours.trial_end, theirs.trial_end);
    differ.time("anchor", ours.anchor, theirs.billing_cycle_anchor);
    differ.text(
        "currency",
        ours.currency.as_deref(),
        theirs.currency.as_deref(),
    );
    differ.text(
        "billing mode",
        ours.billing_mode.as_deref(),
        theirs.billing_mode.as_deref(),
    );
    differ.text(
        "collection",
        ours.collection_method.as_deref(),
        theirs.collection_method.as_deref(),
    );
    differ.text(
        "default payment method",
        ours.default_payment_method_id.as_deref(),
        theirs.default_payment_method_id.as_deref(),
    );
    differ.text(
        "latest invoice",
        ours.latest_invoice_id.as_deref(),
        theirs.latest_invoice_id.as_deref(),
    );
    differ.field("discounted", ours.discounted, theirs.discounted);
    differ.field(
        "discounts",
        ids(&ours.discount_ids),
        ids(&theirs.discount_ids),
    );
    differ.field("taxed", ours.taxed, theirs.taxed);
    items(ours, theirs, &mut differ);
    if !is_ended(&theirs.status) {
        let known = ours.schedule_id.as_deref();
        differ.text("schedule", known, theirs.schedule_id.as_deref());
        if known == theirs.schedule_id.as_deref() {
            phases(ours, schedule, &mut differ);
        }
    }
    differ.0
}

/// Compares what the schedule makes of the subscription, and when.
fn phases(
    ours: &MirroredSubscription,
    theirs: Option<&SubscriptionSchedule>,
    differ: &mut Differences,
) {
    let ours = ours.phases.clone();
    let ours: Option<Vec<SchedulePhase>> =
        ours.and_then(|phases| serde_json::from_value(phases).ok());
    let shown = |phases: Option<&[SchedulePhase]>| {
        let phases = phases.unwrap_or_default().iter();
        let mut shown: Vec<String> = phases.map(phase).collect();
        shown.sort();
        match shown.is_empty() {
            true => "none".to_owned(),
            false => shown.join("; "),
        }
    };
    let theirs = theirs.map(|schedule| &*schedule.phases);
    differ.field("scheduled", shown(ours.as_deref()), shown(theirs));
}

/// Such as `2026-03-01T00:00:00Z 2 of price_1`.
fn phase(phase: &SchedulePhase) -> String {
    let items = phase.items.iter().map(|item| {
        let price = item.price.as_deref().unwrap_or("no price");
        match item.quantity {
            Some(quantity) => format!("{quantity} of {price}"),
            None => price.to_owned(),
        }
    });
    let mut items: Vec<String> = items.collect();
    items.sort();
    let start = phase.start.map(|at| at.to_string()).unwrap_or_default();
    format!("{start} {}", items.join(", "))
}

/// Compares what invoices depend on. A customer that nothing has shown yet is read
/// when it is needed; only its discount would go unnoticed.
pub fn customers(ours: &CustomerOwner, theirs: &client::Customer) -> Vec<String> {
    let mut differ = Differences::default();
    let object = json!({"id": theirs.id, "discount": theirs.discount, "address": theirs.address});
    let Ok(theirs) = Customer::read(&object, false) else {
        return differ.0;
    };
    let known = ours.discount_ids.as_deref().unwrap_or_default();
    differ.field("discount", ids(known), ids(&theirs.discount_ids));
    if let Some(located) = ours.tax_located {
        differ.field("address for taxes", located, theirs.tax_located);
    }
    differ.0
}

/// Compares price and quantity of the items, by id.
fn items(ours: &MirroredSubscription, theirs: &Subscription, differ: &mut Differences) {
    // An ended subscription is no longer charged, and API versions before 2016
    // show no items.
    if is_ended(&theirs.status) {
        return;
    }
    let mut both = BTreeMap::<&str, (String, String)>::new();
    let shown = |price: Option<&str>, quantity: Option<i64>, discounts: &[String]| {
        let quantity = quantity.map_or_else(String::new, |n| format!("{n} of "));
        let discounts = discounts.iter().map(|id| format!(" less {id}"));
        let discounts: String = discounts.collect();
        format!("{quantity}{}{discounts}", price.unwrap_or("no price"))
    };
    for item in &ours.items {
        let ours = shown(item.price_id.as_deref(), item.quantity, &item.discount_ids);
        both.entry(&item.id).or_default().0 = ours;
    }
    for item in &theirs.items {
        let theirs = shown(item.price_id.as_deref(), item.quantity, &item.discount_ids);
        both.entry(&item.id).or_default().1 = theirs;
    }
    for (id, (ours, theirs)) in both {
        let or_none = |text: String| if text.is_empty() { "none".into() } else { text };
        differ.field(&format!("item {id}"), or_none(ours), or_none(theirs));
    }
}

pub fn invoices(ours: &MirroredInvoice, theirs: &Invoice) -> Vec<String> {
    let mut differ = Differences::default();
    differ.text("status", ours.status.as_deref(), theirs.status.as_deref());
    differ.text("number", ours.number.as_deref(), theirs.number.as_deref());
    differ.text(
        "customer",
        ours.customer_id.as_deref(),
        theirs.customer_id.as_deref(),
    );
    differ.field("currency", &ours.currency, &theirs.currency);
    differ.field("total", ours.total, theirs.total);
    // Invoices that were mirrored before discounts were read say nothing of them.
    if let (Some(ours), Some(theirs)) = (ours.discount, theirs.discount) {
        differ.field("discount", ours, theirs);
    }
    differ.field("due", ours.amount_due, theirs.amount_due);
    differ.field("paid", ours.amount_paid, theirs.amount_paid);
    differ.field("remaining", ours.amount_remaining, theirs.amount_remaining);
    differ.0
}

pub fn charges(ours: &MirroredCharge, theirs: &Charge) -> Vec<String> {
    let mut differ = Differences::default();
    differ.field("status", &ours.status, &theirs.status);
    differ.field("currency", &ours.currency, &theirs.currency);
    differ.field("amount", ours.amount, theirs.amount);
    differ.field("captured", ours.amount_captured, theirs.amount_captured);
    differ.field("refunded", ours.amount_refunded, theirs.amount_refunded);
    differ.field("disputed", ours.disputed, theirs.disputed);
    differ.0
}

pub fn disputes(ours: &MirroredDispute, theirs: &Dispute) -> Vec<String> {
    let mut differ = Differences::default();
    differ.field("status", &ours.status, &theirs.status);
    differ.field("charge", &ours.charge_id, &theirs.charge_id);
    differ.field("currency", &ours.currency, &theirs.currency);
    differ.field("amount", ours.amount, theirs.amount);
    differ.text("reason", ours.reason.as_deref(), theirs.reason.as_deref());
    differ.0
}

pub fn payment_methods(ours: &MirroredMethod, theirs: &PaymentMethod) -> Vec<String> {
    let mut differ = Differences::default();
    let number = |n: Option<i16>| n.map_or_else(|| "none".to_owned(), |n| n.to_string());
    differ.field("status", &ours.status, theirs.status);
    if theirs.status == "attached" {
        differ.text(
            "customer",
            ours.customer_id.as_deref(),
            theirs.customer_id.as_deref(),
        );
    }
    differ.text("brand", ours.brand.as_deref(), theirs.brand.as_deref());
    differ.text("last4", ours.last4.as_deref(), theirs.last4.as_deref());
    differ.field(
        "expiry month",
        number(ours.exp_month),
        number(theirs.exp_month),
    );
    differ.field(
        "expiry year",
        number(ours.exp_year),
        number(theirs.exp_year),
    );
    differ.0
}
