//! The period of a plan's quotas, apart from the one in which its fee is paid: by the
//! month also where the plan is paid by the year.
//!
//! What Stripe bills decides: the usage of a subscription with metered items counts in
//! their period, whatever its version says. So subscriptions from before, whose usage is
//! billed with the year, count by the year until they are migrated.

use billing_domain::allowance::month_of;
use billing_domain::period::{Cadence, Period};
use billing_domain::status::SubscriptionStatus;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use toml::Spanned;
use utoipa::ToSchema;

use super::file::Problem;
use super::{Catalogue, Interval, Plan, Price};
use crate::stripe::objects::{Subscription, SubscriptionItem};

/// The period of a plan's quotas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AllowancePeriod {
    Month,
    /// The period in which the fee is paid; so it was in versions that do not say.
    #[default]
    Billing,
}

/// The start and end of a period, as far as they are known.
pub type Bounds = (Option<Timestamp>, Option<Timestamp>);

impl AllowancePeriod {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Month => "month",
            Self::Billing => "billing",
        }
    }
}

/// What a plan's entry in the file says; a month, if it says nothing.
pub(super) fn check(
    tier: &str,
    entry: Option<&Spanned<toml::Value>>,
) -> Result<AllowancePeriod, Problem> {
    let Some(entry) = entry else {
        return Ok(AllowancePeriod::Month);
    };
    match entry.get_ref().as_str() {
        Some("month") => Ok(AllowancePeriod::Month),
        Some("billing") => Ok(AllowancePeriod::Billing),
        _ => {
            let problem = format!(
                "the allowance_period of {tier:?} is {}; expected \"month\" or \"billing\"",
                entry.get_ref()
            );
            Err((entry.span().start, problem))
        }
    }
}

impl Plan {
    /// Whether quotas count by the month where the plan is paid by the year. For a plan
    /// that is only paid by the month there is no difference.
    pub fn has_monthly_allowance(&self) -> bool {
        self.allowance_period == AllowancePeriod::Month && self.is_paid_by_year()
    }

    /// Whether one of its prices is by the year.
    pub(super) fn is_paid_by_year(&self) -> bool {
        let by_year = |price: &&Price| price.interval == Interval::Year;
        self.prices().iter().any(by_year)
    }

    /// The interval in which usage counts and is billed, where the plan is bought at its
    /// price.
    pub fn usage_interval(&self) -> Interval {
        match self.allowance_period {
            AllowancePeriod::Month => Interval::Month,
            AllowancePeriod::Billing => self.price.interval,
        }
    }

    /// Whether usage is billed in another interval than the fee, where the plan is bought
    /// at its price.
    pub fn mixes_intervals(&self) -> bool {
        let mut quotas = self.quotas.values();
        self.usage_interval() != self.price.interval && quotas.any(super::Quota::is_billed)
    }

    /// The lookup key from which those of metered prices are made: the same for the month
    /// and the year, if usage is billed alike.
    pub(super) fn usage_key(&self) -> Option<&str> {
        let own = self.price.lookup_key.as_deref()?;
        let interval = self.usage_interval();
        let shared = self
            .prices()
            .into_iter()
            .find(|price| price.point() == (self.price.currency.as_str(), interval));
        shared
            .and_then(|price| price.lookup_key.as_deref())
            .or(Some(own))
    }
}

impl Catalogue {
    /// The period of a subscription in which usage counts, if it is not the billing
    /// period: the month that Stripe bills it in, or else, where Stripe bills no usage, the
    /// first month of the billing period. Those that follow are counted from the anchor.
    pub fn usage_period_of(&self, subscription: &Subscription) -> Bounds {
        const BILLING: Bounds = (None, None);
        let Some((fee, plan)) = self.paying_item(subscription) else {
            return BILLING;
        };
        if interval_of(fee) != Some(Interval::Year) {
            return BILLING;
        }
        let items = subscription.items.iter();
        let mut metered = items
            .filter(|item| {
                self.item_use(item)
                    .is_some_and(|used| used.metric.is_some())
            })
            .peekable();
        if metered.peek().is_some() {
            let monthly = metered.filter(|item| interval_of(item) == Some(Interval::Month));
            // Before its items had periods, a subscription showed the shortest one.
            let whole = (
                subscription.current_period_start,
                subscription.current_period_end,
            );
            let periods = monthly.map(|item| match item.current_period_end {
                Some(end) => (item.current_period_start, Some(end)),
                None => whole,
            });
            return periods.min().unwrap_or(BILLING);
        }
        let version = self.version_of(subscription, &plan.tier);
        let terms = self.known_or_sold(&plan.tier, version);
        if !terms.is_some_and(|terms| terms.has_monthly_allowance()) {
            return BILLING;
        }
        let paid = self.period_of(subscription);
        if subscription.status == SubscriptionStatus::Trialing {
            return paid;
        }
        first_month(subscription, paid).unwrap_or(BILLING)
    }

    /// The period in which usage counts: the billing period, or the month in it.
    pub fn counting_period_of(&self, subscription: &Subscription) -> Bounds {
        match self.usage_period_of(subscription) {
            (Some(start), Some(end)) => (Some(start), Some(end)),
            _ => self.period_of(subscription),
        }
    }

    /// The same for the period that counted at `at_secs`, as the subscription was then.
    pub fn counting_period_at(&self, subscription: &Subscription, at_secs: i64) -> Bounds {
        let known = self.counting_period_of(subscription);
        let (Some(start), Some(end)) = known else {
            return known;
        };
        let by_month = self.usage_period_of(subscription).0.is_some();
        let anchor = subscription.billing_cycle_anchor.filter(|_| by_month);
        let Some(anchor) = anchor.filter(|_| at_secs >= end.as_second()) else {
            return known;
        };
        let month = Cadence::MONTHLY.period_containing(anchor.as_second(), at_secs);
        let month = month.ok().map(|month| {
            let start = month
                .start_secs()
                .max(end.as_second())
                .max(start.as_second());
            (instant(start), instant(month.end_secs()))
        });
        month.unwrap_or(known)
    }
}

fn interval_of(item: &SubscriptionItem) -> Option<Interval> {
    Interval::of(item.interval.as_deref(), item.interval_count)
}

/// The month in which a billing period begins.
fn first_month(subscription: &Subscription, (start, end): Bounds) -> Option<Bounds> {
    let paid = Period::new(start?, end?).ok()?;
    let anchor = subscription.billing_cycle_anchor?.as_second();
    let month = month_of(anchor, paid.start_secs(), paid).ok()?;
    Some((instant(month.start_secs()), instant(month.end_secs())))
}

fn instant(secs: i64) -> Option<Timestamp> {
    Timestamp::from_second(secs).ok()
}
