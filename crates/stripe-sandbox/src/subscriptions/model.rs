//! The subscription and its items, and how they look from outside.

use billing_domain::period::{Cadence, Period};
use billing_domain::preview::BillingMode;
use billing_domain::proration::Charge;
use serde_json::{Value, json};

/// How many items the object shows; the others are at `/v1/subscription_items`.
const SHOWN_ITEMS: usize = 10;

use crate::list;
use crate::metadata::Metadata;
use crate::shape::Shape;
use crate::state::State;
use crate::store::Keyed;
use crate::subscriptions::pending::PendingUpdate;

/// Where a subscription stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The first payment has not succeeded yet.
    Incomplete,
    /// The first payment did not succeed within 23 hours.
    IncompleteExpired,
    /// Free for now.
    Trialing,
    /// Paid.
    Active,
    /// The last payment failed and will be retried.
    PastDue,
    /// All retries failed; invoices stay open.
    Unpaid,
    /// The trial ended without a payment method.
    Paused,
    /// Over.
    Canceled,
}

impl Status {
    /// Stripe's word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::IncompleteExpired => "incomplete_expired",
            Self::Trialing => "trialing",
            Self::Active => "active",
            Self::PastDue => "past_due",
            Self::Unpaid => "unpaid",
            Self::Paused => "paused",
            Self::Canceled => "canceled",
        }
    }

    /// Whether nothing can follow.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Canceled | Self::IncompleteExpired)
    }

    /// Whether periods follow one another.
    #[must_use]
    pub const fn renews(self) -> bool {
        matches!(
            self,
            Self::Trialing | Self::Active | Self::PastDue | Self::Unpaid
        )
    }
}

/// What happens at the end of a trial without a payment method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingPaymentMethod {
    /// An invoice is made, and its payment fails.
    CreateInvoice,
    /// The subscription is canceled.
    Cancel,
    /// The subscription is paused.
    Pause,
}

impl MissingPaymentMethod {
    const fn name(self) -> &'static str {
        match self {
            Self::CreateInvoice => "create_invoice",
            Self::Cancel => "cancel",
            Self::Pause => "pause",
        }
    }
}

/// One price within a subscription.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The item's id.
    pub id: String,
    /// Its price.
    pub price: String,
    /// Units; metered items have none.
    pub quantity: Option<u64>,
    /// What was last debited in this period, where that is not what the item
    /// says: after a change without proration. Flexible billing credits this.
    pub last_debited: Option<Charge>,
    /// When it was added.
    pub created_secs: i64,
    /// Texts of the user.
    pub metadata: Metadata,
}

/// A subscription.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// The id.
    pub id: String,
    /// The customer.
    pub customer: String,
    /// Where it stands.
    pub status: Status,
    /// Its items; at least one.
    pub items: Vec<Item>,
    /// When it was created.
    pub created_secs: i64,
    /// What the boundaries of periods are counted from.
    pub anchor_secs: i64,
    /// How often it renews: the cadence of all its prices.
    pub cadence: Cadence,
    /// Classic or flexible.
    pub mode: BillingMode,
    /// The currency of all its prices.
    pub currency: String,
    /// The current period.
    pub period: Period,
    /// Start and end of the trial, past or present.
    pub trial: Option<(i64, i64)>,
    /// What a trial's end without a payment method brings.
    pub missing_payment_method: MissingPaymentMethod,
    /// Whether it ends with the period.
    pub cancel_at_period_end: bool,
    /// When it is to end.
    pub cancel_at: Option<i64>,
    /// When its end was decided.
    pub canceled_at: Option<i64>,
    /// When it ended.
    pub ended_at: Option<i64>,
    /// Why it ended: `cancellation_requested`, `payment_failed`.
    pub cancel_reason: Option<&'static str>,
    /// The user's words on it.
    pub cancel_comment: Option<String>,
    /// The user's choice among Stripe's reasons.
    pub cancel_feedback: Option<String>,
    /// Charged instead of the customer's default.
    pub default_payment_method: Option<String>,
    /// Whether the first method that pays becomes the default.
    pub save_default_payment_method: bool,
    /// The newest invoice.
    pub latest_invoice: Option<String>,
    /// What a card for a trial without one is set up by.
    pub pending_setup_intent: Option<String>,
    /// A change that waits for its invoice to be paid.
    pub pending_update: Option<PendingUpdate>,
    /// For the customer to read.
    pub description: Option<String>,
    /// Texts of the user.
    pub metadata: Metadata,
    /// The period end that `invoice.upcoming` was sent for.
    pub upcoming_sent_for: Option<i64>,
    /// Whether the end of the trial was announced.
    pub trial_end_announced: bool,
}

impl Keyed for Subscription {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Subscription {
    /// Whether the trial is still on.
    #[must_use]
    pub fn on_trial(&self) -> bool {
        self.status == Status::Trialing
    }

    /// The clock of its customer.
    #[must_use]
    pub fn clock<'a>(&self, state: &'a State) -> Option<&'a str> {
        state.customers.get(&self.customer)?.test_clock.as_deref()
    }

    /// The object.
    #[must_use]
    pub fn render(&self, state: &State, shape: Shape) -> Value {
        let items = self
            .items
            .iter()
            .take(SHOWN_ITEMS)
            .map(|item| self.render_item(item, state, shape))
            .collect::<Vec<_>>();
        let mut list = list::object(
            items,
            self.items.len() > SHOWN_ITEMS,
            &format!("/v1/subscription_items?subscription={}", self.id),
        );
        list["total_count"] = json!(self.items.len());
        let mut object = json!({
            "id": self.id,
            "object": "subscription",
            "application": null,
            "application_fee_percent": null,
            "automatic_tax": { "disabled_reason": null, "enabled": false, "liability": null },
            "billing_cycle_anchor": self.anchor_secs,
            "billing_cycle_anchor_config": null,
            "billing_mode": self.render_mode(),
            "billing_schedules": [],
            "billing_thresholds": null,
            "cancel_at": if self.cancel_at_period_end { Some(self.period.end_secs()) } else { self.cancel_at },
            "cancel_at_period_end": self.cancel_at_period_end,
            "canceled_at": self.canceled_at,
            "cancellation_details": {
                "comment": self.cancel_comment,
                "feedback": self.cancel_feedback,
                "reason": self.cancel_reason,
            },
            "collection_method": "charge_automatically",
            "created": self.created_secs,
            "currency": self.currency,
            "customer": self.customer,
            "customer_account": null,
            "days_until_due": null,
            "default_payment_method": self.default_payment_method,
            "default_source": null,
            "default_tax_rates": [],
            "description": self.description,
            "discounts": [],
            "ended_at": self.ended_at,
            "invoice_settings": { "account_tax_ids": null, "issuer": { "type": "self" } },
            "items": list,
            "latest_invoice": self.latest_invoice,
            "livemode": false,
            "managed_payments": { "enabled": false },
            "metadata": self.metadata,
            "next_pending_invoice_item_invoice": null,
            "on_behalf_of": null,
            "pause_collection": null,
            "payment_settings": {
                "payment_method_options": null,
                "payment_method_types": null,
                "save_default_payment_method":
                    if self.save_default_payment_method { "on_subscription" } else { "off" },
            },
            "pending_invoice_item_interval": null,
            "pending_setup_intent": self.pending_setup_intent,
            "pending_update": null,
            "schedule": null,
            "start_date": self.created_secs,
            "status": self.status.name(),
            "test_clock": self.clock(state),
            "transfer_data": null,
            "trial_end": self.trial.map(|(_, end)| end),
            "trial_settings": {
                "end_behavior": { "missing_payment_method": self.missing_payment_method.name() },
            },
            "trial_start": self.trial.map(|(start, _)| start),
        });
        // A subscription of one item is also shown the old way.
        let only = match self.items.as_slice() {
            [item] => Some(item),
            _ => None,
        };
        let plan = only.and_then(|item| state.prices.get(&item.price));
        object["plan"] = plan.map_or(Value::Null, |price| price.render_plan(shape));
        object["quantity"] = json!(only.and_then(|item| item.quantity));
        if let Some(pending) = &self.pending_update {
            object["pending_update"] = pending.render(state, shape);
        }
        if shape == Shape::Legacy {
            object["current_period_start"] = json!(self.period.start_secs());
            object["current_period_end"] = json!(self.period.end_secs());
            object["discount"] = Value::Null;
        }
        object
    }

    fn render_mode(&self) -> Value {
        match self.mode {
            BillingMode::Classic => json!({ "flexible": null, "type": "classic" }),
            BillingMode::Flexible => json!({
                "flexible": { "proration_discounts": "included" },
                "type": "flexible",
                "updated_at": self.created_secs,
            }),
        }
    }

    /// One of its items.
    #[must_use]
    pub fn render_item(&self, item: &Item, state: &State, shape: Shape) -> Value {
        let price = state.prices.get(&item.price);
        let mut object = json!({
            "id": item.id,
            "object": "subscription_item",
            "billing_thresholds": null,
            "created": item.created_secs,
            "current_period_end": self.period.end_secs(),
            "current_period_start": self.period.start_secs(),
            "current_trial": null,
            "discounts": [],
            "metadata": item.metadata,
            "plan": price.map_or(Value::Null, |price| price.render_plan(shape)),
            "price": price.map_or(Value::Null, |price| price.render(shape)),
            "subscription": self.id,
            "tax_rates": [],
        });
        if let Some(quantity) = item.quantity {
            object["quantity"] = json!(quantity);
        }
        object
    }
}
