//! Add-ons: what is sold beside a plan. Their quotas and features add up with the plan's,
//! for each one that was bought.
//!
//! An add-on keeps the price at which it was bought, as a plan does. What it adds has no
//! versions: it is what the file says now.

pub(super) mod file;
pub mod history;

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::features::{FeatureKind, FeatureValue, MAX_NUMBER};
use super::{Catalogue, GraceCeiling, Interval, Plan, Price, PriceUse, Quota};
use crate::stripe::objects::Subscription;

/// The most of one add-on that a subscription has.
pub const MAX_ADDONS: u32 = 1_000_000;

/// How many of each add-on, by its id; never 0.
pub type Addons = BTreeMap<String, u32>;

/// An add-on of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addon {
    pub id: String,
    /// For people, on invoices above all.
    pub name: String,
    /// At most one for each currency and interval.
    pub prices: Vec<Price>,
    /// What one adds to the quotas of metrics; `None` makes them unlimited.
    #[serde(default)]
    pub quotas: BTreeMap<String, Option<Decimal>>,
    #[serde(default)]
    pub features: BTreeMap<String, FeatureValue>,
    /// The tiers of the plans that it goes with; `None` for all that are paid.
    #[serde(default)]
    pub plans: Option<Vec<String>>,
    #[serde(default)]
    pub on_plan_change: OnPlanChange,
    /// The most that one subscription has.
    pub max_quantity: u32,
    /// Whether it is sold no more. Those that were bought serve on.
    #[serde(default)]
    pub retired: bool,
}

/// What becomes of an add-on when the plan changes, unless who changes it says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnPlanChange {
    /// It is kept where the new plan allows it.
    #[default]
    Keep,
    Drop,
}

impl OnPlanChange {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Drop => "drop",
        }
    }
}

/// What add-ons have added to a plan's quota.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Added {
    pub units: Decimal,
    /// Whether they have made it unlimited, which it was not.
    pub unlimited: bool,
}

impl Addon {
    /// Whether it may be bought beside a plan.
    pub fn goes_with(&self, plan: &Plan) -> bool {
        let named = self.plans.as_ref();
        plan.is_billed() && named.is_none_or(|plans| plans.contains(&plan.tier))
    }

    /// Its price where a plan is bought at this one.
    pub fn price_beside(&self, price: &Price) -> Option<&Price> {
        let mut prices = self.prices.iter();
        prices.find(|one| one.point() == price.point())
    }

    /// Whether `plans sync` makes its prices.
    pub fn is_synced(&self) -> bool {
        self.prices.iter().any(|price| price.lookup_key.is_some())
    }
}

impl Catalogue {
    /// The add-ons, in the file's order.
    pub fn addons(&self) -> &[Addon] {
        &self.addons
    }

    pub fn addon(&self, id: &str) -> Option<&Addon> {
        self.addons.iter().find(|addon| addon.id == id)
    }

    /// Those that are sold beside a plan.
    pub fn addons_for(&self, plan: &Plan) -> impl Iterator<Item = &Addon> {
        let sold = self.addons.iter().filter(|addon| !addon.retired);
        sold.filter(|addon| addon.goes_with(plan))
    }

    /// The add-ons that a subscription has. Positions of items mean nothing.
    pub fn addons_of(&self, subscription: &Subscription) -> Addons {
        let items = subscription.items.iter();
        count(items.filter_map(|item| {
            let id = self.item_use(item)?.addon?;
            Some((id, item.quantity))
        }))
    }

    /// The interval of an add-on's price that the file names so.
    pub(super) fn addon_interval(&self, is_meant: impl Fn(&Price) -> bool) -> Option<Interval> {
        let mut prices = self.addons.iter().flat_map(|addon| &addon.prices);
        prices.find(|price| is_meant(price)).map(|one| one.interval)
    }

    /// The terms of `plan` with what these add-ons add. Flags are on if one of them is;
    /// numbers add up; of several words, that of the last add-on in the file counts.
    /// A plan that is not paid has none.
    pub fn with_addons(&self, mut plan: Plan, addons: &Addons) -> Plan {
        if !plan.is_billed() {
            return plan;
        }
        for addon in &self.addons {
            let Some(quantity) = addons.get(&addon.id).filter(|quantity| **quantity > 0) else {
                continue;
            };
            let seats = plan.licensed_seats().map(|seats| seats.metric.clone());
            for (metric, units) in &addon.quotas {
                // What was bought of seats is their limit.
                if seats.as_ref() == Some(metric) {
                    continue;
                }
                if let Some(quota) = plan.quotas.get_mut(metric) {
                    let units = units.map(|units| units.saturating_mul((*quantity).into()));
                    quota.add(units);
                }
            }
            for (feature, value) in &addon.features {
                let held = plan.features.get(feature);
                let value = added_up(held, value, *quantity);
                plan.features.insert(feature.clone(), value);
            }
        }
        plan
    }
}

impl Quota {
    /// Adds units, or makes it unlimited.
    fn add(&mut self, units: Option<Decimal>) {
        let Some(quota) = self.quota else {
            return;
        };
        match units {
            Some(units) => {
                self.quota = Some(quota.saturating_add(units));
                self.added.units = self.added.units.saturating_add(units);
                if let Some(GraceCeiling::Quantity(most)) = &mut self.grace_max {
                    *most = most.saturating_add(units);
                }
            }
            None => {
                self.quota = None;
                self.grace_max = None;
                self.added = Added {
                    units: Decimal::ZERO,
                    unlimited: true,
                };
            }
        }
    }
}

/// The value of a feature that a plan has, and that so many of an add-on give.
fn added_up(held: Option<&FeatureValue>, given: &FeatureValue, quantity: u32) -> FeatureValue {
    match (held, given) {
        (held, FeatureValue::Number(given)) => {
            let held = match held {
                Some(FeatureValue::Number(held)) => *held,
                _ => 0,
            };
            let given = given.saturating_mul(quantity.into());
            FeatureValue::Number(held.saturating_add(given).min(MAX_NUMBER))
        }
        (Some(FeatureValue::Flag(true)), FeatureValue::Flag(_)) => FeatureValue::Flag(true),
        (_, given) => given.clone(),
    }
}

impl FeatureKind {
    /// What an add-on may give of it, for an error message.
    fn expected_of_addon(self) -> &'static str {
        match self {
            Self::Flag => "is a flag; an add-on gives it by true",
            Self::Number => {
                "is a number; write what one add-on adds to it, a whole number from 1 up"
            }
            Self::Text => "is a text; write the word that takes the place of the plan's",
        }
    }
}

/// How many of each add-on items come to; one without a quantity is one.
pub fn count(items: impl Iterator<Item = (String, Option<i64>)>) -> Addons {
    let mut addons = Addons::new();
    for (id, quantity) in items {
        let quantity = quantity.unwrap_or(1).clamp(0, i64::from(MAX_ADDONS));
        let quantity = u32::try_from(quantity).unwrap_or(0);
        if quantity > 0 {
            let held = addons.entry(id).or_insert(0);
            *held = held.saturating_add(quantity).min(MAX_ADDONS);
        }
    }
    addons
}

/// Reads what the database keeps; null in rows of before. What cannot be read is an error:
/// somebody would lose what was bought.
pub fn stored(value: Option<Value>) -> Result<Addons, sqlx::Error> {
    match value {
        None | Some(Value::Null) => Ok(Addons::new()),
        Some(value) => {
            serde_json::from_value(value).map_err(|error| sqlx::Error::Decode(error.into()))
        }
    }
}

/// One add-on with its number, as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = BoughtAddon)]
pub struct BoughtAddon {
    #[schema(example = "extra_tokens")]
    pub id: String,
    #[schema(minimum = 1)]
    pub quantity: u32,
}

impl BoughtAddon {
    pub fn list(addons: &Addons) -> Vec<Self> {
        let list = addons.iter().map(|(id, quantity)| Self {
            id: id.clone(),
            quantity: *quantity,
        });
        list.collect()
    }
}

impl PriceUse {
    /// Of an add-on, which goes with several plans.
    pub fn addon(id: &str) -> Self {
        Self {
            addon: Some(id.to_owned()),
            ..Self::fee("")
        }
    }
}
