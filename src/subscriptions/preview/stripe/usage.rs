//! What a change charges for usage: the units that it leaves without a price.

use jiff::Timestamp;

use super::{Line, Other, Switch, line};
use crate::metering::charges::UsageCharge;
use crate::stripe::objects::InvoiceLine;
use crate::subscriptions::failure::Failure;
use crate::subscriptions::usage_charges::BillableUsage;

impl Switch<'_> {
    /// The same change with what it charges for usage.
    pub fn charging(self, usage: Vec<BillableUsage>) -> Self {
        Self { usage, ..self }
    }

    /// What it charges for usage.
    pub fn usage(&self) -> Vec<UsageCharge> {
        self.usage.iter().map(|one| one.charge.clone()).collect()
    }

    /// The prices of the metered items that it removes.
    pub fn removed_prices(&self) -> Vec<&str> {
        let items = self.subscription.items.iter();
        let removed = items.filter(|item| item.metered && self.removes(&item.id));
        removed
            .filter_map(|item| item.price_id.as_deref())
            .collect()
    }

    /// Whether it begins the period anew.
    pub fn restarts(&self) -> bool {
        self.restarts
    }

    /// Whether the metric of a metered item that it removes keeps a price.
    pub fn has_price_for(&self, metric: &str) -> bool {
        self.prices.metered.contains_key(metric)
    }

    pub(super) fn removes(&self, id: &str) -> bool {
        let removed =
            |other: &Other<'_>| matches!(other, Other::Removed { item_id } if *item_id == id);
        self.others.iter().any(removed)
    }

    /// Whether a line charges usage at a price that the change removes, as Stripe does
    /// in flexible billing.
    pub(super) fn is_accrued(&self, line: &InvoiceLine) -> bool {
        let item = line.subscription_item_id.as_deref();
        let ends_now = line.period_end.is_some_and(|end| end != self.renews_at());
        item.is_some_and(|id| self.removes(id)) && !line.proration && ends_now
    }

    fn renews_at(&self) -> Timestamp {
        self.subscription.period_end.unwrap_or(Timestamp::MAX)
    }

    /// The charge for usage that a line is.
    pub(super) fn charge_of(&self, line: &InvoiceLine) -> Option<&BillableUsage> {
        let is_item = line.subscription_item_id.is_none() && !line.proration;
        self.usage
            .iter()
            .filter(|_| is_item && line.period_end == Some(self.at))
            .find(|usage| usage.is_line(line))
    }

    /// The lines as a preview shows them: usage says what it is.
    pub(super) fn lines<'l>(
        &self,
        lines: impl Iterator<Item = &'l InvoiceLine>,
    ) -> Result<Vec<Line>, Failure> {
        let described = |one: &InvoiceLine| {
            let shown = line(one)?;
            Ok(match self.charge_of(one) {
                Some(usage) => Line {
                    description: usage.describe(),
                    ..shown
                },
                None => shown,
            })
        };
        lines.map(described).collect()
    }
}
