//! What an entry of the audit log tells the product. Entries are written in the
//! transaction of their change and numbered without gaps, so that what follows from
//! them is never lost and never told of something that did not happen.

use billing_domain::status::SubscriptionStatus;
use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::data::{
    CheckoutData, GraceData, Invoice, InvoiceData, PaymentMethod, PaymentMethodData, Plan,
    PlanData, Subscription, SubscriptionData, Whose,
};
use super::event::NewEvent;
use super::types::EventType;
use crate::server::number::Number;

/// An entry, as far as events are made of it.
#[derive(Debug, Clone)]
pub struct Entry {
    pub action: String,
    pub resource_type: String,
    pub resource_id: Option<String>,
    pub before: Option<Value>,
    pub after: Option<Value>,
    pub at: Timestamp,
}

/// The event that `entry` is, if it is one.
pub fn event_of(entry: &Entry, whose: &Whose) -> Result<Option<NewEvent>, serde_json::Error> {
    match &*entry.resource_type {
        "subscription" => subscription(entry, whose),
        "invoice" => invoice(entry, whose),
        "checkout_session" => checkout(entry, whose),
        "payment_method" => payment_method(entry, whose),
        "customer" => default_method(entry, whose),
        "grace_period" => grace(entry, whose),
        "organization" if entry.action.starts_with("plan_") => plan(entry, whose),
        _ => Ok(None),
    }
}

fn new(
    event_type: EventType,
    entry: &Entry,
    data: &impl serde::Serialize,
) -> Result<Option<NewEvent>, serde_json::Error> {
    NewEvent::new(Uuid::now_v7(), event_type.as_str(), entry.at, data).map(Some)
}

/// Part of an entry; `None` where it has not that form, as entries of other actions.
fn read<T: DeserializeOwned>(state: Option<&Value>) -> Option<T> {
    T::deserialize(state?).ok()
}

fn text<'a>(state: Option<&'a Value>, name: &str) -> Option<&'a str> {
    state?.get(name)?.as_str()
}

fn subscription(entry: &Entry, whose: &Whose) -> Result<Option<NewEvent>, serde_json::Error> {
    let (Some(after), Some(id)) = (
        read::<Subscription>(entry.after.as_ref()),
        &entry.resource_id,
    ) else {
        return Ok(None);
    };
    let before = read::<Subscription>(entry.before.as_ref());
    let ended = |status: &str| SubscriptionStatus::from(status).is_ended();
    let event_type = match &before {
        _ if entry.action == "subscription_trial_will_end" => EventType::TrialWillEnd,
        None if !ended(&after.status) => EventType::SubscriptionCreated,
        Some(before) if ended(&before.status) => EventType::SubscriptionUpdated,
        _ if ended(&after.status) => EventType::SubscriptionCanceled,
        _ => EventType::SubscriptionUpdated,
    };
    let previous = match &before {
        Some(before) => changed(before, &after)?,
        None => Map::new(),
    };
    if event_type == EventType::SubscriptionUpdated && previous.is_empty() {
        return Ok(None);
    }
    let data = SubscriptionData {
        whose: whose.clone(),
        stripe_subscription_id: id.clone(),
        subscription: after,
        previous,
    };
    new(event_type, entry, &data)
}

/// The previous values of the members that differ; null for one that was not there.
fn changed<T: serde::Serialize>(
    before: &T,
    after: &T,
) -> Result<Map<String, Value>, serde_json::Error> {
    let object = |value: &T| match serde_json::to_value(value)? {
        Value::Object(members) => Ok(members),
        _ => Ok::<_, serde_json::Error>(Map::new()),
    };
    let (before, after) = (object(before)?, object(after)?);
    let mut previous = Map::new();
    for name in before.keys().chain(after.keys()) {
        if before.get(name) != after.get(name) {
            let former = before.get(name).cloned().unwrap_or(Value::Null);
            previous.insert(name.clone(), former);
        }
    }
    Ok(previous)
}

fn invoice(entry: &Entry, whose: &Whose) -> Result<Option<NewEvent>, serde_json::Error> {
    let (Some(after), Some(id)) = (read::<Invoice>(entry.after.as_ref()), &entry.resource_id)
    else {
        return Ok(None);
    };
    let paid = |state: Option<&Value>| text(state, "status") == Some("paid");
    let event_type = match &*entry.action {
        _ if paid(entry.after.as_ref()) && !paid(entry.before.as_ref()) => EventType::InvoicePaid,
        "invoice_payment_failed" => EventType::InvoicePaymentFailed,
        "invoice_payment_action_required" => EventType::InvoiceActionRequired,
        _ => return Ok(None),
    };
    let data = InvoiceData {
        whose: whose.clone(),
        stripe_invoice_id: id.clone(),
        invoice: after,
    };
    new(event_type, entry, &data)
}

fn checkout(entry: &Entry, whose: &Whose) -> Result<Option<NewEvent>, serde_json::Error> {
    let complete = |state: Option<&Value>| text(state, "status") == Some("complete");
    if !complete(entry.after.as_ref()) || complete(entry.before.as_ref()) {
        return Ok(None);
    }
    let (Some(checkout), Some(id)) = (read(entry.after.as_ref()), &entry.resource_id) else {
        return Ok(None);
    };
    let data = CheckoutData {
        whose: whose.clone(),
        stripe_checkout_session_id: id.clone(),
        checkout,
    };
    new(EventType::CheckoutCompleted, entry, &data)
}

fn payment_method(entry: &Entry, whose: &Whose) -> Result<Option<NewEvent>, serde_json::Error> {
    let Some(method) = read::<PaymentMethod>(entry.after.as_ref()) else {
        return Ok(None);
    };
    if entry.before == entry.after {
        return Ok(None);
    }
    let data = PaymentMethodData {
        whose: whose.clone(),
        stripe_payment_method_id: entry.resource_id.clone(),
        payment_method: Some(method),
    };
    new(EventType::PaymentMethodChanged, entry, &data)
}

fn default_method(entry: &Entry, whose: &Whose) -> Result<Option<NewEvent>, serde_json::Error> {
    const DEFAULT: &str = "defaultPaymentMethodId";
    let has = |state: Option<&Value>| state.is_some_and(|state| state.get(DEFAULT).is_some());
    let (before, after) = (entry.before.as_ref(), entry.after.as_ref());
    if !has(after) || text(before, DEFAULT) == text(after, DEFAULT) {
        return Ok(None);
    }
    let data = PaymentMethodData {
        whose: whose.clone(),
        stripe_payment_method_id: text(after, DEFAULT).map(str::to_owned),
        payment_method: None,
    };
    new(EventType::PaymentMethodChanged, entry, &data)
}

fn grace(entry: &Entry, whose: &Whose) -> Result<Option<NewEvent>, serde_json::Error> {
    let event_type = match &*entry.action {
        "grace_period_started" => EventType::GracePeriodStarted,
        "grace_period_ended" => EventType::GracePeriodEnded,
        _ => return Ok(None),
    };
    let after = entry.after.as_ref();
    let number = |name| {
        let decimal = text(after, name)?.parse::<Decimal>().ok()?;
        Some(Number(decimal))
    };
    let time = |name| text(after, name)?.parse().ok();
    let data = GraceData {
        whose: whose.clone(),
        metric: entry.resource_id.clone().unwrap_or_default(),
        usage: number("usage"),
        quota: number("quota"),
        started_at: time("startedAt"),
        expires_at: time("expiresAt"),
        end_reason: text(after, "endReason").map(str::to_owned),
    };
    new(event_type, entry, &data)
}

fn plan(entry: &Entry, whose: &Whose) -> Result<Option<NewEvent>, serde_json::Error> {
    let both = read::<Plan>(entry.before.as_ref()).zip(read::<Plan>(entry.after.as_ref()));
    let Some((previous, plan)) = both else {
        return Ok(None);
    };
    let data = PlanData {
        whose: whose.clone(),
        plan,
        previous,
    };
    new(EventType::PlanChanged, entry, &data)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(action: &str, resource: &str, before: Value, after: Value) -> Option<Value> {
        let entry = Entry {
            action: action.to_owned(),
            resource_type: resource.to_owned(),
            resource_id: Some("x_1".to_owned()),
            before: (!before.is_null()).then_some(before),
            after: (!after.is_null()).then_some(after),
            at: Timestamp::UNIX_EPOCH,
        };
        let whose = Whose {
            organization_id: Uuid::nil(),
            external_id: Some("acme".to_owned()),
        };
        let event = event_of(&entry, &whose).unwrap()?;
        let data: Value = serde_json::from_str(event.data.get()).unwrap();
        assert_eq!(data["externalId"], "acme");
        Some(json!([event.event_type, data]))
    }

    #[test]
    fn a_subscriptions_life_is_created_updated_and_canceled() {
        let with =
            |status: &str| json!({"status": status, "planTier": "standard", "metadata": "x"});
        let kind = |action: &str, before: Value, after: Value| {
            told(action, "subscription", before, after).map(|told| told[0].clone())
        };
        let updated = "subscription_updated";
        assert_eq!(
            kind(updated, Value::Null, with("active")),
            Some(json!("subscription.created"))
        );
        assert_eq!(kind(updated, with("active"), with("active")), None);
        assert_eq!(
            kind(updated, with("active"), with("canceled")),
            Some(json!("subscription.canceled"))
        );
        assert_eq!(
            kind(updated, Value::Null, with("canceled")),
            Some(json!("subscription.canceled"))
        );
        assert_eq!(
            kind(
                "subscription_trial_will_end",
                with("trialing"),
                with("trialing")
            ),
            Some(json!("trial.will_end"))
        );
        let told = told(
            "subscription_status_changed",
            "subscription",
            json!({"status": "active"}),
            json!({"status": "past_due"}),
        )
        .unwrap();
        assert_eq!(told[0], "subscription.updated");
        assert_eq!(told[1]["previous"], json!({"status": "active"}));
        assert_eq!(told[1]["subscription"], json!({"status": "past_due"}));
    }

    #[test]
    fn an_invoice_is_paid_once() {
        let with = |status: &str| {
            json!({"number": null, "status": status, "currency": "usd", "totalAmount": 1,
                   "dueAmount": 1, "paidAmount": 0, "remainingAmount": 1, "taxAmount": 0})
        };
        let kind = |action: &str, before: &str, after: &str| {
            told(action, "invoice", with(before), with(after)).map(|told| told[0].clone())
        };
        assert_eq!(
            kind("invoice_updated", "open", "paid"),
            Some(json!("invoice.paid"))
        );
        assert_eq!(kind("invoice_paid", "paid", "paid"), None);
        assert_eq!(
            kind("invoice_payment_failed", "open", "open"),
            Some(json!("invoice.payment_failed"))
        );
        assert_eq!(
            kind("invoice_payment_action_required", "open", "open"),
            Some(json!("invoice.action_required"))
        );
        assert_eq!(kind("invoice_finalized", "draft", "open"), None);
    }

    #[test]
    fn other_changes_have_types_of_their_own() {
        let plan = told(
            "plan_changed",
            "organization",
            json!({"planTier": "free"}),
            json!({"planTier": "standard", "planVersion": 2}),
        )
        .unwrap();
        assert_eq!(plan[1]["plan"], json!({"tier": "standard", "version": 2}));
        let grace = told(
            "grace_period_started",
            "grace_period",
            Value::Null,
            json!({"usage": "1000.5", "quota": "1000", "startedAt": "2026-01-01T00:00:00Z",
                   "expiresAt": "2026-01-02T00:00:00Z", "endReason": null}),
        )
        .unwrap();
        assert_eq!(
            (&grace[0], &grace[1]["usage"]),
            (&json!("grace_period.started"), &json!(1000.5))
        );
        let checkout = told(
            "checkout_session_completed",
            "checkout_session",
            Value::Null,
            json!({"status": "complete", "totalAmount": 5, "currency": "usd"}),
        )
        .unwrap();
        assert_eq!(checkout[0], "checkout.completed");
        let card = json!({"status": "attached", "type": "card", "brand": "visa"});
        let method = told(
            "payment_method_attached",
            "payment_method",
            Value::Null,
            card,
        )
        .unwrap();
        assert_eq!(method[0], "payment_method.changed");
        let default = told(
            "customer_updated",
            "customer",
            json!({"defaultPaymentMethodId": null}),
            json!({"defaultPaymentMethodId": "pm_2"}),
        )
        .unwrap();
        assert_eq!(default[1]["stripePaymentMethodId"], "pm_2");
        assert_eq!(
            told("features_listed", "organization", Value::Null, Value::Null),
            None
        );
    }
}
