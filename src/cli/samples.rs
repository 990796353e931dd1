//! Sample events, in the format of Stripe's current API.

use std::net::SocketAddr;
use std::time::Duration;

use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::http_client::direct_client;
use crate::stripe::client::API_VERSION;
use crate::tenancy::organizations::sample::{self, Progress};
use crate::webhooks::endpoint::PATH;

/// A sample event, ready to be signed.
pub struct SampleEvent {
    pub id: String,
    pub body: String,
}

/// The objects of one organization's sample subscription. All events of a sample
/// are about the same objects.
pub struct Sample {
    organization_id: Uuid,
    customer: String,
    tag: String,
    pub tier: &'static str,
    /// The subscription's status.
    pub status: &'static str,
    /// The number of the subscription's invoice that events are about.
    pub invoice: u32,
    /// The invoice's status.
    pub invoice_status: &'static str,
    pub attempts: u32,
}

impl Sample {
    pub fn new(organization_id: Uuid, customer: Option<&str>) -> Self {
        Self {
            organization_id,
            customer: customer.map_or_else(
                || format!("cus_sample{}", organization_id.simple()),
                str::to_owned,
            ),
            tag: Uuid::now_v7().simple().to_string()[16..].to_owned(),
            tier: "standard",
            status: "active",
            invoice: 1,
            invoice_status: "paid",
            attempts: 1,
        }
    }

    /// The objects of the sample organization's next event: those of the events
    /// before it, unless they have ended.
    pub fn next(progress: Progress) -> Self {
        let number = |count: i64| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            tag: format!("sample{:010}", progress.ended_subscriptions),
            invoice: number(progress.closed_invoices).saturating_add(1),
            attempts: number(progress.charges).saturating_add(1),
            ..Self::new(sample::ID, None)
        }
    }

    /// An event of `event_type` at `now`.
    pub fn event(&self, event_type: &str, now: Timestamp, livemode: bool) -> SampleEvent {
        let id = format!("evt_sample{}", Uuid::now_v7().simple());
        let family = |name: &str| event_type.starts_with(name);
        let mut object = if family("customer.subscription.") {
            self.subscription(event_type, now)
        } else if family("invoice.") {
            self.invoice(event_type, now)
        } else if family("charge.dispute.") {
            self.dispute(event_type, now)
        } else if family("refund.") || family("charge.refund.") {
            self.refund(event_type, now)
        } else if family("charge.") {
            self.charge(event_type, now)
        } else if family("payment_method.") {
            self.payment_method(event_type, now)
        } else if family("subscription_schedule.") {
            self.schedule(event_type, now)
        } else {
            self.further(event_type, now)
        };
        object["livemode"] = json!(livemode);
        let mut data = json!({"object": object});
        if event_type == "payment_method.detached" {
            data["previous_attributes"] = json!({"customer": self.customer});
        }
        let body = json!({
            "id": id,
            "object": "event",
            "api_version": API_VERSION,
            "created": now.as_second(),
            "data": data,
            "livemode": livemode,
            "pending_webhooks": 1,
            "request": {"id": null, "idempotency_key": null},
            "type": event_type,
        });
        SampleEvent {
            id,
            body: body.to_string(),
        }
    }

    fn amount(&self) -> i64 {
        if self.tier == "enterprise" {
            49_900
        } else {
            9_900
        }
    }

    fn metadata(&self) -> Value {
        json!({"organization_id": self.organization_id})
    }

    fn period(now: Timestamp) -> (i64, i64) {
        let end = now.checked_add((30 * 24).hours()).unwrap_or(now);
        (now.as_second(), end.as_second())
    }

    fn subscription(&self, event_type: &str, now: Timestamp) -> Value {
        let (start, end) = Self::period(now);
        let ended = event_type == "customer.subscription.deleted";
        let ended_at = ended.then_some(start);
        json!({
            "id": format!("sub_{}", self.tag),
            "object": "subscription",
            "billing_cycle_anchor": start,
            "billing_mode": {"type": "flexible"},
            "cancel_at": null,
            "cancel_at_period_end": false,
            "canceled_at": ended_at,
            "collection_method": "charge_automatically",
            "created": start,
            "currency": "usd",
            "customer": self.customer,
            "default_payment_method": format!("pm_{}", self.tag),
            "ended_at": ended_at,
            "items": {"object": "list", "has_more": false, "data": [{
                "id": format!("si_{}", self.tag),
                "object": "subscription_item",
                "current_period_start": start,
                "current_period_end": end,
                "price": {
                    "id": format!("price_{}", self.tier),
                    "object": "price",
                    "currency": "usd",
                    "lookup_key": format!("valuecanvas_{}_monthly", self.tier),
                    "metadata": {},
                    "product": format!("prod_{}", self.tier),
                    "recurring": {"interval": "month", "interval_count": 1, "usage_type": "licensed"},
                    "type": "recurring",
                    "unit_amount": self.amount(),
                    "unit_amount_decimal": self.amount().to_string(),
                },
                "quantity": 1,
            }]},
            "latest_invoice": self.invoice_id(),
            "metadata": self.metadata(),
            "status": match event_type {
                _ if ended => "canceled",
                "customer.subscription.paused" => "paused",
                "customer.subscription.trial_will_end" => "trialing",
                _ => self.status,
            },
            "trial_end": null,
            "trial_start": null,
        })
    }

    fn invoice_id(&self) -> String {
        format!("in_{}{}", self.tag, self.invoice)
    }

    #[expect(clippy::too_many_lines, reason = "one JSON object")]
    fn invoice(&self, event_type: &str, now: Timestamp) -> Value {
        let (start, end) = Self::period(now);
        let status = match event_type {
            "invoice.created" | "invoice.deleted" => "draft",
            "invoice.finalized" | "invoice.payment_failed" | "invoice.payment_action_required" => {
                "open"
            }
            "invoice.payment_succeeded" | "invoice.paid" => "paid",
            "invoice.voided" => "void",
            "invoice.marked_uncollectible" => "uncollectible",
            _ => self.invoice_status,
        };
        let paid = if status == "paid" { self.amount() } else { 0 };
        let reason = if self.invoice == 1 {
            "subscription_create"
        } else {
            "subscription_cycle"
        };
        json!({
            "id": self.invoice_id(),
            "object": "invoice",
            "amount_due": self.amount(),
            "amount_paid": paid,
            "amount_remaining": self.amount() - paid,
            "attempt_count": if status == "draft" { 0 } else { self.attempts },
            "billing_reason": reason,
            "collection_method": "charge_automatically",
            "created": start,
            "currency": "usd",
            "customer": self.customer,
            "hosted_invoice_url": format!("https://invoice.example/{}", self.invoice_id()),
            "invoice_pdf": format!("https://invoice.example/{}.pdf", self.invoice_id()),
            "lines": {"object": "list", "has_more": false, "data": [{
                "id": format!("il_{}{}", self.tag, self.invoice),
                "object": "line_item",
                "amount": self.amount(),
                "currency": "usd",
                "description": format!("1 × {} (at ${}.00 / month)", self.tier, self.amount() / 100),
                "metadata": {},
                "parent": {
                    "type": "subscription_item_details",
                    "subscription_item_details": {
                        "proration": false,
                        "subscription": format!("sub_{}", self.tag),
                        "subscription_item": format!("si_{}", self.tag),
                    },
                },
                "period": {"start": start, "end": end},
                "pricing": {"price_details": {"price": format!("price_{}", self.tier)}},
                "quantity": 1,
            }]},
            "metadata": {},
            "next_payment_attempt": (event_type == "invoice.payment_failed").then_some(start + 86_400),
            "number": format!("SAMPLE-{:04}", self.invoice),
            "parent": {
                "type": "subscription_details",
                "subscription_details": {
                    "metadata": self.metadata(),
                    "subscription": format!("sub_{}", self.tag),
                },
            },
            "period_start": start,
            "period_end": end,
            "status": status,
            "status_transitions": {
                "finalized_at": (status != "draft").then_some(start),
                "paid_at": (status == "paid").then_some(start),
                "voided_at": null,
            },
            "subtotal": self.amount(),
            "total": self.amount(),
            "total_taxes": [],
        })
    }

    fn charge(&self, event_type: &str, now: Timestamp) -> Value {
        let failed = event_type == "charge.failed";
        let refunded = event_type == "charge.refunded";
        json!({
            "id": format!("ch_{}{}{}", self.tag, self.invoice, self.attempts),
            "object": "charge",
            "amount": self.amount(),
            "amount_captured": if failed { 0 } else { self.amount() },
            "amount_refunded": if refunded { self.amount() } else { 0 },
            "captured": !failed,
            "created": now.as_second(),
            "currency": "usd",
            "customer": self.customer,
            "description": "Subscription update",
            "disputed": false,
            "failure_code": failed.then_some("card_declined"),
            "failure_message": failed.then_some("Your card was declined."),
            "metadata": self.metadata(),
            "outcome": if failed {
                json!({"type": "issuer_declined", "network_status": "declined_by_network",
                       "reason": "insufficient_funds", "risk_level": "normal",
                       "seller_message": "The bank returned the decline code `insufficient_funds`."})
            } else {
                json!({"type": "authorized", "network_status": "approved_by_network", "reason": null,
                       "risk_level": "normal", "seller_message": "Payment complete."})
            },
            "paid": !failed,
            "payment_intent": format!("pi_{}{}", self.tag, self.invoice),
            "payment_method": format!("pm_{}", self.tag),
            "payment_method_details": {"type": "card", "card": {"brand": "visa", "last4": "4242"}},
            "refunded": refunded,
            "status": if failed { "failed" } else { "succeeded" },
        })
    }

    fn refund(&self, event_type: &str, now: Timestamp) -> Value {
        let failed = event_type == "refund.failed";
        json!({
            "id": format!("re_{}{}{}", self.tag, self.invoice, self.attempts),
            "object": "refund",
            "amount": self.amount(),
            "charge": format!("ch_{}{}{}", self.tag, self.invoice, self.attempts),
            "created": now.as_second(),
            "currency": "usd",
            "failure_reason": failed.then_some("expired_or_canceled_card"),
            "metadata": self.metadata(),
            "payment_intent": format!("pi_{}{}", self.tag, self.invoice),
            "reason": "requested_by_customer",
            "status": if failed { "failed" } else { "succeeded" },
        })
    }

    fn dispute(&self, event_type: &str, now: Timestamp) -> Value {
        let closed = event_type == "charge.dispute.closed";
        json!({
            "id": format!("du_{}{}", self.tag, self.invoice),
            "object": "dispute",
            "amount": self.amount(),
            "charge": format!("ch_{}{}{}", self.tag, self.invoice, self.attempts),
            "created": now.as_second(),
            "currency": "usd",
            "evidence_details": {"due_by": now.as_second() + 7 * 86_400},
            "metadata": self.metadata(),
            "payment_intent": format!("pi_{}{}", self.tag, self.invoice),
            "reason": "fraudulent",
            "status": if closed { "won" } else { "needs_response" },
        })
    }

    /// Customers, checkout sessions, and the payment of an invoice.
    fn further(&self, event_type: &str, now: Timestamp) -> Value {
        match event_type.split('.').next() {
            Some("customer") if event_type.starts_with("customer.discount.") => json!({
                "id": format!("di_{}", self.tag),
                "object": "discount",
                "customer": self.customer,
                "end": null,
                "promotion_code": null,
                "source": {"type": "coupon", "coupon": {
                    "id": "SAMPLE",
                    "object": "coupon",
                    "duration": "forever",
                    "name": "Sample",
                    "percent_off": 10,
                }},
                "start": now.as_second(),
                "subscription": format!("sub_{}", self.tag),
                "subscription_item": null,
            }),
            Some("customer") => json!({
                "id": self.customer,
                "object": "customer",
                "created": now.as_second(),
                "currency": "usd",
                "delinquent": false,
                "invoice_settings": {"default_payment_method": format!("pm_{}", self.tag)},
                "metadata": self.metadata(),
            }),
            Some("checkout") => json!({
                "id": format!("cs_{}", self.tag),
                "object": "checkout.session",
                "amount_total": self.amount(),
                "client_reference_id": self.organization_id,
                "created": now.as_second(),
                "currency": "usd",
                "customer": self.customer,
                "expires_at": now.as_second() + 86_400,
                "metadata": self.metadata(),
                "mode": "subscription",
                "payment_status": if event_type.ends_with("succeeded") { "paid" } else { "unpaid" },
                "status": if event_type.ends_with("expired") { "expired" } else { "complete" },
                "subscription": format!("sub_{}", self.tag),
            }),
            _ => json!({
                "id": format!("inpay_{}{}", self.tag, self.invoice),
                "object": "invoice_payment",
                "amount_paid": self.amount(),
                "amount_requested": self.amount(),
                "created": now.as_second(),
                "currency": "usd",
                "invoice": self.invoice_id(),
                "is_default": true,
                "payment": {
                    "type": "payment_intent",
                    "payment_intent": format!("pi_{}{}", self.tag, self.invoice),
                },
                "status": "paid",
            }),
        }
    }

    /// A schedule that changes nothing.
    fn schedule(&self, event_type: &str, now: Timestamp) -> Value {
        let (start, end) = Self::period(now);
        let status = match event_type {
            "subscription_schedule.released" => "released",
            "subscription_schedule.completed" => "completed",
            "subscription_schedule.canceled" | "subscription_schedule.aborted" => "canceled",
            _ => "active",
        };
        let subscription = format!("sub_{}", self.tag);
        let released = status == "released";
        json!({
            "id": format!("sub_sched_{}", self.tag),
            "object": "subscription_schedule",
            "canceled_at": (status == "canceled").then_some(start),
            "completed_at": (status == "completed").then_some(start),
            "created": start,
            "current_phase": (status == "active").then(|| json!({"start_date": start, "end_date": end})),
            "customer": self.customer,
            "end_behavior": "release",
            "metadata": self.metadata(),
            "phases": [{
                "start_date": start,
                "end_date": end,
                "items": [{"price": format!("price_{}", self.tier), "quantity": 1}],
                "metadata": {},
            }],
            "released_at": released.then_some(start),
            "released_subscription": released.then_some(&subscription),
            "status": status,
            "subscription": (!released).then_some(&subscription),
        })
    }

    fn payment_method(&self, event_type: &str, now: Timestamp) -> Value {
        let customer = (event_type != "payment_method.detached").then_some(&self.customer);
        json!({
            "id": format!("pm_{}", self.tag),
            "object": "payment_method",
            "card": {"brand": "visa", "country": "US", "exp_month": 12, "exp_year": 2034,
                     "funding": "credit", "last4": "4242"},
            "created": now.as_second(),
            "customer": customer,
            "metadata": self.metadata(),
            "type": "card",
        })
    }
}

/// The service's response to a sample event.
pub struct Response {
    pub status: u16,
    pub body: String,
}

/// Posts a signed event as Stripe would.
pub async fn post(
    address: SocketAddr,
    body: &str,
    signature: &str,
) -> Result<Response, reqwest::Error> {
    let response = direct_client()?
        .post(format!("http://{address}{PATH}"))
        .header("content-type", "application/json; charset=utf-8")
        .header("stripe-signature", signature)
        .timeout(Duration::from_secs(20))
        .body(body.to_owned())
        .send()
        .await?;
    Ok(Response {
        status: response.status().as_u16(),
        body: response.text().await?,
    })
}
