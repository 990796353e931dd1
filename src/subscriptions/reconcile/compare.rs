//! The differences between mirrored rows and what Stripe shows. Pure.
//!
//! Stripe's objects serialize by the names of their columns, and every field that
//! does is compared: what is mirrored from now on is compared, too.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::Value;

use super::store::{Mirrored, Parts};
use crate::stripe::objects::{
    Charge, CheckoutSession, Customer, Dispute, Invoice, InvoicePayment, PaymentMethod, Refund,
    SchedulePhase, Subscription, SubscriptionSchedule,
};

/// Whether a list is complete says nothing of the object; the rest of it is fetched.
const LISTS: &str = "has_more_items";
/// Stripe signs these anew whenever it shows them, so only their presence counts.
const LINKS: [&str; 3] = ["hosted_invoice_url", "invoice_pdf", "receipt_url"];
/// What is cleared when an organization is erased, and is not to come back.
const ERASED: [&str; 17] = [
    "metadata",
    "pending_update",
    "default_payment_method_id",
    "cancellation_comment",
    "hosted_invoice_url",
    "invoice_pdf",
    "description",
    "receipt_url",
    "card_brand",
    "card_last4",
    "stripe_payment_method_id",
    "client_reference_id",
    "tax_country",
    "failure_message",
    "outcome_seller_message",
    "promotion_code",
    "coupon_name",
];

/// The fields that differ, as `field: ours, Stripe's`.
#[derive(Default)]
struct Differences<'a> {
    found: Vec<String>,
    skipped: Vec<&'a str>,
}

impl<'a> Differences<'a> {
    fn of(ours: &Mirrored, skipped: &[&'a str]) -> Self {
        let mut skipped = [skipped, &[LISTS]].concat();
        if ours.erased {
            skipped.extend(ERASED);
        }
        Self {
            found: Vec::new(),
            skipped,
        }
    }

    fn field(&mut self, name: &str, ours: impl ToString, theirs: impl ToString) {
        let (ours, theirs) = (ours.to_string(), theirs.to_string());
        if ours != theirs {
            self.found.push(format!("{name}: {ours}, {theirs}"));
        }
    }

    /// Compares all fields of Stripe's with the columns of ours.
    fn row(&mut self, prefix: &str, ours: &Value, theirs: &impl Serialize) {
        let theirs = match serde_json::to_value(theirs) {
            Ok(theirs) => theirs,
            Err(error) => return self.found.push(format!("{prefix}not compared: {error}")),
        };
        for (column, theirs) in theirs.as_object().into_iter().flatten() {
            let ours = &ours[column];
            let is_same = match LINKS.contains(&column.as_str()) {
                true => ours.is_null() == theirs.is_null(),
                false => is_same(ours, theirs),
            };
            if !is_same && !self.skipped.contains(&column.as_str()) {
                let (ours, theirs) = (shown(ours), shown(theirs));
                self.found
                    .push(format!("{prefix}{}: {ours}, {theirs}", label(column)));
            }
        }
    }
}

/// Such as `latest invoice` for `latest_invoice_id`.
fn label(column: &str) -> String {
    let name = column.strip_prefix("stripe_").unwrap_or(column);
    name.strip_suffix("_id").unwrap_or(name).replace('_', " ")
}

/// PostgreSQL writes times and decimals in its own way. Times are compared to the
/// second, which is Stripe's precision.
fn is_same(ours: &Value, theirs: &Value) -> bool {
    if ours == theirs {
        return true;
    }
    if let (Some(ours), Some(theirs)) = (moment(ours), moment(theirs)) {
        return ours == theirs;
    }
    match (ours, theirs) {
        (Value::Number(ours), Value::String(theirs)) => {
            let ours = ours.to_string().parse::<Decimal>();
            ours.is_ok() && ours.ok() == theirs.parse().ok()
        }
        _ => false,
    }
}

fn moment(value: &Value) -> Option<i64> {
    let at: Timestamp = value.as_str()?.parse().ok()?;
    Some(at.as_second())
}

fn shown(value: &Value) -> String {
    let at = moment(value).and_then(|secs| Timestamp::from_second(secs).ok());
    match (value, at) {
        (Value::Null, _) => "none".to_owned(),
        (_, Some(at)) => at.to_string(),
        (Value::String(text), _) => text.clone(),
        (other, _) => other.to_string(),
    }
}

/// `schedule` is the one that drives the subscription in Stripe.
pub fn subscriptions(
    ours: &Mirrored,
    theirs: &Subscription,
    schedule: Option<&SubscriptionSchedule>,
) -> Vec<String> {
    let ended = theirs.status.is_ended();
    let mut skipped = vec!["pending_update"];
    // If the flag differs, these times only repeat it.
    if ours.row["cancel_at_period_end"] != theirs.cancel_at_period_end {
        skipped.extend(["cancel_at", "canceled_at"]);
    }
    if ended {
        skipped.push("stripe_schedule_id");
    }
    let mut differ = Differences::of(ours, &skipped);
    differ.row("", &ours.row, theirs);
    if !ours.erased {
        let known = pending(&ours.row["pending_update"]);
        let waits = theirs
            .pending_update
            .as_ref()
            .map_or(Value::Null, Clone::clone);
        differ.field("pending update", known, pending(&waits));
    }
    // An ended subscription is no longer charged, and API versions before 2016
    // show no items.
    if !ended {
        items(&ours.parts, theirs, &mut differ);
        let known = ours.row["stripe_schedule_id"].as_str();
        if known == theirs.schedule_id.as_deref() {
            scheduled(&ours.parts, schedule, &mut differ);
        }
    }
    differ.found
}

/// What waits for its payment, such as `1 of price_1 until 2026-03-01T00:00:00Z`. The
/// versions of Stripe's API show the rest of it in different ways.
fn pending(update: &Value) -> String {
    let items = update["subscription_items"]
        .as_array()
        .into_iter()
        .flatten();
    let items = items.map(|item| {
        let price = item["price"]["id"].as_str().or(item["price"].as_str());
        format!(
            "{} of {}",
            shown(&item["quantity"]),
            price.unwrap_or("no price")
        )
    });
    let mut items: Vec<String> = items.collect();
    items.sort();
    match update["expires_at"].as_i64() {
        None => "none".to_owned(),
        Some(secs) => {
            let until =
                Timestamp::from_second(secs).map_or_else(|_| secs.to_string(), |at| at.to_string());
            format!("{} until {until}", items.join(", "))
        }
    }
}

/// Compares the items by id.
fn items(parts: &Parts, theirs: &Subscription, differ: &mut Differences<'_>) {
    // A lookup key is the price's, and moves to newer ones.
    differ.skipped.push("lookup_key");
    let known = by_id(&parts.items, "stripe_subscription_item_id");
    for item in &theirs.items {
        let prefix = format!("item {} ", item.id);
        match known.get(item.id.as_str()) {
            Some(ours) => differ.row(&prefix, ours, item),
            None => differ.field(
                prefix.trim_end(),
                "none",
                shown_item(item.quantity, item.price_id.as_deref()),
            ),
        }
    }
    let there: BTreeSet<&str> = theirs.items.iter().map(|item| item.id.as_str()).collect();
    for (id, ours) in known.iter().filter(|(id, _)| !there.contains(*id)) {
        let ours = shown_item(ours["quantity"].as_i64(), ours["stripe_price_id"].as_str());
        differ.field(&format!("item {id}"), ours, "none");
    }
}

fn by_id<'a>(rows: &'a [Value], column: &str) -> BTreeMap<&'a str, &'a Value> {
    let rows = rows.iter();
    rows.filter_map(|row| Some((row[column].as_str()?, row)))
        .collect()
}

/// Such as `2 of price_1`.
fn shown_item(quantity: Option<i64>, price: Option<&str>) -> String {
    let price = price.unwrap_or("no price");
    match quantity {
        Some(quantity) => format!("{quantity} of {price}"),
        None => price.to_owned(),
    }
}

/// Compares what the schedule makes of the subscription, and when.
fn scheduled(parts: &Parts, theirs: Option<&SubscriptionSchedule>, differ: &mut Differences<'_>) {
    if let (Some(ours), Some(theirs)) = (&parts.schedule, theirs) {
        let skipped = differ.skipped.len();
        differ.skipped.push("phases");
        differ.row("schedule ", ours, theirs);
        differ.skipped.truncate(skipped);
    }
    // One that drives nothing any more has no part in what is to come.
    let ours = parts.schedule.as_ref();
    let ours = ours.filter(|row| row["status"] == "active" || row["status"] == "not_started");
    let ours = ours.map(|row| row["phases"].clone());
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
    let items = phase.items.iter();
    let items = items.map(|item| shown_item(item.quantity, item.price.as_deref()));
    let mut items: Vec<String> = items.collect();
    items.sort();
    let start = phase.start.map(|at| at.to_string()).unwrap_or_default();
    format!("{start} {}", items.join(", "))
}

/// `payments` are those of the invoice in Stripe.
pub fn invoices(ours: &Mirrored, theirs: &Invoice, payments: &[InvoicePayment]) -> Vec<String> {
    let mut differ = Differences::of(ours, &[]);
    // Null where the invoice was mirrored before they were read, or as a version of Stripe's
    // API showed it that does not say them. The lines have them anyway.
    let unsaid = ["discount_amount", "included_tax_amount"];
    let unsaid = unsaid.into_iter().filter(|name| ours.row[name].is_null());
    let skipped = differ.skipped.len();
    differ.skipped.extend(unsaid);
    differ.row("", &ours.row, theirs);
    differ.skipped.truncate(skipped);
    let of_position = |at: usize| {
        let mut lines = ours.parts.items.iter();
        lines.find(|line| line["position"].as_u64() == u64::try_from(at).ok())
    };
    for (position, line) in theirs.lines.iter().enumerate() {
        let prefix = format!("line {} ", position + 1);
        match of_position(position) {
            Some(ours) => differ.row(&prefix, ours, line),
            // `serve` fetches what an event left out.
            None if ours.row[LISTS] == true => {}
            None => differ.field(prefix.trim_end(), "none", &line.id),
        }
    }
    let surplus = ours.parts.items.iter();
    let surplus = surplus.filter(|line| {
        let position = line["position"]
            .as_u64()
            .and_then(|at| usize::try_from(at).ok());
        position.is_none_or(|at| at >= theirs.lines.len())
    });
    for line in surplus {
        let name = format!("line {}", line["position"].as_u64().unwrap_or(0) + 1);
        differ.field(&name, shown(&line["stripe_line_item_id"]), "none");
    }
    let known = by_id(&ours.parts.payments, "stripe_invoice_payment_id");
    for payment in payments {
        let prefix = format!("payment {} ", payment.id);
        let is_paid = payment.status.as_deref() == Some("paid");
        match known.get(payment.id.as_str()) {
            Some(ours) => differ.row(&prefix, ours, payment),
            None if is_paid => differ.field(prefix.trim_end(), "none", "paid"),
            // It has no event, and is not mirrored.
            None => {}
        }
    }
    differ.found
}

/// `theirs` names the invoice, if Stripe says it anywhere.
pub fn charges(ours: &Mirrored, theirs: &Charge) -> Vec<String> {
    let unknown: &[&str] = match theirs.invoice_id {
        Some(_) => &[],
        None => &["stripe_invoice_id"],
    };
    let mut differ = Differences::of(ours, unknown);
    differ.row("", &ours.row, theirs);
    differ.found
}

pub fn refunds(ours: &Mirrored, theirs: &Refund) -> Vec<String> {
    let mut differ = Differences::of(ours, &[]);
    differ.row("", &ours.row, theirs);
    differ.found
}

pub fn disputes(ours: &Mirrored, theirs: &Dispute) -> Vec<String> {
    let mut differ = Differences::of(ours, &[]);
    differ.row("", &ours.row, theirs);
    differ.found
}

pub fn checkout_sessions(ours: &Mirrored, theirs: &CheckoutSession) -> Vec<String> {
    let mut differ = Differences::of(ours, &[]);
    differ.row("", &ours.row, theirs);
    differ.found
}

/// That one was deleted is a finding of its own.
pub fn customers(ours: &Mirrored, theirs: &Customer) -> Vec<String> {
    let mut skipped = vec!["deleted"];
    let is_reduced = !theirs.discount_ids.is_empty();
    // Nothing has shown them since they are read: only a discount would matter.
    if ours.row["tax_located"].is_null() {
        skipped.extend(["tax_located", "tax_country"]);
        skipped.extend((!is_reduced).then_some("discount_ids"));
    }
    if ours.row["currency"].is_null() {
        // The first invoice sets the currency, and no event need tell of it.
        skipped.push("currency");
    }
    let mut differ = Differences::of(ours, &skipped);
    // Of a customer that no event has shown yet, the row alone says whose it is.
    if is_reduced || !ours.row["last_event_id"].is_null() {
        differ.row("", &ours.row, theirs);
    }
    differ.found
}

pub fn payment_methods(ours: &Mirrored, theirs: &PaymentMethod) -> Vec<String> {
    let mut differ = Differences::of(ours, &[]);
    differ.row("", &ours.row, theirs);
    differ.found
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn mirrored(row: Value) -> Mirrored {
        Mirrored {
            organization_id: Uuid::nil(),
            erased: false,
            row,
            parts: Parts::default(),
        }
    }

    fn session(status: &str) -> CheckoutSession {
        CheckoutSession::read(&json!({
            "id": "cs_1", "status": status, "payment_status": "paid", "amount_total": 700,
            "expires_at": 1_767_225_600, "metadata": {"a": "1", "b": "2"}, "livemode": false,
        }))
        .unwrap()
    }

    /// As PostgreSQL shows the row.
    fn row() -> Value {
        let mut row = serde_json::to_value(session("complete")).unwrap();
        row["expires_at"] = json!("2026-01-01T01:00:00.25+01:00");
        row
    }

    #[test]
    fn a_row_differs_by_what_stripe_says() {
        let ours = mirrored(row());
        assert_eq!(
            checkout_sessions(&ours, &session("complete")),
            Vec::<String>::new()
        );
        assert_eq!(
            checkout_sessions(&ours, &session("expired")),
            ["status: complete, expired"]
        );
        let mut other = row();
        other["total_amount"] = json!(1);
        other["expires_at"] = json!(null);
        assert_eq!(
            checkout_sessions(&mirrored(other), &session("complete")),
            [
                "expires at: none, 2026-01-01T00:00:00Z",
                "total amount: 1, 700"
            ]
        );
    }

    #[test]
    fn what_an_erasure_clears_is_no_difference() {
        let mut cleared = row();
        cleared["metadata"] = json!({});
        let mut ours = mirrored(cleared);
        assert_eq!(
            checkout_sessions(&ours, &session("complete")),
            [r#"metadata: {}, {"a":"1","b":"2"}"#]
        );
        ours.erased = true;
        assert_eq!(
            checkout_sessions(&ours, &session("complete")),
            Vec::<String>::new()
        );
    }

    #[test]
    fn decimals_are_compared_by_their_value() {
        assert!(is_same(&json!(1050), &json!("1050")));
        assert!(is_same(&json!(0.5), &json!("0.50")));
        assert!(!is_same(&json!(0.5), &json!("0.51")));
        assert!(!is_same(&json!(7), &json!("seven")));
    }
}
