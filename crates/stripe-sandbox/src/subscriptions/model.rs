//! The subscription, its items and their API representation.

use billing_domain::period::{Cadence, Period};
use billing_domain::preview::BillingMode;
use billing_domain::proration::Charge;
use serde_json::{Value, json};

use crate::discounts::model::{self as discount, Discount};
use crate::json_object;
use crate::list;
use crate::metadata::Metadata;
use crate::shape::Shape;
use crate::state::State;
use crate::store::Keyed;
use crate::subscriptions::pending::PendingUpdate;
use crate::subscriptions::periods;
use crate::subscriptions::share::Share;
use crate::taxes::rates;

/// The number of items included in the subscription object; the rest are listed
/// by `/v1/subscription_items`.
const SHOWN_ITEMS: usize = 10;

/// The status of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The first payment has not succeeded yet.
    Incomplete,
    /// The first payment did not succeed within 23 hours.
    IncompleteExpired,
    Trialing,
    Active,
    /// The last payment failed and will be retried.
    PastDue,
    /// All retries failed; invoices stay open.
    Unpaid,
    /// The trial ended without a payment method.
    Paused,
    Canceled,
}

impl Status {
    /// Stripe's name for the status.
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

    /// Whether the status can no longer change.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Canceled | Self::IncompleteExpired)
    }

    /// Whether the subscription renews at the end of its period.
    #[must_use]
    pub const fn renews(self) -> bool {
        matches!(
            self,
            Self::Trialing | Self::Active | Self::PastDue | Self::Unpaid
        )
    }
}

/// What happens when a trial ends without a payment method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingPaymentMethod {
    /// An invoice is created, and its payment fails.
    CreateInvoice,
    Cancel,
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

/// One price of a subscription.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    pub id: String,
    pub price: String,
    /// `None` for metered items.
    pub quantity: Option<u64>,
    /// The last debit in this period, if it differs from the item's
    /// configuration because a change was not prorated. Flexible billing
    /// credits it.
    pub last_debited: Option<Charge>,
    /// The share of the full amount that was charged for this period, if a
    /// discount reduced it. Flexible billing credits no more.
    pub charged: Share,
    /// Instead of the subscription's default tax rates.
    pub tax_rates: Vec<String>,
    /// Since when usage is charged at its price, if it got the price within a
    /// subscription: usage from before is not.
    pub metered_since_secs: Option<i64>,
    pub created_secs: i64,
    pub metadata: Metadata,
}

/// A subscription and its items.
#[derive(Debug, Clone)]
pub struct Subscription {
    pub id: String,
    pub customer: String,
    pub status: Status,
    /// At least one.
    pub items: Vec<Item>,
    pub created_secs: i64,
    /// The anchor from which period boundaries are counted.
    pub anchor_secs: i64,
    /// The cadence of all its prices.
    pub cadence: Cadence,
    pub mode: BillingMode,
    /// The currency of all its prices.
    pub currency: String,
    /// The current period.
    pub period: Period,
    /// The start and end of the trial, past or present.
    pub trial: Option<(i64, i64)>,
    /// What happens when the trial ends without a payment method.
    pub missing_payment_method: MissingPaymentMethod,
    pub cancel_at_period_end: bool,
    pub cancel_at: Option<i64>,
    /// When the cancellation was requested.
    pub canceled_at: Option<i64>,
    pub ended_at: Option<i64>,
    /// `cancellation_requested` or `payment_failed`.
    pub cancel_reason: Option<&'static str>,
    pub cancel_comment: Option<String>,
    pub cancel_feedback: Option<String>,
    /// Charged instead of the customer's default.
    pub default_payment_method: Option<String>,
    /// Whether the first successful payment method becomes the default.
    pub save_default_payment_method: bool,
    pub latest_invoice: Option<String>,
    /// How a trial without a card gets one.
    pub pending_setup_intent: Option<String>,
    /// Redeemed coupons, in the order in which they apply.
    pub discounts: Vec<Discount>,
    /// Whether taxes follow from the customer's address.
    pub automatic_tax: bool,
    /// The tax rates of items without their own.
    pub default_tax_rates: Vec<String>,
    /// The schedule that changes it over time.
    pub schedule: Option<String>,
    /// A change that waits for its invoice to be paid.
    pub pending_update: Option<PendingUpdate>,
    pub description: Option<String>,
    pub metadata: Metadata,
    /// The end of the period for which `invoice.upcoming` was sent.
    pub upcoming_sent_for: Option<i64>,
    /// Whether `trial_will_end` was sent.
    pub trial_end_announced: bool,
}

impl Keyed for Subscription {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Subscription {
    #[must_use]
    pub fn on_trial(&self) -> bool {
        self.status == Status::Trialing
    }

    /// The test clock of its customer.
    #[must_use]
    pub fn clock<'a>(&self, state: &'a State) -> Option<&'a str> {
        state.customers.get(&self.customer)?.test_clock.as_deref()
    }

    /// The API object.
    #[must_use]
    pub fn render(&self, state: &State, shape: Shape) -> Value {
        let mut object = json!({
            "id": self.id,
            "object": "subscription",
            "automatic_tax": {
                "disabled_reason": null,
                "enabled": self.automatic_tax,
                "liability": self.automatic_tax.then(|| json!({ "type": "self" })),
            },
            "billing_cycle_anchor": self.anchor_secs,
            "billing_mode": self.render_mode(),
            "cancel_at": if self.cancel_at_period_end { Some(self.period.end_secs()) } else { self.cancel_at },
            "cancel_at_period_end": self.cancel_at_period_end,
            "canceled_at": self.canceled_at,
            "cancellation_details": {
                "comment": self.cancel_comment,
                "feedback": self.cancel_feedback,
                "reason": self.cancel_reason,
            },
            "created": self.created_secs,
            "currency": self.currency,
            "customer": self.customer,
            "default_payment_method": self.default_payment_method,
            "default_tax_rates": rates::render_all(&self.default_tax_rates, state),
            "description": self.description,
            "discounts": discount::ids(&self.discounts),
            "ended_at": self.ended_at,
            "items": self.render_items(state, shape),
            "latest_invoice": self.latest_invoice,
            "metadata": self.metadata,
            "payment_settings": {
                "payment_method_options": null,
                "payment_method_types": null,
                "save_default_payment_method":
                    if self.save_default_payment_method { "on_subscription" } else { "off" },
            },
            "pending_setup_intent": self.pending_setup_intent,
            "schedule": self.schedule,
            "start_date": self.created_secs,
            "status": self.status.name(),
            "test_clock": self.clock(state),
            "trial_end": self.trial.map(|(_, end)| end),
            "trial_settings": {
                "end_behavior": { "missing_payment_method": self.missing_payment_method.name() },
            },
            "trial_start": self.trial.map(|(start, _)| start),
        });
        json_object::extend(&mut object, constant_fields());
        // A subscription with a single item also has the older fields.
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
            let first = self.discounts.first();
            object["discount"] = json!(first.map(|discount| discount.render(state, shape)));
        }
        object
    }

    fn render_items(&self, state: &State, shape: Shape) -> Value {
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
        list
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

    /// The API object of an item.
    #[must_use]
    pub fn render_item(&self, item: &Item, state: &State, shape: Shape) -> Value {
        let price = state.prices.get(&item.price);
        let period = periods::of_item(self, item, state.catalogue()).unwrap_or(self.period);
        let mut object = json!({
            "id": item.id,
            "object": "subscription_item",
            "billing_thresholds": null,
            "created": item.created_secs,
            "current_period_end": period.end_secs(),
            "current_period_start": period.start_secs(),
            "current_trial": null,
            "discounts": [],
            "metadata": item.metadata,
            "plan": price.map_or(Value::Null, |price| price.render_plan(shape)),
            "price": price.map_or(Value::Null, |price| price.render(shape)),
            "subscription": self.id,
            "tax_rates": rates::render_all(&item.tax_rates, state),
        });
        if let Some(quantity) = item.quantity {
            object["quantity"] = json!(quantity);
        }
        object
    }
}

/// The fields that are the same on every subscription unless overwritten,
/// mostly those of unsupported features.
fn constant_fields() -> Value {
    json!({
        "application": null,
        "application_fee_percent": null,
        "billing_cycle_anchor_config": null,
        "billing_schedules": [],
        "billing_thresholds": null,
        "collection_method": "charge_automatically",
        "customer_account": null,
        "days_until_due": null,
        "default_source": null,
        "invoice_settings": { "account_tax_ids": null, "issuer": { "type": "self" } },
        "livemode": false,
        "managed_payments": { "enabled": false },
        "next_pending_invoice_item_invoice": null,
        "on_behalf_of": null,
        "pause_collection": null,
        "pending_invoice_item_interval": null,
        "pending_update": null,
        "transfer_data": null,
    })
}
