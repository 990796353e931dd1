//! Histories as Stripe writes them: objects change, and each change is an
//! event with the object as it is then, and what it was before.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::changes::{TIERS, edit, previous_attributes};
use crate::support::dice::Dice;
use crate::support::events::{event, invoice, subscription};

#[derive(Debug, Clone, Copy)]
pub struct Organization {
    pub customer: &'static str,
    /// Its subscriptions have its id in their metadata.
    pub named_by_metadata: Option<Uuid>,
}

/// Something that happens to an organization, `seconds` after the last step.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub organization: usize,
    pub action: u8,
    pub choice: u8,
    pub seconds: i64,
}

/// Events in the order in which they happened.
#[derive(Debug)]
pub struct History {
    pub events: Vec<Value>,
    /// The objects as they are in the end.
    pub truth: Value,
    /// Objects whose changes of one second lead back to where they began: which
    /// was the last, nobody can tell.
    pub ambiguous: Vec<String>,
}

impl History {
    pub fn write(steps: &[Step], seed: u64, organizations: &[Organization]) -> Self {
        let mut stripe = Stripe {
            now: 1_760_000_000,
            dice: Dice::new(seed ^ 0x5717_19e5),
            events: Vec::new(),
            objects: Vec::new(),
        };
        for organization in organizations {
            stripe.subscribe(organization, 0);
        }
        for step in steps {
            stripe.now += step.seconds;
            stripe.take(&organizations[step.organization], step.action, step.choice);
        }
        stripe.finish()
    }
}

#[derive(Debug)]
pub struct Object {
    pub customer: &'static str,
    pub kind: &'static str,
    pub now: Value,
    /// When it last changed, and what it was when that second began.
    second: (i64, Value),
}

pub struct Stripe {
    pub now: i64,
    dice: Dice,
    events: Vec<Value>,
    pub objects: Vec<Object>,
}

impl Stripe {
    fn take(&mut self, organization: &Organization, action: u8, choice: u8) {
        let customer = organization.customer;
        let running = |o: &Object| o.now["status"] != "canceled";
        let open = |o: &Object| o.now["status"] == "open";
        match action % 18 {
            0 => self.subscribe(organization, choice),
            1 => self.attach(customer),
            2 => self.detach(customer, choice),
            3 => self.renew(customer, choice),
            4 => {
                if let Some(index) = self.find(customer, "invoice", open, choice) {
                    self.attempt(index, choice & 1 == 0);
                }
            }
            5 => {
                if let Some(index) = self.find(customer, "invoice", open, choice) {
                    let status = ["void", "uncollectible"][usize::from(choice & 1)];
                    let told = ["invoice.voided", "invoice.marked_uncollectible"];
                    let told = told[usize::from(choice & 1)];
                    self.change("invoice.updated", index, |o| o["status"] = json!(status));
                    if choice & 2 == 0 {
                        self.tell(told, index, None);
                    }
                }
            }
            6 => {
                let succeeded =
                    |o: &Object| o.now["status"] == "succeeded" && o.now["amount_refunded"] == 0;
                if let Some(index) = self.find(customer, "charge", succeeded, choice) {
                    self.objects[index].now["status"] = json!("failed");
                    self.tell("charge.failed", index, None);
                }
            }
            7 if choice & 1 == 0 => {
                if let Some(index) = self.find(customer, "subscription", running, choice) {
                    self.objects[index].now["status"] = json!("canceled");
                    self.tell("customer.subscription.deleted", index, None);
                }
            }
            8 => self.refund(customer, choice),
            9 => self.dispute(customer, choice),
            10 => self.renew_card(customer, choice),
            11 => self.change_customer(customer, choice),
            12 => self.draft(customer, choice),
            13 => self.pause(customer, choice),
            14 => self.check_out(organization, choice),
            _ => {
                let any = |_: &Object| true;
                if let Some(index) = self.find(customer, "subscription", any, choice >> 3) {
                    self.change("customer.subscription.updated", index, |o| edit(o, choice));
                }
            }
        }
    }

    pub(super) fn find(
        &self,
        customer: &str,
        kind: &str,
        which: impl Fn(&Object) -> bool,
        choice: u8,
    ) -> Option<usize> {
        let fits = |o: &Object| o.customer == customer && o.kind == kind && which(o);
        let found: Vec<usize> = (0..self.objects.len())
            .filter(|i| fits(&self.objects[*i]))
            .collect();
        (!found.is_empty()).then(|| found[usize::from(choice) % found.len()])
    }

    pub(super) fn create(
        &mut self,
        customer: &'static str,
        kind: &'static str,
        event_type: &str,
        object: Value,
    ) -> usize {
        self.objects.push(Object {
            customer,
            kind,
            second: (self.now, object.clone()),
            now: object,
        });
        let index = self.objects.len() - 1;
        self.tell(event_type, index, None);
        index
    }

    pub(super) fn change(&mut self, event_type: &str, index: usize, edit: impl FnOnce(&mut Value)) {
        let object = &mut self.objects[index];
        let before = object.now.clone();
        edit(&mut object.now);
        let previous = previous_attributes(&before, &object.now);
        if previous.is_empty() {
            return;
        }
        if object.second.0 != self.now {
            object.second = (self.now, before);
        }
        self.tell(event_type, index, Some(previous));
    }

    pub(super) fn tell(
        &mut self,
        event_type: &str,
        index: usize,
        previous: Option<Map<String, Value>>,
    ) {
        let id = format!("evt_{:016x}", self.dice.number());
        let object = self.objects[index].now.clone();
        let mut event = event(&id, event_type, self.now, object);
        if let Some(previous) = previous {
            event["data"]["previous_attributes"] = previous.into();
        }
        self.events.push(event);
    }

    pub(super) fn new_id(&mut self, prefix: &str) -> String {
        format!("{prefix}_{:012x}", self.dice.number() >> 16)
    }

    fn subscribe(&mut self, organization: &Organization, choice: u8) {
        let customer = organization.customer;
        let id = self.new_id("sub");
        let status = ["active", "trialing", "incomplete"][usize::from(choice) % 3];
        let tier = TIERS[usize::from(choice / 3) % 4];
        let mut object = subscription(&id, customer, status, tier);
        object["quantity"] = json!(1);
        if let Some(organization) = organization.named_by_metadata {
            object["metadata"]["organization_id"] = json!(organization);
        }
        let kind = "subscription";
        let index = self.create(customer, kind, "customer.subscription.created", object);
        if status != "trialing" {
            self.bill(index, "subscription_create", choice);
        }
    }

    fn renew(&mut self, customer: &str, choice: u8) {
        let running = |o: &Object| matches!(o.now["status"].as_str(), Some("active" | "past_due"));
        if let Some(index) = self.find(customer, "subscription", running, choice >> 2) {
            let reason = match choice >> 5 {
                0 => "subscription_update",
                1 => "manual",
                _ => "subscription_cycle",
            };
            self.bill(index, reason, choice);
        }
    }

    fn bill(&mut self, subscription: usize, reason: &str, choice: u8) {
        let Object { customer, now, .. } = &self.objects[subscription];
        let (customer, metadata) = (*customer, now["metadata"].clone());
        let subscription_id = now["id"].as_str().unwrap().to_owned();
        let id = self.new_id("in");
        let mut object = invoice(&id, customer, &subscription_id, "draft");
        object["attempt_count"] = json!(0);
        object["billing_reason"] = json!(reason);
        object["parent"]["subscription_details"]["metadata"] = metadata;
        let index = self.create(customer, "invoice", "invoice.created", object);
        self.now += i64::from(choice >> 6 & 1);
        self.objects[index].now["status"] = json!("open");
        self.tell("invoice.finalized", index, None);
        self.now += i64::from(choice >> 7);
        self.attempt(index, choice & 3 != 0);
    }

    /// Tries to collect an open invoice: a charge, the invoice, the payment
    /// and the subscription each have their event, in one second.
    fn attempt(&mut self, invoice: usize, succeeds: bool) {
        let customer = self.objects[invoice].customer;
        let payment_intent = self.new_id("pi");
        let charge = json!({
            "id": self.new_id("ch"),
            "object": "charge",
            "amount": 9900,
            "amount_refunded": 0,
            "created": self.now,
            "currency": "usd",
            "customer": customer,
            "payment_intent": &payment_intent,
            "failure_code": if succeeds { Value::Null } else { json!("card_declined") },
            "livemode": false,
            "paid": succeeds,
            "status": if succeeds { "succeeded" } else { "failed" },
        });
        let outcome = if succeeds { "succeeded" } else { "failed" };
        self.create(customer, "charge", &format!("charge.{outcome}"), charge);
        if succeeds {
            self.pay(invoice, &payment_intent);
        }
        self.change("invoice.updated", invoice, |o| {
            o["attempt_count"] = json!(o["attempt_count"].as_i64().unwrap() + 1);
            if succeeds {
                o["status"] = json!("paid");
                o["amount_paid"] = json!(9900);
                o["amount_remaining"] = json!(0);
            }
        });
        self.tell(&format!("invoice.payment_{outcome}"), invoice, None);
        if succeeds {
            self.tell("invoice.paid", invoice, None);
        }
        let id = &self.objects[invoice].now["parent"]["subscription_details"]["subscription"];
        let index = self
            .objects
            .iter()
            .position(|o| o.now["id"] == *id)
            .unwrap();
        self.change("customer.subscription.updated", index, |o| {
            let status = o["status"].as_str().unwrap();
            let next = match (status, succeeds) {
                ("active", false) => "past_due",
                ("past_due" | "incomplete", true) => "active",
                (status, _) => status,
            };
            o["status"] = json!(next);
        });
    }

    fn attach(&mut self, customer: &'static str) {
        let id = self.new_id("pm");
        let object = json!({
            "id": id,
            "object": "payment_method",
            "card": {"brand": "visa", "last4": &id[3..7], "exp_month": 1, "exp_year": 2030},
            "created": self.now,
            "customer": customer,
            "livemode": false,
            "metadata": {},
            "type": "card",
        });
        self.create(
            customer,
            "payment_method",
            "payment_method.attached",
            object,
        );
    }

    fn detach(&mut self, customer: &'static str, choice: u8) {
        let attached = |o: &Object| !o.now["customer"].is_null();
        if let Some(index) = self.find(customer, "payment_method", attached, choice >> 1) {
            self.objects[index].now["customer"] = Value::Null;
            let previous = json!({"customer": customer}).as_object().cloned();
            let says_whose = choice & 1 == 0;
            self.tell(
                "payment_method.detached",
                index,
                previous.filter(|_| says_whose),
            );
        }
    }

    fn finish(self) -> History {
        let is_ring = |o: &&Object| o.kind == "subscription" && o.second.1 == o.now;
        let untouched = |o: &Object| {
            let events = self.events.iter();
            let about = |e: &&Value| e["data"]["object"]["id"] == o.now["id"];
            events.filter(about).count() == 1
        };
        let ambiguous: Vec<String> = self
            .objects
            .iter()
            .filter(is_ring)
            .filter(|o| !untouched(o))
            .map(|o| o.now["id"].as_str().unwrap().to_owned())
            .collect();
        let kept = self.objects.iter().filter(|o| o.kind != "deleted");
        let mut rows: Vec<Value> = kept.map(|o| row(o, &self.objects)).collect();
        rows.retain(|row| !ambiguous.iter().any(|id| row["id"] == **id));
        History {
            events: self.events,
            truth: json!({"objects": rows}),
            ambiguous,
        }
    }
}

/// What the mirror should show of an object.
fn row(object: &Object, all: &[Object]) -> Value {
    let o = &object.now;
    let of = |kind: &'static str| all.iter().filter(move |other| other.kind == kind);
    let detail = match object.kind {
        "subscription" => json!([o["quantity"], o["cancel_at_period_end"], o["metadata"]]),
        "invoice" => json!([o["attempt_count"], o["amount_paid"]]),
        "charge" => {
            let disputed = of("dispute").any(|other| other.now["charge"] == o["id"]);
            let paid =
                |other: &&Object| other.now["payment"]["payment_intent"] == o["payment_intent"];
            let invoice = of("invoice_payment")
                .find(paid)
                .map(|other| &other.now["invoice"]);
            json!([o["amount"], o["amount_refunded"], disputed, invoice])
        }
        "dispute" | "refund" => json!([o["amount"]]),
        "invoice_payment" => json!([o["invoice"]]),
        "checkout_session" => json!([o["payment_status"]]),
        "customer" => json!([o["invoice_settings"]["default_payment_method"]]),
        _ => json!([o["card"]["last4"], o["card"]["exp_year"]]),
    };
    let status = match object.kind {
        "payment_method" if o["customer"].is_null() => json!("detached"),
        "payment_method" => json!("attached"),
        "customer" if o["deleted"] == true => json!("deleted"),
        "customer" => json!("there"),
        _ => o["status"].clone(),
    };
    json!({"id": o["id"], "status": status, "detail": detail})
}
