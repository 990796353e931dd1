//! One story, told by each version of Stripe's API: whatever shape its objects
//! have, the rows are the same.
//!
//! `shapes/*.json` have every member that the types of Stripe's library for
//! that version name.

use serde_json::{Map, Value, json};
use valuecanvas_billing::projection::HANDLED_TYPES;

use super::workbench::Workbench;
use crate::support::events::event;

const VERSIONS: [(&str, &str); 3] = [
    ("basil", include_str!("shapes/basil.json")),
    ("clover", include_str!("shapes/clover.json")),
    ("dahlia", include_str!("shapes/dahlia.json")),
];
/// When the story begins.
const START: i64 = 1_790_000_000;

/// The objects of a version, with ids of their own.
struct Shapes {
    name: &'static str,
    objects: Value,
}

impl Shapes {
    fn of((name, text): (&'static str, &str)) -> Self {
        let text = text.replace("_shapes", &format!("_{name}"));
        Self {
            name,
            objects: serde_json::from_str(&text).unwrap(),
        }
    }

    fn customer(&self) -> String {
        format!("cus_{}", self.name)
    }

    /// The event of this version, the `step`th of the story.
    fn tell(&self, step: usize, event_type: &str) -> Value {
        let (name, changes, previous) = object_of(event_type);
        let mut object = self.objects[name].clone();
        merge(&mut object, changes);
        let id = format!("evt_{}_{step:02}", self.name);
        let at = START + 60 * i64::try_from(step).unwrap();
        let mut told = event(&id, event_type, at, object);
        told["api_version"] = self.objects["api_version"].clone();
        if let Some(mut previous) = previous {
            if !previous["customer"].is_null() {
                previous["customer"] = json!(self.customer());
            }
            told["data"]["previous_attributes"] = previous;
        }
        told
    }
}

fn merge(object: &mut Value, changes: Value) {
    let (Value::Object(members), Value::Object(changes)) = (&mut *object, &changes) else {
        *object = changes;
        return;
    };
    for (name, value) in changes {
        merge(members.entry(name).or_insert(Value::Null), value.clone());
    }
}

/// The object that an event is about, how it differs from the fixture's, and
/// what it was before.
fn object_of(event_type: &str) -> (&'static str, Value, Option<Value>) {
    let unpaid = |status: &str| {
        json!({"status": status, "amount_paid": 0, "amount_remaining": 9900,
        "status_transitions": {"paid_at": null}})
    };
    let (name, changes) = match event_type {
        "invoice.created" => ("invoice", unpaid("draft")),
        "invoice.finalized"
        | "invoice.updated"
        | "invoice.payment_failed"
        | "invoice.payment_action_required" => ("invoice", unpaid("open")),
        "invoice.payment_succeeded" | "invoice.paid" => ("invoice", json!({})),
        "invoice.voided" => ("invoice", with_id("in_voided", unpaid("void"))),
        "invoice.marked_uncollectible" => ("invoice", with_id("in_lost", unpaid("uncollectible"))),
        "invoice.deleted" => ("invoice", with_id("in_deleted", unpaid("draft"))),
        "customer.subscription.deleted" => (
            "subscription",
            json!({"status": "canceled", "canceled_at": START, "ended_at": START}),
        ),
        "customer.subscription.paused" => ("subscription", json!({"status": "paused"})),
        "customer.subscription.trial_will_end" => (
            "subscription",
            json!({"status": "trialing", "trial_start": START, "trial_end": START + 259_200}),
        ),
        other if other.starts_with("customer.subscription.") => ("subscription", json!({})),
        other if other.starts_with("customer.discount.") => ("discount", json!({})),
        "customer.updated" | "customer.created" => ("customer", json!({})),
        "customer.deleted" => ("customer", json!({"deleted": true})),
        "charge.succeeded" => ("charge", json!({})),
        "charge.failed" => (
            "charge",
            with_id(
                "ch_failed",
                json!({"status": "failed", "paid": false, "captured": false, "amount_captured": 0,
                       "failure_code": "card_declined", "failure_message": "Declined."}),
            ),
        ),
        "charge.refunded" => ("charge", json!({"amount_refunded": 9900, "refunded": true})),
        "refund.failed" => (
            "refund",
            json!({"status": "failed", "failure_reason": "lost_or_stolen_card"}),
        ),
        other if other.starts_with("refund.") || other.starts_with("charge.refund.") => {
            ("refund", json!({}))
        }
        "charge.dispute.closed" => ("dispute", json!({"status": "lost"})),
        other if other.starts_with("charge.dispute.") => ("dispute", json!({})),
        "payment_method.detached" => {
            let changes = json!({"customer": null});
            return (
                "payment_method",
                changes,
                Some(json!({"customer": "its own"})),
            );
        }
        other if other.starts_with("payment_method.") => ("payment_method", json!({})),
        "checkout.session.expired" => (
            "checkout_session",
            with_id(
                "cs_test_expired",
                json!({"status": "expired", "payment_status": "unpaid", "subscription": null, "invoice": null}),
            ),
        ),
        "checkout.session.async_payment_failed" => {
            ("checkout_session", json!({"payment_status": "unpaid"}))
        }
        other if other.starts_with("checkout.session.") => ("checkout_session", json!({})),
        "invoice_payment.paid" => ("invoice_payment", json!({})),
        "subscription_schedule.released" => {
            let released = json!({"status": "released", "released_at": START,
                "released_subscription": "sub_of_it", "subscription": null, "current_phase": null});
            (
                "subscription_schedule",
                with_id("sub_sched_released", released),
            )
        }
        "subscription_schedule.canceled" => (
            "subscription_schedule",
            with_id(
                "sub_sched_canceled",
                json!({"status": "canceled", "canceled_at": START, "current_phase": null}),
            ),
        ),
        "subscription_schedule.completed" => (
            "subscription_schedule",
            with_id(
                "sub_sched_completed",
                json!({"status": "completed", "completed_at": START, "current_phase": null}),
            ),
        ),
        "subscription_schedule.aborted" => (
            "subscription_schedule",
            json!({"status": "canceled", "canceled_at": START, "current_phase": null}),
        ),
        other if other.starts_with("subscription_schedule.") => {
            ("subscription_schedule", json!({}))
        }
        other => panic!("{other} is handled, but no version's shape of it is tried"),
    };
    (name, changes, None)
}

/// `changes`, of another object.
fn with_id(id: &str, mut changes: Value) -> Value {
    changes["id"] = json!(id);
    changes
}

/// Everything that is mirrored of an organization, without what names it.
async fn mirrored(bench: &Workbench, organization: &str, version: &str) -> Map<String, Value> {
    let tables = bench
        .rows(
            "SELECT c.relname AS name FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
              WHERE c.relkind = 'r' AND a.attname = 'organization_id'
                AND c.relname ~ '^billing_' AND c.relname !~ 'audit|applied|stripe_requests'
              ORDER BY 1",
        )
        .await;
    let mut state = Map::new();
    for table in tables.as_array().unwrap() {
        let table = table["name"].as_str().unwrap();
        // Since clover, events name a coupon without its terms, which Stripe is asked for.
        let not_told = match table {
            "billing_discounts" => {
                ",coupon_name,percent_off,duration,duration_in_months,terms_at,terms_due_at"
            }
            _ => "",
        };
        let rows = bench
            .rows(&format!(
                "SELECT to_jsonb(t) - '{{organization_id,created_at,updated_at{not_told}}}'::text[] AS \"row\"
                   FROM {table} t WHERE organization_id = '{organization}' ORDER BY to_jsonb(t)::text"
            ))
            .await;
        let text = rows.to_string().replace(&format!("_{version}"), "_shapes");
        let mut rows: Vec<String> = serde_json::from_str::<Vec<Value>>(&text)
            .unwrap()
            .iter()
            .map(Value::to_string)
            .collect();
        rows.sort();
        state.insert(table.to_owned(), json!(rows));
    }
    state
}

#[tokio::test]
async fn every_version_tells_the_same_story() {
    let bench = Workbench::without_customers().await;
    let shapes = VERSIONS.map(Shapes::of);
    let mut organizations = Vec::new();
    for version in &shapes {
        let id = bench.db.organization(&version.customer()).await;
        organizations.push(id.to_string());
    }
    for (step, event_type) in HANDLED_TYPES.iter().enumerate() {
        let events: Vec<Value> = shapes
            .iter()
            .map(|version| version.tell(step, event_type))
            .collect();
        bench.process(&events).await;
        let mut states = Vec::new();
        for (version, organization) in shapes.iter().zip(&organizations) {
            states.push(mirrored(&bench, organization, version.name).await);
        }
        assert_eq!(states[0], states[1], "basil and clover, {event_type}");
        assert_eq!(states[1], states[2], "clover and dahlia, {event_type}");
        assert_eq!(
            bench
                .db
                .count(&format!(
                    "webhook_events WHERE event_type = '{event_type}' AND outcome IN ('applied', 'superseded')"
                ))
                .await,
            3,
            "{event_type}: {:#}",
            bench.outcomes().await
        );
    }
    bench.verify_audit().await;
}

#[tokio::test]
async fn nothing_of_a_version_is_lost() {
    for version in VERSIONS.map(Shapes::of) {
        let bench = Workbench::without_customers().await;
        bench.db.organization(&version.customer()).await;
        let types = [
            "customer.subscription.created",
            "invoice.payment_succeeded",
            "charge.succeeded",
            "payment_method.attached",
        ];
        let events: Vec<Value> = (0..).zip(types).map(|(n, t)| version.tell(n, t)).collect();
        bench.process(&events).await;
        let id = |prefix: &str| format!("{prefix}_{}", version.name);
        bench
            .shows(
                "SELECT stripe_customer_id, status, plan_tier, billing_mode, collection_method,
                        extract(epoch FROM current_period_start)::bigint AS starts,
                        extract(epoch FROM current_period_end)::bigint AS ends,
                        latest_invoice_id, default_payment_method_id, taxed, discounted
                   FROM billing_subscriptions",
                json!({"stripe_customer_id": id("cus"), "status": "active", "plan_tier": "standard",
                    "billing_mode": "flexible", "collection_method": "charge_automatically",
                    "starts": START, "ends": START + 2_592_000, "latest_invoice_id": id("in"),
                    "default_payment_method_id": id("pm"), "taxed": false, "discounted": false}),
            )
            .await;
        bench
            .shows(
                "SELECT i.status, i.number, i.stripe_subscription_id, i.total_amount, i.amount_paid,
                        i.billing_reason, i.paid_at IS NOT NULL AS paid,
                        l.stripe_price_id, l.stripe_subscription_item_id, l.quantity, l.proration,
                        l.amount
                   FROM billing_invoices i JOIN billing_invoice_items l USING (organization_id, stripe_invoice_id)",
                json!({"status": "paid", "number": "SHAPES-0001", "stripe_subscription_id": id("sub"),
                    "total_amount": 9900, "amount_paid": 9900, "billing_reason": "subscription_create",
                    "paid": true, "stripe_price_id": "price_standard",
                    "stripe_subscription_item_id": id("si"), "quantity": 1, "proration": false,
                    "amount": 9900}),
            )
            .await;
        bench
            .shows(
                "SELECT status, amount_captured, stripe_payment_intent_id, stripe_payment_method_id,
                        card_brand, card_last4, outcome_risk_level FROM billing_charges",
                json!({"status": "succeeded", "amount_captured": 9900,
                    "stripe_payment_intent_id": id("pi"), "stripe_payment_method_id": id("pm"),
                    "card_brand": "visa", "card_last4": "4242", "outcome_risk_level": "normal"}),
            )
            .await;
        bench
            .shows(
                "SELECT stripe_customer_id, status, type, brand, last4, exp_month, exp_year, funding
                   FROM billing_payment_methods",
                json!({"stripe_customer_id": id("cus"), "status": "attached", "type": "card",
                    "brand": "visa", "last4": "4242", "exp_month": 12, "exp_year": 2030,
                    "funding": "credit"}),
            )
            .await;
    }
}
