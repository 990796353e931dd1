//! What a change of plan charges for usage: the old prices go, and Stripe would
//! charge what was over their quotas at no price any more.

use jiff::Timestamp;
use uuid::Uuid;

use super::Subscriptions;
use super::failure::Failure;
use super::preview::switch::Switch;
use super::preview::token::Quote;
use super::preview::{Line, Pricing, Totals};
use super::prices::SwitchTo;
use super::state::SubscriptionRow;
use crate::catalogue::UsageAtChanges;
use crate::metering::charges::{self, UsageCharge};
use crate::metering::reports::Overage;
use crate::stripe::client::{Client, Params};
use crate::stripe::objects::InvoiceLine;
use billing_domain::money;
use billing_domain::preview::ProrationBehavior;

/// Whether Stripe is to be told of the usage so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    Tell,
    /// It was told when it was asked whether a quote still holds. To tell it more would
    /// charge more than the quote.
    Told,
}

/// A charge for usage, and the product that Stripe's invoice names.
#[derive(Debug, Clone)]
pub struct BillableUsage {
    pub charge: UsageCharge,
    product: String,
    /// What the metric is called, if it has a name.
    name: Option<String>,
}

impl BillableUsage {
    /// Adds it to a change, as an item of the change's invoice or of the next one.
    pub fn added(&self, params: Params, n: usize, at: Timestamp) -> Params {
        let name = |field: &str| format!("add_invoice_items[{n}]{field}");
        let start = self.charge.period_start.as_second();
        self.priced(params, name)
            .set(name("[period][start][type]"), "timestamp")
            .set(name("[period][start][timestamp]"), start)
            .set(name("[period][end][type]"), "timestamp")
            .set(name("[period][end][timestamp]"), at.as_second())
            .set(name("[metadata][metric]"), &self.charge.metric)
    }

    /// Adds it to a preview.
    pub fn previewed(&self, params: Params, n: usize, at: Timestamp) -> Params {
        let name = |field: &str| format!("invoice_items[{n}]{field}");
        let start = self.charge.period_start.as_second();
        self.priced(params, name)
            .set(name("[period][start]"), start)
            .set(name("[period][end]"), at.as_second())
    }

    fn priced(&self, params: Params, name: impl Fn(&str) -> String) -> Params {
        let minor = money::decimals(&self.charge.currency);
        let unit = self.charge.rate * rust_decimal::Decimal::from(10_u32.pow(minor));
        params
            .set(name("[quantity]"), self.charge.units.normalize())
            .set(name("[price_data][currency]"), &self.charge.currency)
            .set(name("[price_data][product]"), &self.product)
            .set(name("[price_data][unit_amount_decimal]"), unit.normalize())
    }

    /// Whether an invoice's line is this charge.
    pub fn is_line(&self, line: &InvoiceLine) -> bool {
        line.amount == self.charge.amount
            && line.quantity.map(rust_decimal::Decimal::from) == Some(self.charge.units)
            && line.period_start == Some(self.charge.period_start)
    }

    pub fn describe(&self) -> String {
        describe(&self.charge, self.name.as_deref())
    }
}

/// What a line of a preview says of it.
fn describe(charge: &UsageCharge, name: Option<&str>) -> String {
    let (units, rate) = (charge.units.normalize(), charge.rate);
    let currency = charge.currency.to_uppercase();
    let name = name.unwrap_or(&charge.metric);
    format!("{units} × {name} over the quota (at {rate} {currency} each)")
}

impl Subscriptions {
    /// Adds to `switch` what it charges for usage: as it was quoted, or so far.
    pub(super) async fn with_usage<'a>(
        &self,
        client: &Client,
        organization_id: Uuid,
        switch: Switch<'a>,
        quote: Option<&Quote>,
        telling: Telling,
    ) -> Result<Switch<'a>, Failure> {
        let subscription = switch.subscription;
        let removed = switch.removed_prices();
        let metered = subscription.items.iter().any(|item| item.metered);
        let ends_period = switch.restarts() && metered;
        if subscription.on_trial() || (removed.is_empty() && !ends_period) {
            return Ok(switch);
        }
        let flexible = subscription.billing_mode.as_deref() == Some("flexible");
        if flexible || ends_period {
            // Stripe charges what it was told of the prices that go, and of a period
            // that ends.
            if telling == Telling::Tell {
                self.report_usage(client, organization_id).await?;
            }
            return Ok(switch);
        }
        let now = self.time_of(client, subscription).await?;
        let due = self
            .usage_due(organization_id, subscription, now, |charge| {
                removed.contains(&charge.stripe_price_id.as_str())
                    && self.is_charged(switch.has_price_for(&charge.metric))
            })
            .await?;
        let charged = match quote {
            None => due,
            Some(quote) => {
                let holds = |quoted: &UsageCharge| due.iter().any(|now| quoted.still_holds(now));
                if !quote.usage.iter().all(holds) {
                    return Err(Failure::Stale("the usage is charged otherwise by now"));
                }
                quote.usage.clone()
            }
        };
        let mut billable = Vec::new();
        for charge in charged {
            let price = client.price(&charge.stripe_price_id).await;
            let product = price.map_err(Failure::Stripe)?.product;
            let name = self.catalogue.given_name(&charge.metric);
            billable.push(BillableUsage {
                name: name.map(str::to_owned),
                charge,
                product,
            });
        }
        Ok(switch.charging(billable))
    }

    /// Adds to a local preview what the change charges for usage.
    pub(super) fn with_local_usage(
        &self,
        overages: Vec<Overage>,
        subscription: &SubscriptionRow,
        switch: SwitchTo<'_>,
        mut pricing: Pricing,
    ) -> Pricing {
        // Who keeps the prices is charged by them when the period ends.
        if subscription.on_trial() || switch.keeps_prices {
            return pricing;
        }
        let plan = switch.plan;
        let has_price = |metric: &str| {
            let quota = plan.quotas.get(metric);
            quota.is_some_and(crate::catalogue::Quota::is_billed)
        };
        let now = pricing.effective_at;
        let mut due = charges::charged(overages, &subscription.id);
        due.retain(|charge| self.is_charged(has_price(&charge.metric)));
        let amount: i64 = due.iter().map(|charge| charge.amount).sum();
        let prorates = pricing.lines.iter().any(|line| line.proration);
        let behavior = subscription
            .base_item(&self.catalogue)
            .map(|(_, current)| self.catalogue.proration_behavior(&current.tier, &plan.tier));
        pricing.prorated_amount += amount;
        if prorates && behavior == Some(ProrationBehavior::AlwaysInvoice) {
            pricing.due_now_amount += amount;
        } else {
            pricing.next_invoice_amount += amount;
        }
        pricing.totals = Totals::plain(pricing.prorated_amount);
        pricing.next_totals = Totals::plain(pricing.next_invoice_amount);
        pricing.lines.extend(due.iter().map(|charge| {
            let text = describe(charge, self.catalogue.given_name(&charge.metric));
            Line::plain(text, charge.amount, (charge.period_start, now))
        }));
        pricing.usage = due;
        pricing
    }

    pub(super) async fn usage_due(
        &self,
        organization_id: Uuid,
        subscription: &SubscriptionRow,
        now: Timestamp,
        counts: impl Fn(&UsageCharge) -> bool,
    ) -> Result<Vec<UsageCharge>, Failure> {
        let lookup = &self.overage_lookup;
        let due = charges::due(lookup, organization_id, &subscription.id, now).await?;
        Ok(due.into_iter().filter(counts).collect())
    }

    /// Whether a change charges the usage over a quota; `has_price`: whether the new
    /// plan has a price for the metric.
    fn is_charged(&self, has_price: bool) -> bool {
        match self.catalogue.usage_at_changes() {
            UsageAtChanges::Charge => true,
            UsageAtChanges::Prorate => !has_price,
        }
    }
}
