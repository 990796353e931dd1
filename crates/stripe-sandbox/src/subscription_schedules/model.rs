//! The schedule, its phases and their API representation.

use billing_domain::preview::BillingMode;
use serde_json::{Value, json};

use crate::discounts::model::Discount;
use crate::metadata::{Metadata, MetadataChange};
use crate::shape::Shape;
use crate::state::State;
use crate::store::Keyed;
use crate::subscriptions::change::ProrationBehavior;

/// The status of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Active,
    Canceled,
    /// The last phase ended, and the subscription with it.
    Completed,
    /// The subscription goes on without the schedule.
    Released,
}

impl Status {
    /// Stripe's name for the status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Canceled => "canceled",
            Self::Completed => "completed",
            Self::Released => "released",
        }
    }
}

/// What happens to the subscription when the last phase ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndBehavior {
    Release,
    Cancel,
}

impl EndBehavior {
    const fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Cancel => "cancel",
        }
    }
}

/// An item that the subscription has during a phase.
#[derive(Debug, Clone)]
pub struct PhaseItem {
    pub price: String,
    /// `None` for metered items.
    pub quantity: Option<u64>,
    /// Set on the subscription item when the phase begins.
    pub metadata: MetadataChange,
}

/// A span of time and what the subscription is during it.
#[derive(Debug, Clone)]
pub struct Phase {
    pub start_secs: i64,
    pub end_secs: i64,
    pub items: Vec<PhaseItem>,
    /// How the change to this phase is charged.
    pub behavior: ProrationBehavior,
    /// `billing_cycle_anchor`; `phase_start` restarts the billing period.
    pub anchor: Option<&'static str>,
    pub trial_end: Option<i64>,
    /// The subscription's discounts during the phase; if there are none, the
    /// customer's apply.
    pub discounts: Vec<Discount>,
    /// Set on the subscription when the phase begins.
    pub metadata: MetadataChange,
}

/// A schedule of a subscription.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub id: String,
    pub created_secs: i64,
    pub customer: String,
    /// Kept after the schedule has ended.
    pub subscription: String,
    pub currency: String,
    pub mode: BillingMode,
    pub status: Status,
    pub end_behavior: EndBehavior,
    /// Past, current and future. Each begins when the one before it ends.
    pub phases: Vec<Phase>,
    /// The index of the current phase.
    pub current: usize,
    /// Of the default settings: the subscription's when the schedule was created. Each phase
    /// that begins gives it to the subscription.
    pub default_payment_method: Option<String>,
    /// When it was canceled, completed or released.
    pub ended_secs: Option<i64>,
    /// Whether `subscription_schedule.expiring` was sent.
    pub expiry_announced: bool,
    pub metadata: Metadata,
}

impl Keyed for Schedule {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Schedule {
    /// The phase that the subscription is in.
    #[must_use]
    pub fn current_phase(&self) -> Option<&Phase> {
        self.phases.get(self.current)
    }

    #[must_use]
    pub fn next_phase(&self) -> Option<&Phase> {
        self.phases.get(self.current + 1)
    }

    /// When the last phase ends.
    #[must_use]
    pub fn end_secs(&self) -> Option<i64> {
        self.phases.last().map(|phase| phase.end_secs)
    }

    /// When the schedule ended in this way.
    #[must_use]
    pub fn ended_as(&self, status: Status) -> Option<i64> {
        self.ended_secs.filter(|_| self.status == status)
    }

    /// The API object.
    #[must_use]
    pub fn render(&self, state: &State, shape: Shape) -> Value {
        let active = self.status == Status::Active;
        let released = self.status == Status::Released;
        let current = self.current_phase().filter(|_| active);
        let customer = state.customers.get(&self.customer);
        let phases: Vec<Value> = self
            .phases
            .iter()
            .map(|phase| self.render_phase(phase, state, shape))
            .collect();
        let subscription = state.subscriptions.get(&self.subscription);
        let automatic_tax = subscription.is_some_and(|subscription| subscription.automatic_tax);
        let mut object = json!({
            "id": self.id,
            "object": "subscription_schedule",
            "application": null,
            "billing_mode": self.render_mode(),
            "canceled_at": self.ended_as(Status::Canceled),
            "completed_at": self.ended_as(Status::Completed),
            "created": self.created_secs,
            "current_phase": current.map(|phase| json!({
                "end_date": phase.end_secs,
                "start_date": phase.start_secs,
            })),
            "customer": self.customer,
            "customer_account": null,
            "default_settings": {
                "application_fee_percent": null,
                "automatic_tax": {
                    "disabled_reason": null,
                    "enabled": automatic_tax,
                    "liability": automatic_tax.then(|| json!({ "type": "self" })),
                },
                "billing_cycle_anchor": "automatic",
                "billing_thresholds": null,
                "collection_method": "charge_automatically",
                "default_payment_method": self.default_payment_method,
                "description": null,
                "invoice_settings": {
                    "account_tax_ids": null,
                    "custom_fields": null,
                    "days_until_due": null,
                    "description": null,
                    "footer": null,
                    "issuer": { "type": "self" },
                },
                "on_behalf_of": null,
                "transfer_data": null,
            },
            "end_behavior": self.end_behavior.name(),
            "livemode": false,
            "metadata": self.metadata,
            "pause_schedules": [],
            "phases": phases,
            "released_at": self.ended_as(Status::Released),
            "released_subscription": released.then_some(&self.subscription),
            "status": self.status.name(),
            "subscription": (!released).then_some(&self.subscription),
            "test_clock": customer.and_then(|customer| customer.test_clock.as_deref()),
        });
        if shape == Shape::Legacy {
            object["renewal_interval"] = Value::Null;
            object["default_settings"]["default_source"] = Value::Null;
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

    fn render_phase(&self, phase: &Phase, state: &State, shape: Shape) -> Value {
        let discounts = phase.discounts.iter();
        let discounts: Vec<Value> = discounts
            .map(|discount| render_discount(discount, state))
            .collect();
        let items: Vec<Value> = phase.items.iter().map(render_item).collect();
        let mut object = json!({
            "add_invoice_items": [],
            "application_fee_percent": null,
            "billing_cycle_anchor": phase.anchor,
            "billing_thresholds": null,
            "collection_method": "charge_automatically",
            "currency": self.currency,
            "default_payment_method": null,
            "default_tax_rates": [],
            "description": null,
            "discounts": discounts,
            "end_date": phase.end_secs,
            "invoice_settings": null,
            "items": items,
            "metadata": phase.metadata.clone().initial(),
            "on_behalf_of": null,
            "proration_behavior": phase.behavior.name(),
            "start_date": phase.start_secs,
            "transfer_data": null,
            "trial_end": phase.trial_end,
        });
        if shape == Shape::Legacy {
            object["coupon"] = Value::Null;
        }
        object
    }
}

/// A discount that exists is named by its id, another by what will be redeemed.
fn render_discount(discount: &Discount, state: &State) -> Value {
    let exists = state.discounts.get(&discount.id).is_some();
    let code = discount.promotion_code.as_ref();
    json!({
        "coupon": (!exists && code.is_none()).then_some(&discount.coupon),
        "discount": exists.then_some(&discount.id),
        "promotion_code": code.filter(|_| !exists),
    })
}

fn render_item(item: &PhaseItem) -> Value {
    let mut object = json!({
        "billing_thresholds": null,
        "discounts": [],
        "metadata": item.metadata.clone().initial(),
        "plan": item.price,
        "price": item.price,
        "tax_rates": [],
    });
    if let Some(quantity) = item.quantity {
        object["quantity"] = json!(quantity);
    }
    object
}

impl State {
    pub fn schedule(&self, id: &str) -> Result<&Schedule, crate::error::ApiError> {
        self.subscription_schedules.get(id).ok_or_else(|| {
            crate::error::ApiError::no_such("subscription_schedule", id, "id").param("schedule")
        })
    }
}
