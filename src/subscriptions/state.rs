//! The stored state of an organization's plan and subscriptions.

use billing_domain::past_due::Access;
use billing_domain::period::{Cadence, Interval, Period};
use billing_domain::status::SubscriptionStatus;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::awaited::AwaitedChange;
use super::pending::{PendingChange, Schedule};
use crate::catalogue::{self, Bought, Catalogue, Plan, PriceUse};

/// An organization's plan and the subscription that pays for it.
#[derive(Debug, Clone)]
pub struct SubscriptionState {
    pub name: String,
    pub plan_tier: String,
    /// The version of the plan; `None` without a subscription.
    pub plan_version: Option<i32>,
    /// What is bought of it.
    pub bought: Bought,
    /// The Stripe customer used for new subscriptions.
    pub customer_id: Option<String>,
    /// The customer's currency, in lower case: that of its first invoice. `None` if it
    /// has none yet.
    pub customer_currency: Option<String>,
    /// Whether that customer's address says enough to be taxed by; `None` if nothing has
    /// shown the customer yet.
    pub tax_located: Option<bool>,
    /// Whether a customer of the organization has a discount for all invoices.
    pub customer_discounted: bool,
    /// Whether any of its subscriptions ever had a trial.
    pub had_trial: bool,
    /// Whether there is a payment method of the organization that Stripe can charge.
    pub has_payment_method: bool,
    /// The subscription that counts among those that have not ended.
    pub subscription: Option<SubscriptionRow>,
    /// The other ones, which are paid for as well.
    pub others: Vec<SubscriptionRow>,
}

/// A subscription that has not ended.
#[derive(Debug, Clone)]
pub struct SubscriptionRow {
    pub id: String,
    pub customer_id: String,
    /// The effective status, in Stripe's terms.
    pub status: SubscriptionStatus,
    /// What it grants while it is past due.
    pub access: Access,
    pub plan_tier: Option<String>,
    pub plan_version: Option<i32>,
    pub currency: Option<String>,
    pub period_start: Option<Timestamp>,
    pub period_end: Option<Timestamp>,
    pub anchor: Option<Timestamp>,
    pub billing_mode: Option<String>,
    pub trial_end: Option<Timestamp>,
    pub cancel_at: Option<Timestamp>,
    pub cancel_at_period_end: bool,
    pub canceled_at: Option<Timestamp>,
    pub latest_invoice_id: Option<String>,
    /// Whether it has a payment method of its own, or invoices by mail.
    pub is_payable: bool,
    /// Whether it or an item has a discount.
    pub discounted: bool,
    /// Its own discounts, in the order in which they apply.
    pub discount_ids: Vec<String>,
    pub taxed: bool,
    pub test_clock_id: Option<String>,
    pub created: Option<Timestamp>,
    /// The last change made by this service.
    pub change_id: Option<String>,
    /// The schedule that drives it, and what is mirrored of that.
    pub schedule_id: Option<String>,
    pub schedule: Option<Schedule>,
    /// The change that the schedule makes next.
    pub pending: Option<PendingChange>,
    /// The change that waits for its payer.
    pub awaited: Option<AwaitedChange>,
    /// What the customer said on canceling, and which of Stripe's words it was.
    pub cancellation_comment: Option<String>,
    pub cancellation_feedback: Option<String>,
    pub items: Vec<Item>,
}

/// One price of a subscription.
#[derive(Debug, Clone)]
pub struct Item {
    pub id: String,
    pub price_id: Option<String>,
    pub lookup_key: Option<String>,
    /// Whether the item is charged by usage, at the end of the period.
    pub metered: bool,
    /// In minor units; `None` if the price is not a whole number of them.
    pub unit_amount: Option<i64>,
    pub interval: Option<String>,
    pub interval_count: Option<i32>,
    pub quantity: Option<i64>,
    pub discount_ids: Vec<String>,
    /// What it is for, as it was mirrored; `None` if its price was not known then.
    pub used: Option<PriceUse>,
}

impl SubscriptionState {
    /// Splits off the subscription that counts: one that grants its plan wins
    /// over one that does not, then the highest plan, then the newest.
    pub fn choose(
        mut rows: Vec<SubscriptionRow>,
        catalogue: &Catalogue,
    ) -> (Option<SubscriptionRow>, Vec<SubscriptionRow>) {
        rows.sort_by_cached_key(|one| {
            let rank = one
                .plan_tier
                .as_deref()
                .and_then(|tier| catalogue.rank(tier));
            let runs = one.access.grants_plan(&one.status);
            (runs, rank, one.created, one.id.clone())
        });
        let chosen = rows.pop();
        rows.reverse();
        (chosen, rows)
    }
}

impl SubscriptionRow {
    /// The item that pays for the plan: the highest plan's, if there are several.
    pub fn base_item<'a>(&'a self, catalogue: &'a Catalogue) -> Option<(&'a Item, &'a Plan)> {
        base_item(&self.items, catalogue)
    }

    /// The items that charge the usage of `metric`, under any plan and version.
    pub fn metered_items(&self, catalogue: &Catalogue, metric: &str) -> Vec<&Item> {
        let items = self.items.iter();
        items
            .filter(|item| {
                let used = item.used(catalogue);
                used.is_some_and(|used| used.metric.as_deref() == Some(metric))
            })
            .collect()
    }

    /// The items that charge licensed seats beside the fee, under any plan and version.
    pub fn seat_items(&self, catalogue: &Catalogue) -> Vec<&Item> {
        let items = self.items.iter();
        items
            .filter(|item| item.used(catalogue).is_some_and(|used| used.seats))
            .collect()
    }

    /// The seats that it has bought of a plan with these terms, where they are licensed.
    pub fn seats(&self, catalogue: &Catalogue, terms: &Plan) -> Option<u32> {
        let of_plan = terms.licensed_seats()?;
        let fee = self
            .base_item(catalogue)
            .and_then(|(item, _)| item.quantity);
        let beside = self.seat_items(catalogue).into_iter();
        let beside = beside.map(|item| item.quantity.unwrap_or(1));
        Some(of_plan.bought(fee, beside.fold(0, i64::saturating_add)))
    }

    /// Whether its first payment has not succeeded yet.
    pub fn is_incomplete(&self) -> bool {
        self.status == SubscriptionStatus::Incomplete
    }

    pub fn on_trial(&self) -> bool {
        self.status == SubscriptionStatus::Trialing
    }

    /// Whether it is set to end.
    pub fn ends(&self) -> bool {
        self.cancel_at_period_end || self.cancel_at.is_some()
    }

    /// Whether it is set to end with the period that is paid.
    pub fn ends_with_period(&self) -> bool {
        let with_period = self.cancel_at.is_some() && self.cancel_at == self.period_end;
        self.cancel_at_period_end || with_period
    }

    /// Whether its usage is charged in other intervals than its fee.
    pub fn mixes_intervals(&self) -> bool {
        let interval = |item: &Item| (item.interval.clone(), item.interval_count);
        let mut intervals = self.items.iter().map(interval);
        let first = intervals.next();
        first.is_some_and(|first| intervals.any(|other| other != first))
    }

    /// When it ends, if it is set to end.
    pub fn ends_at(&self) -> Option<Timestamp> {
        let ends_at = self.cancel_at.or(self.period_end);
        ends_at.filter(|_| self.ends())
    }

    /// The current billing period, if known.
    pub fn period(&self) -> Option<Period> {
        Period::new(self.period_start?, self.period_end?).ok()
    }

    /// When the period began in which usage counts that Stripe charges.
    pub fn counts_since(&self, now: Timestamp) -> Option<Timestamp> {
        let month = self.month(now).filter(|_| self.mixes_intervals());
        let start = month.and_then(|month| Timestamp::from_second(month.start_secs()).ok());
        start.max(self.period_start)
    }

    /// When it is next invoiced after `at`: with the period that is paid, or with the month
    /// where usage is charged by the month.
    pub fn invoiced_at(&self, at: Timestamp) -> Option<Timestamp> {
        let month = self
            .month_end(at)
            .filter(|_| self.mixes_intervals() && !self.on_trial());
        month.or(self.period_end)
    }

    /// When the month ends that contains `at`, or the billing period with it.
    pub fn month_end(&self, at: Timestamp) -> Option<Timestamp> {
        let end = Timestamp::from_second(self.month(at)?.end_secs()).ok()?;
        Some(self.period_end.map_or(end, |paid| paid.min(end)))
    }

    /// The month that contains `at`, counted from the billing cycle anchor.
    fn month(&self, at: Timestamp) -> Option<Period> {
        let anchor = self.anchor?.as_second();
        Cadence::MONTHLY
            .period_containing(anchor, at.as_second())
            .ok()
    }

    /// Changes whenever the price of a plan change could. The billing mode is no part of
    /// it: a change may alter it, and is priced again then.
    pub fn fingerprint(&self) -> String {
        let items: Vec<Value> = self
            .items
            .iter()
            .map(|item| json!([item.id, item.price_id, item.quantity, item.discount_ids]))
            .collect();
        let state = json!([
            self.id,
            self.change_id,
            self.status,
            self.period_start,
            self.period_end,
            self.anchor,
            self.ends(),
            self.discounted,
            self.discount_ids,
            self.taxed,
            self.scheduled(),
            items,
            self.awaits_update().map(|awaited| &awaited.change_id)
        ]);
        hex::encode(&Sha256::digest(state.to_string())[..8])
    }
}

fn base_item<'a>(items: &'a [Item], catalogue: &'a Catalogue) -> Option<(&'a Item, &'a Plan)> {
    let paid = items.iter().filter_map(|item| {
        let used = item.used(catalogue).filter(PriceUse::is_fee)?;
        Some((item, catalogue.plan(&used.tier)?))
    });
    let paid = paid.filter(|(item, _)| !item.metered);
    paid.max_by_key(|(item, plan)| (catalogue.rank(&plan.tier), std::cmp::Reverse(&item.id)))
}

impl Item {
    /// What it is for.
    pub fn used(&self, catalogue: &Catalogue) -> Option<PriceUse> {
        let told = || catalogue.price_use(self.lookup_key.as_deref(), self.price_id.as_deref());
        self.used.clone().or_else(told)
    }

    /// The interval, if plans are sold by it.
    pub fn plan_interval(&self) -> Option<catalogue::Interval> {
        catalogue::Interval::of(self.interval.as_deref(), self.interval_count)
    }

    /// The billing cadence, if the engine supports it.
    pub fn cadence(&self) -> Option<Cadence> {
        let interval = match self.interval.as_deref()? {
            "day" => Interval::Day,
            "week" => Interval::Week,
            "month" => Interval::Month,
            "year" => Interval::Year,
            _ => return None,
        };
        let count = u16::try_from(self.interval_count.unwrap_or(1)).ok()?;
        Cadence::every(count, interval).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: &str, tier: &str) -> Item {
        Item {
            id: id.to_owned(),
            price_id: Some(format!("price_{id}")),
            lookup_key: Some(format!("valuecanvas_{tier}_monthly")),
            metered: false,
            unit_amount: Some(1),
            interval: Some("month".to_owned()),
            interval_count: Some(1),
            quantity: Some(1),
            discount_ids: Vec::new(),
            used: None,
        }
    }

    #[test]
    fn the_highest_plans_item_pays_for_the_plan_at_any_position() {
        let catalogue = Catalogue::load(None).unwrap();
        let (standard, enterprise) = (item("si_a", "standard"), item("si_b", "enterprise"));
        let addon = item("si_c", "addon");
        for items in [
            vec![standard.clone(), enterprise.clone(), addon.clone()],
            vec![addon, enterprise, standard],
        ] {
            let (paying, plan) = base_item(&items, &catalogue).unwrap();
            assert_eq!(
                (paying.id.as_str(), plan.tier.as_str()),
                ("si_b", "enterprise")
            );
        }
    }
}
