//! What organizations hold of a plan, and its quotas as columns.

use rust_decimal::Decimal;

use crate::catalogue::{Addons, Bought, Catalogue, Interval, Plan, ceiling_text};

/// What organizations hold of a plan, but for their seats.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeldPlan {
    pub plan_tier: String,
    /// `None` for organizations without a subscription, which have what is sold now.
    pub plan_version: Option<i32>,
    pub plan_currency: Option<String>,
    pub plan_interval: Option<String>,
    /// What is bought beside it.
    pub plan_addons: Addons,
}

impl HeldPlan {
    /// A version of a plan, as it was bought.
    pub fn of(tier: &str, version: Option<i32>, bought: &Bought) -> Self {
        Self {
            plan_tier: tier.to_owned(),
            plan_version: version,
            plan_currency: bought.currency.clone(),
            plan_interval: bought.interval.map(|one| one.as_str().to_owned()),
            plan_addons: bought.addons.clone(),
        }
    }

    /// Its terms, as they are paid, with what its add-ons add.
    pub fn terms(&self, catalogue: &Catalogue) -> Option<Plan> {
        let terms = catalogue.terms(&self.plan_tier, self.plan_version)?;
        let interval = Interval::of(self.plan_interval.as_deref(), None);
        let terms = terms.paid_in(self.plan_currency.as_deref(), interval);
        Some(catalogue.with_addons(terms, &self.plan_addons))
    }
}

/// A plan with its terms, as organizations hold it.
#[derive(Debug, Clone, Copy)]
pub struct Assigned<'a> {
    pub plan: &'a Plan,
    pub held: &'a HeldPlan,
}

impl Assigned<'_> {
    /// The metric whose limit is the seats that an organization has bought, and the
    /// fewest that are sold.
    pub(super) fn seats(&self) -> (Option<&str>, Option<i32>) {
        let seats = self.plan.licensed_seats();
        let seats = seats.map(|seats| {
            let fewest = i32::try_from(seats.fewest()).unwrap_or(i32::MAX);
            (seats.metric.as_str(), fewest)
        });
        seats.unzip()
    }
}

/// A plan's quotas as columns.
pub(super) struct Columns<'a> {
    pub metrics: Vec<&'a str>,
    pub limits: Vec<Option<Decimal>>,
    pub kinds: Vec<&'static str>,
    pub rates: Vec<Option<Decimal>>,
    pub ceilings: Vec<Option<String>>,
    /// What add-ons have added to each, and whether they have made it unlimited.
    pub added: Vec<Decimal>,
    pub freed: Vec<bool>,
}

impl<'a> Columns<'a> {
    pub fn of(plan: &'a Plan) -> Self {
        let mut columns = Self {
            metrics: vec![],
            limits: vec![],
            kinds: vec![],
            rates: vec![],
            ceilings: vec![],
            added: vec![],
            freed: vec![],
        };
        for (metric, quota) in &plan.quotas {
            columns.metrics.push(metric.as_str());
            columns.limits.push(quota.quota);
            columns.kinds.push(quota.over_limit.as_str());
            columns.rates.push(quota.overage_rate);
            columns.ceilings.push(quota.grace_max.map(ceiling_text));
            columns.added.push(quota.added.units);
            columns.freed.push(quota.added.unlimited);
        }
        columns
    }
}
