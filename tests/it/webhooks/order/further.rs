//! What else happens: refunds, disputes, renewed cards, deleted customers and
//! drafts, checkouts.

use serde_json::{Value, json};

use super::stripe::{Object, Organization, Stripe};
use crate::support::events::invoice;

impl Stripe {
    /// Which payment paid the invoice.
    pub(super) fn pay(&mut self, invoice: usize, payment_intent: &str) {
        let Object { customer, now, .. } = &self.objects[invoice];
        let (customer, invoice) = (*customer, now["id"].clone());
        let object = json!({
            "id": self.new_id("inpay"),
            "object": "invoice_payment",
            "amount_paid": 9900,
            "created": self.now,
            "currency": "usd",
            "invoice": invoice,
            "livemode": false,
            "payment": {"type": "payment_intent", "payment_intent": payment_intent},
            "status": "paid",
        });
        self.create(customer, "invoice_payment", "invoice_payment.paid", object);
    }

    /// A part of a charge is given back, or what is left of it; or the bank sends it back
    /// again.
    pub(super) fn refund(&mut self, customer: &'static str, choice: u8) {
        let made = |o: &Object| o.now["status"] == "succeeded";
        if let (Some(index), true) = (
            self.find(customer, "refund", made, choice >> 1),
            choice.is_multiple_of(3),
        ) {
            self.fail_refund(customer, index);
            return;
        }
        let refundable = |o: &Object| {
            o.now["status"] == "succeeded" && o.now["amount_refunded"] != o.now["amount"]
        };
        let Some(index) = self.find(customer, "charge", refundable, choice >> 1) else {
            return;
        };
        let before = self.objects[index].now["amount_refunded"].as_i64().unwrap();
        let after = match choice & 1 {
            0 => 9_900,
            _ => (before + 1_000).min(9_900),
        };
        let object = json!({
            "id": self.new_id("re"),
            "object": "refund",
            "amount": after - before,
            "charge": self.objects[index].now["id"],
            "created": self.now,
            "currency": "usd",
            "metadata": {},
            "status": "succeeded",
        });
        self.create(customer, "refund", "refund.created", object);
        self.change("charge.refunded", index, |o| {
            o["amount_refunded"] = json!(after);
            o["refunded"] = json!(o["amount"] == after);
        });
    }

    /// No event says that the charge is not refunded any more.
    fn fail_refund(&mut self, customer: &str, refund: usize) {
        let refunded = self.objects[refund].now.clone();
        let is_its = |o: &Object| o.now["id"] == refunded["charge"];
        let charge = self.find(customer, "charge", is_its, 0).unwrap();
        let charge = &mut self.objects[charge].now;
        let amount = charge["amount_refunded"].as_i64().unwrap();
        charge["amount_refunded"] = json!(amount - refunded["amount"].as_i64().unwrap());
        charge["refunded"] = json!(false);
        self.change("refund.updated", refund, |o| {
            o["status"] = json!("failed");
            o["failure_reason"] = json!("unknown");
        });
        self.tell("refund.failed", refund, None);
    }

    /// A payer disputes a charge, or the bank decides.
    pub(super) fn dispute(&mut self, customer: &'static str, choice: u8) {
        let open = |o: &Object| o.now["status"] == "needs_response";
        if let (Some(index), true) = (
            self.find(customer, "dispute", open, choice >> 1),
            choice & 1 == 0,
        ) {
            let end = ["won", "lost"][usize::from(choice >> 7)];
            self.change("charge.dispute.closed", index, |o| o["status"] = json!(end));
            return;
        }
        let succeeded = |o: &Object| o.now["status"] == "succeeded";
        let Some(charge) = self.find(customer, "charge", succeeded, choice >> 1) else {
            return;
        };
        let object = json!({
            "id": self.new_id("du"),
            "object": "dispute",
            "amount": 9900,
            "charge": self.objects[charge].now["id"],
            "created": self.now,
            "currency": "usd",
            "livemode": false,
            "metadata": {},
            "reason": "fraudulent",
            "status": "needs_response",
        });
        self.create(customer, "dispute", "charge.dispute.created", object);
    }

    pub(super) fn renew_card(&mut self, customer: &str, choice: u8) {
        let attached = |o: &Object| !o.now["customer"].is_null();
        let Some(index) = self.find(customer, "payment_method", attached, choice >> 1) else {
            return;
        };
        let told = ["updated", "automatically_updated"][usize::from(choice & 1)];
        self.change(&format!("payment_method.{told}"), index, |o| {
            let year = o["card"]["exp_year"].as_i64().unwrap();
            o["card"]["exp_year"] = json!(year + 1);
        });
    }

    /// The customer has another default card, or is deleted.
    pub(super) fn change_customer(&mut self, customer: &'static str, choice: u8) {
        let card = self.new_id("pm");
        let any = |_: &Object| true;
        let Some(index) = self.find(customer, "customer", any, 0) else {
            let object = json!({
                "id": customer,
                "object": "customer",
                "delinquent": false,
                "invoice_settings": {"default_payment_method": card},
                "livemode": false,
                "metadata": {},
            });
            self.create(customer, "customer", "customer.updated", object);
            return;
        };
        if self.objects[index].now["deleted"] == true {
            return;
        }
        if choice.is_multiple_of(5) {
            self.tell("customer.deleted", index, None);
            self.objects[index].now["deleted"] = json!(true);
        } else {
            self.change("customer.updated", index, |o| {
                o["invoice_settings"]["default_payment_method"] = json!(card);
            });
        }
    }

    /// A draft is made, and perhaps deleted.
    pub(super) fn draft(&mut self, customer: &'static str, choice: u8) {
        let mut object = invoice(&self.new_id("in"), customer, "sub_none", "draft");
        object["attempt_count"] = json!(0);
        object["billing_reason"] = json!("manual");
        object["parent"] = Value::Null;
        let index = self.create(customer, "invoice", "invoice.created", object);
        self.now += i64::from(choice & 1);
        if choice & 2 == 0 {
            self.tell("invoice.deleted", index, None);
            self.objects[index].kind = "deleted";
        }
    }

    /// A trial ends soon, or ends without a card, and goes on with one.
    pub(super) fn pause(&mut self, customer: &str, choice: u8) {
        let of = |status: &'static str| move |o: &Object| o.now["status"] == status;
        if let Some(index) = self.find(customer, "subscription", of("paused"), choice) {
            self.change("customer.subscription.resumed", index, |o| {
                o["status"] = json!("active")
            });
        } else if let Some(index) = self.find(customer, "subscription", of("trialing"), choice) {
            self.tell("customer.subscription.trial_will_end", index, None);
            if choice & 1 == 0 {
                self.now += 1;
                self.change("customer.subscription.paused", index, |o| {
                    o["status"] = json!("paused")
                });
            }
        }
    }

    /// A payer goes through a checkout, whose payment may take its time.
    pub(super) fn check_out(&mut self, organization: &Organization, choice: u8) {
        let mut object = json!({
            "id": self.new_id("cs"),
            "object": "checkout.session",
            "amount_total": 9900,
            "created": self.now,
            "currency": "usd",
            "customer": organization.customer,
            "livemode": false,
            "metadata": {},
            "mode": "payment",
            "payment_status": "unpaid",
            "status": "complete",
        });
        if let Some(organization) = organization.named_by_metadata {
            object["client_reference_id"] = json!(organization);
        }
        let (customer, kind) = (organization.customer, "checkout_session");
        if choice & 3 == 0 {
            object["status"] = json!("expired");
            self.create(customer, kind, "checkout.session.expired", object);
            return;
        }
        let index = self.create(customer, kind, "checkout.session.completed", object);
        self.now += i64::from(choice >> 7);
        if choice & 4 == 0 {
            let told = "checkout.session.async_payment_succeeded";
            self.change(told, index, |o| o["payment_status"] = json!("paid"));
        } else {
            self.tell("checkout.session.async_payment_failed", index, None);
        }
    }
}
