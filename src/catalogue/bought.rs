//! What a subscription has bought of its plan, besides the version.

use super::{Addons, Catalogue, Interval, Plan, Seats};
use crate::stripe::objects::Subscription;

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bought {
    /// In lower case; `None` if that is not known.
    pub currency: Option<String>,
    /// `None` for an interval by which no plan is sold, and in rows of before.
    pub interval: Option<Interval>,
    /// Its seats, where they are licensed.
    pub seats: Option<u32>,
    /// What is bought beside the plan.
    pub addons: Addons,
}

impl Catalogue {
    /// What a subscription has bought of a version of its plan. Positions of items mean
    /// nothing, and those that are left out of an object that was `cut` say nothing: seats
    /// and add-ons stay as they were, until Stripe was asked for them.
    pub fn bought_of(
        &self,
        subscription: &Subscription,
        tier: &Option<String>,
        version: Option<i32>,
        cut: Option<&Bought>,
    ) -> Bought {
        let fee = self.paying_item(subscription).map(|(item, _)| item);
        let licensed = tier.as_deref();
        let licensed = licensed.and_then(|tier| self.licensed_seats(tier, version));
        let seats = licensed.map(|of_plan| {
            let items = subscription.items.iter();
            let beside = items.filter(|item| self.item_use(item).is_some_and(|used| used.seats));
            let beside = beside.map(|item| item.quantity.unwrap_or(1));
            let beside = beside.fold(0, i64::saturating_add);
            of_plan.bought(fee.and_then(|item| item.quantity), beside)
        });
        let currency = subscription.currency.as_ref();
        Bought {
            currency: currency.map(|currency| currency.to_ascii_lowercase()),
            interval: fee
                .and_then(|item| Interval::of(item.interval.as_deref(), item.interval_count)),
            seats: cut.and_then(|cut| cut.seats).or(seats),
            addons: match cut {
                Some(cut) => cut.addons.clone(),
                None => self.addons_of(subscription),
            },
        }
    }

    /// The seats of a version of a plan, if they are licensed.
    fn licensed_seats(&self, tier: &str, version: Option<i32>) -> Option<Seats> {
        match version.filter(|version| self.current_version(tier) != Some(*version)) {
            None => self.plan(tier).and_then(Plan::licensed_seats).cloned(),
            Some(version) => self.memory.of_versions(tier, |versions| {
                versions.get(&version)?.terms.licensed_seats().cloned()
            }),
        }
    }
}
