//! The API representation of invoices and their lines, in both shapes.

use billing_domain::preview::BillingMode;
use serde_json::{Value, json};

use crate::discounts::model::{self as discount, Discount};
use crate::invoices::model::{Invoice, Line, LineContent, Status};
use crate::json_object;
use crate::list;
use crate::payments::intents::PaymentIntent;
use crate::shape::Shape;
use crate::state::State;
use crate::taxes::lines::{self, LineTax};
use crate::taxes::rates;

/// The number of lines included in the invoice object; the rest are paged.
const LINES_SHOWN: usize = 10;

impl Invoice {
    /// The API object.
    #[must_use]
    pub fn render(&self, state: &State, shape: Shape) -> Value {
        let customer = state.customers.get(&self.customer);
        let base = state.config.public_url.as_deref().unwrap_or_default();
        let pdf = format!("{base}/_sandbox/invoices/{}/pdf", self.id);
        let pdf = self.transitions.finalized.map(|_| pdf);
        let page = format!("{base}/i/{}", self.id);
        let page = self.transitions.finalized.map(|_| page);
        let (subtotal, total) = (self.subtotal(), self.total());
        let mut object = json!({
            "id": self.id,
            "object": "invoice",
            "amount_due": self.amount_due,
            "amount_paid": self.amount_paid,
            "amount_remaining": self.amount_remaining(),
            "attempt_count": self.attempt_count,
            "attempted": self.attempted,
            "auto_advance": self.auto_advance,
            "automatically_finalizes_at": self.finalizes_at_secs,
            "automatic_tax": self.render_automatic_tax(),
            "billing_reason": self.reason,
            "created": self.created_secs,
            "currency": self.currency,
            "customer": (!self.customer.is_empty()).then_some(&self.customer),
            "customer_address": customer.and_then(|customer| customer.address.as_ref()),
            "customer_email": customer.and_then(|customer| customer.email()),
            "customer_name": customer.and_then(|customer| customer.name()),
            "default_payment_method": self.default_payment_method,
            "default_tax_rates": rates::render_all(&self.default_tax_rates, state),
            "description": self.description,
            "discounts": discount::ids(&self.discounts),
            "effective_at": self.transitions.finalized,
            "ending_balance": self.ending_balance,
            "footer": self.footer,
            "hosted_invoice_url": page,
            "invoice_pdf": pdf,
            "lines": self.render_lines(state, shape),
            "metadata": self.metadata,
            "next_payment_attempt": self.next_attempt_secs.or(self.finalizes_at_secs),
            "number": self.number,
            "period_end": self.period.1,
            "period_start": self.period.0,
            "starting_balance": self.starting_balance,
            "status": self.status.name(),
            "status_transitions": {
                "finalized_at": self.transitions.finalized,
                "marked_uncollectible_at": self.transitions.uncollectible,
                "paid_at": self.transitions.paid,
                "voided_at": self.transitions.voided,
            },
            "subtotal": subtotal,
            "subtotal_excluding_tax": subtotal - lines::included_in_subtotal(self, state),
            "test_clock": customer.and_then(|customer| customer.test_clock.as_deref()),
            "total": total,
            "total_discount_amounts": self.render_discount_amounts(None),
            "total_excluding_tax": total - self.tax(false) - self.tax(true),
            "total_pretax_credit_amounts": self.render_discount_amounts(Some("discount")),
            "webhooks_delivered_at": self.transitions.finalized,
        });
        json_object::extend(&mut object, constant_invoice_fields());
        match shape {
            Shape::Legacy => self.add_legacy(&mut object, state),
            Shape::Basil => self.add_basil(&mut object),
        }
        object
    }

    fn render_automatic_tax(&self) -> Value {
        let on = |value: Value| {
            if self.automatic_tax {
                value
            } else {
                Value::Null
            }
        };
        json!({
            "disabled_reason": null,
            "enabled": self.automatic_tax,
            "liability": on(json!({ "type": "self" })),
            "provider": on(json!("stripe")),
            "status": on(json!("complete")),
        })
    }

    /// What each discount takes off the invoice.
    fn render_discount_amounts(&self, kind: Option<&str>) -> Vec<Value> {
        let amounts = self.discounts.iter().enumerate();
        amounts
            .map(|(index, discount)| (self.amount_off(index), discount))
            .filter(|(amount, _)| *amount > 0)
            .map(|(amount, discount)| discount_amount(amount, discount, kind))
            .collect()
    }

    fn add_legacy(&self, object: &mut Value, state: &State) {
        object["charge"] = json!(self.charge);
        let first = self.discounts.first();
        object["discount"] = json!(first.map(|discount| discount.render(state, Shape::Legacy)));
        object["paid"] = json!(self.status == Status::Paid);
        object["paid_out_of_band"] = json!(self.paid_out_of_band);
        object["payment_intent"] = json!(self.payment_intent);
        object["quote"] = Value::Null;
        object["subscription"] = json!(self.subscription());
        object["subscription_details"] = json!({
            "metadata": self.parent.as_ref().map(|parent| &parent.metadata),
        });
        if let Some(at_secs) = self
            .parent
            .as_ref()
            .and_then(|parent| parent.proration_secs)
        {
            object["subscription_proration_date"] = json!(at_secs);
        }
        let totals = lines::totals(&self.lines);
        object["tax"] = if totals.is_empty() {
            Value::Null
        } else {
            json!(self.tax(false) + self.tax(true))
        };
        object["total_tax_amounts"] = totals.iter().map(LineTax::render_legacy).collect();
        object["transfer_data"] = Value::Null;
        if let Some(object) = object.as_object_mut() {
            object.remove("amount_overpaid");
        }
    }

    fn add_basil(&self, object: &mut Value) {
        object["parent"] = match &self.parent {
            None => Value::Null,
            Some(parent) => {
                let mut details =
                    json!({ "metadata": parent.metadata, "subscription": parent.subscription });
                if let Some(at_secs) = parent.proration_secs {
                    details["subscription_proration_date"] = json!(at_secs);
                }
                json!({ "quote_details": null, "subscription_details": details, "type": "subscription_details" })
            }
        };
        let totals = lines::totals(&self.lines);
        object["total_taxes"] = totals.iter().map(LineTax::render).collect();
    }

    fn render_lines(&self, state: &State, shape: Shape) -> Value {
        let data = self
            .lines
            .iter()
            .take(LINES_SHOWN)
            .map(|line| self.render_line(line, state, shape))
            .collect();
        let mut object = list::object(
            data,
            self.lines.len() > LINES_SHOWN,
            &format!("/v1/invoices/{}/lines", self.id),
        );
        object["total_count"] = json!(self.lines.len());
        object
    }

    /// The API object of a line.
    #[must_use]
    pub fn render_line(&self, line: &Line, state: &State, shape: Shape) -> Value {
        let content = &line.content;
        // A line names every discount, even one that takes nothing off.
        let off = |kind: Option<&str>| -> Vec<Value> {
            let amounts = self.discounts.iter().zip(&line.discounts);
            amounts
                .map(|(discount, amount)| discount_amount(*amount, discount, kind))
                .collect()
        };
        let mut object = json!({
            "id": line.id,
            "object": "line_item",
            "amount": content.amount,
            "currency": content.currency,
            "description": content.description,
            "discount_amounts": off(None),
            "discountable": content.discountable(),
            "discounts": [],
            "invoice": self.id,
            "livemode": false,
            "metadata": content.metadata,
            "period": { "end": content.period.1, "start": content.period.0 },
            "pretax_credit_amounts": off(Some("discount")),
            "quantity": content.quantity,
            "subscription": content.subscription,
        });
        match shape {
            Shape::Legacy => add_legacy_line(&mut object, line, state),
            Shape::Basil => {
                let mode = self
                    .parent
                    .as_ref()
                    .map_or(BillingMode::Classic, |parent| parent.mode);
                object["parent"] = line_parent(line, mode);
                object["pricing"] = pricing(content, state);
                object["quantity_decimal"] =
                    json!(content.quantity.map(|quantity| quantity.to_string()));
                object["subtotal"] = json!(content.amount);
                object["taxes"] = line.taxes.iter().map(LineTax::render).collect();
            }
        }
        object
    }

    /// The payments of the invoice: at most one, by its payment intent.
    #[must_use]
    pub fn payments(&self, state: &State) -> Value {
        let intent = self
            .payment_intent
            .as_deref()
            .and_then(|id| state.payment_intents.get(id));
        let data = intent
            .map(|intent| intent.render_invoice_payment(self))
            .into_iter()
            .collect();
        list::object(
            data,
            false,
            &format!("/v1/invoice_payments?invoice={}", self.id),
        )
    }

    /// The secret that a browser needs to confirm the payment.
    #[must_use]
    pub fn confirmation_secret(&self, state: &State) -> Value {
        let intent = self
            .payment_intent
            .as_deref()
            .and_then(|id| state.payment_intents.get(id));
        intent.map_or(Value::Null, |intent: &PaymentIntent| {
            json!({ "client_secret": intent.client_secret, "type": "payment_intent" })
        })
    }
}

/// The fields that are the same on every invoice, mostly those of unsupported
/// features.
fn constant_invoice_fields() -> Value {
    json!({
        "account_country": "US",
        "account_name": "Sandbox",
        "account_tax_ids": null,
        "amount_overpaid": 0,
        "amount_shipping": 0,
        "application": null,
        "collection_method": "charge_automatically",
        "custom_fields": null,
        "customer_account": null,
        "customer_phone": null,
        "customer_shipping": null,
        "customer_tax_exempt": "none",
        "customer_tax_ids": [],
        "default_source": null,
        "due_date": null,
        "from_invoice": null,
        "issuer": { "type": "self" },
        "last_finalization_error": null,
        "latest_revision": null,
        "livemode": false,
        "on_behalf_of": null,
        "payment_settings": { "default_mandate": null, "payment_method_options": null, "payment_method_types": null },
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "receipt_number": null,
        "rendering": null,
        "shipping_cost": null,
        "shipping_details": null,
        "statement_descriptor": null,
    })
}

fn discount_amount(amount: i64, discount: &Discount, kind: Option<&str>) -> Value {
    let mut object = json!({ "amount": amount, "discount": discount.id });
    if let Some(kind) = kind {
        object["type"] = json!(kind);
    }
    object
}

fn add_legacy_line(object: &mut Value, line: &Line, state: &State) {
    let content = &line.content;
    let price = content.price.as_ref().and_then(|id| state.prices.get(id));
    object["plan"] = price.map_or(Value::Null, |price| price.render_plan(Shape::Legacy));
    object["price"] = price.map_or(Value::Null, |price| price.render(Shape::Legacy));
    object["proration"] = json!(content.proration);
    object["proration_details"] = json!({ "credited_items": credited(content) });
    object["tax_amounts"] = line.taxes.iter().map(LineTax::render_legacy).collect();
    let applied: Vec<String> = line
        .taxes
        .iter()
        .filter_map(|tax| tax.rate.clone())
        .collect();
    object["tax_rates"] = json!(rates::render_all(&applied, state));
    match (&line.invoice_item, &content.item) {
        (Some(invoice_item), _) => {
            object["invoice_item"] = json!(invoice_item);
            object["type"] = json!("invoiceitem");
        }
        (None, _) => object["type"] = json!("subscription"),
    }
    if let Some(item) = &content.item {
        object["subscription_item"] = json!(item);
    }
}

/// The origin of a line. In classic billing, prorations belong to the invoice
/// item; in flexible billing, to the subscription item.
fn line_parent(line: &Line, mode: BillingMode) -> Value {
    let content = &line.content;
    let details = |extra: (&str, Value)| {
        let mut details = json!({
            "proration": content.proration,
            "proration_details": { "credited_items": credited(content) },
            "subscription": content.subscription,
            "invoice_item": line.invoice_item,
        });
        details[extra.0] = extra.1;
        details
    };
    match (&line.invoice_item, &content.item) {
        (None, Some(item)) => json!({
            "invoice_item_details": null,
            "subscription_item_details": details(("subscription_item", json!(item))),
            "type": "subscription_item_details",
        }),
        (Some(_), Some(item)) if mode == BillingMode::Flexible => json!({
            "invoice_item_details": null,
            "subscription_item_details": details(("subscription_item", json!(item))),
            "type": "subscription_item_details",
        }),
        (Some(invoice_item), _) => json!({
            "invoice_item_details": details(("invoice_item", json!(invoice_item))),
            "subscription_item_details": null,
            "type": "invoice_item_details",
        }),
        (None, None) => Value::Null,
    }
}

fn credited(content: &LineContent) -> Value {
    content.credited.as_ref().map_or(
        Value::Null,
        |credited| json!({ "invoice": credited.invoice, "invoice_line_items": credited.lines }),
    )
}

/// The price of a line or an invoice item.
#[must_use]
pub fn pricing(content: &LineContent, state: &State) -> Value {
    match content
        .price
        .as_ref()
        .and_then(|id| state.prices.get(id).map(|price| (id, price)))
    {
        Some((id, price)) => json!({
            "price_details": { "price": id, "product": price.product },
            "type": "price_details",
            "unit_amount_decimal": price.scheme.unit().map(|unit| unit.to_string()),
        }),
        // Stripe makes a price, and a product, for an amount that comes without them.
        None => content.unit.map_or(Value::Null, |unit| {
            let unit = unit.to_string();
            let id = format!("inline{}", unit.replace(['-', '.'], "x"));
            json!({
                "price_details": { "price": format!("price_{id}"), "product": format!("prod_{id}") },
                "type": "price_details",
                "unit_amount_decimal": unit,
            })
        }),
    }
}
