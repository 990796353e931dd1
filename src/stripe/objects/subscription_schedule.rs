//! Subscription schedules: what a subscription is to become, and when.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Metadata;
use super::fields::{Fields, ShapeError, customer};
use super::subscription::SubscriptionItem;

#[derive(Debug, Clone, Serialize)]
pub struct SubscriptionSchedule {
    #[serde(rename = "stripe_schedule_id")]
    pub id: String,
    #[serde(rename = "stripe_customer_id")]
    pub customer_id: Option<String>,
    /// The subscription that it drives, or drove until it was released.
    #[serde(rename = "stripe_subscription_id")]
    pub subscription_id: Option<String>,
    pub status: String,
    pub end_behavior: Option<String>,
    pub current_phase_start: Option<Timestamp>,
    pub current_phase_end: Option<Timestamp>,
    pub phases: Vec<SchedulePhase>,
    /// The prices of the phases, where they are shown whole.
    #[serde(skip)]
    pub prices: Vec<SubscriptionItem>,
    pub released_at: Option<Timestamp>,
    pub canceled_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
    pub metadata: Metadata,
    pub livemode: bool,
    #[serde(rename = "stripe_created_at")]
    pub created: Option<Timestamp>,
}

/// A span of time, and what the subscription is during it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SchedulePhase {
    pub start: Option<Timestamp>,
    pub end: Option<Timestamp>,
    pub items: Vec<PhaseItem>,
    /// The version of the plan that its metadata name.
    pub plan_version: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseItem {
    pub price: Option<String>,
    pub quantity: Option<i64>,
    #[serde(skip)]
    pub lookup_key: Option<String>,
    /// The plan that the price is of, as the catalogue knew it when this was mirrored.
    #[serde(rename = "planTier", default, skip_serializing_if = "Option::is_none")]
    pub plan_tier: Option<String>,
    /// The metric whose usage the price charges; `None` for what is licensed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// Whether the price is that of a licensed seat beside the fee.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub seats: bool,
    /// The add-on that the price is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addon: Option<String>,
    /// The price's interval, if plans are sold by it and it was known then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
}

impl SubscriptionSchedule {
    pub fn read(object: &Value) -> Result<Self, ShapeError> {
        let o = Fields::root(object);
        let current = o.within("current_phase")?;
        Ok(Self {
            id: o.own_id()?,
            customer_id: customer(&o)?,
            subscription_id: match o.id("subscription")? {
                Some(id) => Some(id),
                None => o.id("released_subscription")?,
            },
            status: o.text("status")?,
            end_behavior: o.maybe_text("end_behavior")?,
            current_phase_start: current.time("start_date")?,
            current_phase_end: current.time("end_date")?,
            phases: o
                .array("phases")?
                .map(|phase| SchedulePhase::read(&phase))
                .collect::<Result<_, _>>()?,
            prices: prices(&o)?,
            released_at: o.time("released_at")?,
            canceled_at: o.time("canceled_at")?,
            completed_at: o.time("completed_at")?,
            metadata: o.map("metadata")?,
            livemode: o.flag("livemode")?,
            created: o.time("created")?,
        })
    }

    /// Whether it drives its subscription no more.
    pub fn is_ended(&self) -> bool {
        matches!(self.status.as_str(), "canceled" | "completed" | "released")
    }
}

/// The prices that are shown whole.
fn prices(o: &Fields<'_>) -> Result<Vec<SubscriptionItem>, ShapeError> {
    let mut prices = Vec::new();
    for phase in o.array("phases")? {
        for item in phase.array("items")? {
            if item.within("price")?.is_present() {
                prices.push(SubscriptionItem::priced(String::new(), &item)?);
            }
        }
    }
    Ok(prices)
}

impl SchedulePhase {
    fn read(o: &Fields<'_>) -> Result<Self, ShapeError> {
        // Versions before 2020-08-27 call them plans.
        let name = if o.has("items") { "items" } else { "plans" };
        Ok(Self {
            start: o.time("start_date")?,
            end: o.time("end_date")?,
            items: o
                .array(name)?
                .map(|item| {
                    Ok(PhaseItem {
                        price: match item.id("price")? {
                            Some(id) => Some(id),
                            None => item.id("plan")?,
                        },
                        quantity: item.quantity("quantity")?,
                        lookup_key: item.within("price")?.maybe_text("lookup_key")?,
                        plan_tier: None,
                        metric: None,
                        seats: false,
                        addon: None,
                        interval: None,
                    })
                })
                .collect::<Result<_, _>>()?,
            // Metadata are anybody's: what is no text names no version.
            plan_version: o
                .within("metadata")?
                .maybe_text("plan_version")
                .unwrap_or_default(),
        })
    }
}
