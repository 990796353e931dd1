//! Has Stripe price a change: previews the invoices that the change would
//! create, as of the time that the change will use for proration.

mod usage;

use std::collections::HashSet;

use jiff::Timestamp;

use super::{Line, Pricing, Source, later};
use crate::catalogue::{Catalogue, Plan};
use crate::stripe::client::{BILLING_MODE, Client, ErrorKind, Params, StripeError};
use crate::stripe::objects::{Invoice, InvoiceLine};
use crate::subscriptions::failure::Failure;
use crate::subscriptions::prices::PlanPrices;
use crate::subscriptions::state::{Item, SubscriptionRow};
use crate::subscriptions::usage_charges::BillableUsage;
use billing_domain::preview::ProrationBehavior;

/// A change of plan as parameters for Stripe. Preview and change send the same
/// ones, so that their amounts cannot differ.
pub struct Switch<'a> {
    pub subscription: &'a SubscriptionRow,
    /// The item that pays for the plan.
    item_id: &'a str,
    pub prices: &'a PlanPrices,
    /// Whether another item has the new price already. That item then stays and
    /// this one is removed, since Stripe accepts no price twice.
    base_is_there: bool,
    others: Vec<Other<'a>>,
    /// Usage that the change leaves without a price, to be charged with it.
    usage: Vec<BillableUsage>,
    pub proration_behavior: ProrationBehavior,
    /// The start of proration.
    pub at: Timestamp,
    pub changes_interval: bool,
    /// Whether a new interval restarts the period.
    restarts: bool,
    /// The new fee.
    fee: i64,
    pub currency: &'a str,
    /// Whether the change keeps the plan, and with it what is to become of it.
    keeps_plan: bool,
    /// Whether it takes effect when the period ends.
    later: bool,
}

/// An item that a subscription has after a change.
#[derive(Debug, PartialEq, Eq)]
pub struct ItemAfter<'a> {
    pub price_id: &'a str,
    /// `None` if it is charged by usage.
    pub quantity: Option<i64>,
    /// The price that it takes the place of.
    pub replaces: Option<&'a str>,
    /// In minor units; `None` if it is not a whole number of them.
    pub unit_amount: Option<i64>,
}

/// A change of another item than the plan's. A metered item is never given another
/// price: the new item says from when on Stripe counts usage at it.
#[derive(Debug, PartialEq, Eq)]
enum Other<'a> {
    Added { price_id: &'a str },
    Removed { item_id: &'a str },
}

/// The changes of metered items and of other plans' fees. An item that has the
/// right price already stays, whichever plan it belonged to: somebody may have
/// changed only the fee in Stripe.
fn others<'a>(
    subscription: &'a SubscriptionRow,
    catalogue: &'a Catalogue,
    base: &'a Item,
    prices: &'a PlanPrices,
) -> Vec<Other<'a>> {
    let mut others = Vec::new();
    for metric in catalogue.metrics().keys() {
        let new = prices.metered.get(metric).map(String::as_str);
        let mut old = subscription.metered_items(catalogue, metric);
        let kept = new.and_then(|price| {
            let has_it = |item: &&Item| item.price_id.as_deref() == Some(price);
            old.iter().position(has_it).or_else(|| {
                // The item may have the price without its lookup key.
                let mut items = subscription.items.iter();
                items.any(|item| has_it(&item)).then_some(usize::MAX)
            })
        });
        match (kept, new) {
            (Some(position), _) => {
                if position < old.len() {
                    old.remove(position);
                }
            }
            (None, Some(price_id)) => others.push(Other::Added { price_id }),
            (None, None) => {}
        }
        others.extend(
            old.into_iter()
                .map(|item| Other::Removed { item_id: &item.id }),
        );
    }
    // Exactly one fee remains.
    let fees = subscription.items.iter().filter(|item| {
        let plan = catalogue.plan_of_price(item.lookup_key.as_deref(), item.price_id.as_deref());
        item.id != base.id && !item.metered && plan.is_some()
    });
    let fees = fees.filter(|item| item.price_id.as_ref() != Some(&prices.base));
    others.extend(fees.map(|item| Other::Removed { item_id: &item.id }));
    others
}

impl<'a> Switch<'a> {
    /// Returns `None` if the subscription has no item of the catalogue.
    pub fn new(
        subscription: &'a SubscriptionRow,
        catalogue: &'a Catalogue,
        plan: &'a Plan,
        prices: &'a PlanPrices,
        at: Timestamp,
    ) -> Option<Self> {
        let (item, current) = subscription.base_item(catalogue)?;
        let others = others(subscription, catalogue, item, prices);
        let changes_interval = item.cadence() != Some(plan.price.interval.cadence());
        Some(Self {
            subscription,
            item_id: &item.id,
            base_is_there: subscription
                .items
                .iter()
                .any(|other| other.id != item.id && other.price_id.as_ref() == Some(&prices.base)),
            prices,
            others,
            usage: Vec::new(),
            proration_behavior: catalogue.proration_behavior(&current.tier, &plan.tier),
            at,
            changes_interval,
            fee: plan.price.amount,
            currency: &plan.price.currency,
            keeps_plan: current.tier == plan.tier,
            later: false,
            restarts: changes_interval && !subscription.on_trial(),
        })
    }

    /// The same change, when the period ends.
    pub fn at_period_end(self) -> Self {
        Self {
            later: true,
            restarts: false,
            ..self
        }
    }

    /// The items after the change, each price once.
    pub fn items_after(&self) -> Vec<ItemAfter<'a>> {
        let mut after: Vec<ItemAfter<'a>> = Vec::new();
        let mut add = |item: ItemAfter<'a>| {
            if !after.iter().any(|known| known.price_id == item.price_id) {
                after.push(item);
            }
        };
        for item in &self.subscription.items {
            let Some(price_id) = item.price_id.as_deref() else {
                continue;
            };
            let kept = ItemAfter {
                price_id,
                quantity: (!item.metered).then(|| item.quantity.unwrap_or(1)),
                replaces: Some(price_id),
                unit_amount: item.unit_amount,
            };
            if item.id == self.item_id {
                add(ItemAfter {
                    price_id: &self.prices.base,
                    unit_amount: Some(self.fee),
                    ..kept
                });
            } else if !self.removes(&item.id) {
                add(kept);
            }
        }
        for other in &self.others {
            if let Other::Added { price_id } = other {
                add(ItemAfter {
                    price_id,
                    quantity: None,
                    replaces: None,
                    unit_amount: None,
                });
            }
        }
        after
    }

    /// The parameters nested under `prefix`, such as `subscription_details`; an
    /// empty prefix is for the change itself.
    pub fn parameters(&self, prefix: &str, proration_behavior: ProrationBehavior) -> Params {
        let name = |name: &str| match (prefix, name.split_once('[')) {
            ("", _) => name.to_owned(),
            (prefix, Some((first, rest))) => format!("{prefix}[{first}][{rest}"),
            (prefix, None) => format!("{prefix}[{name}]"),
        };
        let behavior = match proration_behavior {
            ProrationBehavior::AlwaysInvoice => "always_invoice",
            ProrationBehavior::CreateProrations => "create_prorations",
            ProrationBehavior::None => "none",
        };
        let mut params = Params::new()
            .set(name("items[0][id]"), self.item_id)
            .set(name("proration_behavior"), behavior);
        params = if self.base_is_there {
            params.set(name("items[0][deleted]"), true)
        } else {
            params.set(name("items[0][price]"), &self.prices.base)
        };
        for (n, other) in (1..).zip(&self.others) {
            let name = |field: &str| name(&format!("items[{n}][{field}]"));
            params = match other {
                Other::Added { price_id } => params.set(name("price"), price_id),
                Other::Removed { item_id } => {
                    params.set(name("id"), item_id).set(name("deleted"), true)
                }
            };
        }
        // A trial has nothing to prorate.
        if !self.subscription.on_trial() && !self.later {
            params = params.set(name("proration_date"), self.at.as_second());
        }
        if self.restarts {
            params = params.set(name("billing_cycle_anchor"), "now");
        }
        for (n, usage) in self.usage.iter().enumerate() {
            params = match prefix {
                "" => usage.added(params, n, self.at),
                _ => usage.previewed(params, n, self.at),
            };
        }
        // Choosing a plan cancels a scheduled end.
        if self.subscription.cancel_at_period_end {
            params = params.set(name("cancel_at_period_end"), false);
        } else if self.subscription.cancel_at.is_some() {
            params = params.set(name("cancel_at"), "");
        }
        params
    }
}

/// The items of a new subscription: its fee and its metered prices.
pub fn items_of(prices: &PlanPrices, params: Params, name: &str) -> Params {
    let items = std::iter::once(&prices.base).chain(prices.metered.values());
    items.enumerate().fold(params, |params, (n, price)| {
        params.set(format!("{name}[{n}][price]"), price)
    })
}

/// What a new subscription of `customer` would cost.
pub async fn of_creation(
    client: &Client,
    customer: &str,
    plan: &Plan,
    prices: &PlanPrices,
) -> Result<Pricing, Failure> {
    let params = Params::new()
        .set("customer", customer)
        .set("subscription_details[billing_mode][type]", BILLING_MODE);
    let params = items_of(prices, params, "subscription_details[items]");
    let first = ask(client, &params).await?;
    let (mut next, mut starts, mut ends) = (0, None, None);
    for line in &first.lines {
        if !line.proration && line.price_id.as_ref() == Some(&prices.base) {
            next += line.amount;
            (starts, ends) = (line.period_start, line.period_end);
        }
    }
    let (Some(starts), Some(ends)) = (starts, ends) else {
        return Err(unexpected("the first invoice has no line of the plan"));
    };
    Ok(Pricing {
        currency: plan.price.currency.to_ascii_lowercase(),
        effective_at: starts,
        prorated_amount: first.total,
        due_now_amount: first.total,
        next_invoice_amount: next,
        next_invoice_at: ends,
        lines: first.lines.iter().map(line).collect::<Result<_, _>>()?,
        usage: Vec::new(),
        holds_until: None,
        source: Source::Stripe,
    })
}

/// What a change of plan would cost.
pub async fn of_switch(client: &Client, change: &Switch<'_>) -> Result<Pricing, Failure> {
    let ask_with = async |proration_behavior| {
        let params = change.parameters("subscription_details", proration_behavior);
        let params = params.set("subscription", &change.subscription.id);
        ask(client, &params).await
    };
    if change.restarts {
        return restarted(change, ask_with(ProrationBehavior::AlwaysInvoice).await?);
    }
    let waiting = ask_with(ProrationBehavior::CreateProrations).await?;
    let mut pricing = with_renewal(change, &waiting)?;
    // The schedule goes once the change is made, and Stripe shows what it would do.
    if change.subscription.schedule_id.is_some() && !change.keeps_plan {
        pricing.next_invoice_amount = later::renewed(change, Some(&waiting))?;
    }
    // Without proration lines, nothing is invoiced at once.
    let prorates = pricing.lines.iter().any(|line| line.proration);
    let accrued = waiting.lines.iter().any(|line| change.is_accrued(line));
    if change.proration_behavior == ProrationBehavior::AlwaysInvoice && (prorates || accrued) {
        let now = ask_with(ProrationBehavior::AlwaysInvoice).await?;
        pricing.lines = change.lines(now.lines.iter())?;
        pricing.prorated_amount = now.total;
        pricing.due_now_amount = now.total;
        pricing.next_invoice_amount -= now.total;
    }
    Ok(pricing)
}

/// The end of a subscription with its period: what the last invoice charges.
pub async fn of_end(
    client: &Client,
    subscription: &SubscriptionRow,
    pricing: Pricing,
) -> Result<Pricing, Failure> {
    let scheduled = subscription.schedule_id.is_some();
    let params = Params::new()
        .set("subscription", &subscription.id)
        // Stripe lets only the schedule set an end.
        .set_if(
            "subscription_details[cancel_at_period_end]",
            (!scheduled).then_some(true),
        );
    let last = match client.preview_invoice(&params).await {
        Ok(invoice) => Some(Invoice::read(&invoice.0)?),
        Err(error) if is_none_upcoming(&error) => None,
        Err(error) => return Err(Failure::Stripe(error)),
    };
    let metered = metered_prices(subscription, None);
    let is_usage = |line: &InvoiceLine| has_price(line, &metered);
    let left = match &last {
        _ if scheduled => later::besides_renewal(subscription, &metered, last.as_ref())?,
        Some(last) => total_without(last, is_usage),
        None => 0,
    };
    Ok(Pricing {
        next_invoice_amount: left,
        source: Source::Stripe,
        ..pricing
    })
}

pub fn is_none_upcoming(error: &StripeError) -> bool {
    error.code.as_deref() == Some("invoice_upcoming_none")
}

pub async fn ask(client: &Client, params: &Params) -> Result<Invoice, Failure> {
    let invoice = client.preview_invoice(params).await.map_err(|error| {
        let period_over = error.kind == ErrorKind::InvalidRequest
            && error
                .param
                .as_deref()
                .is_some_and(|param| param.contains("proration_date"));
        if period_over {
            Failure::Stale("another billing period has begun")
        } else {
            Failure::Stripe(error)
        }
    })?;
    Ok(Invoice::read(&invoice.0)?)
}

/// The price of a change that is invoiced with the renewal.
fn with_renewal(change: &Switch<'_>, invoice: &Invoice) -> Result<Pricing, Failure> {
    let metered = metered_prices(change.subscription, Some(change.prices));
    let is_new = |line: &&InvoiceLine| {
        let prorated = line.proration && line.period_start == Some(change.at);
        prorated || change.is_accrued(line) || change.charge_of(line).is_some()
    };
    let goes_on = |line: &InvoiceLine| has_price(line, &metered) && !change.is_accrued(line);
    let renewal = invoice
        .lines
        .iter()
        .find(|line| !line.proration && line.price_id.as_ref() == Some(&change.prices.base));
    let renews_at = renewal.and_then(|line| line.period_start);
    let next_invoice_at = renews_at
        .or(change.subscription.period_end)
        .ok_or_else(|| unexpected("the next invoice has no date"))?;
    let lines = change.lines(invoice.lines.iter().filter(is_new))?;
    Ok(Pricing {
        currency: invoice.currency.clone(),
        effective_at: change.at,
        prorated_amount: lines.iter().map(|line| line.amount).sum(),
        due_now_amount: 0,
        next_invoice_amount: total_without(invoice, goes_on),
        next_invoice_at,
        lines,
        usage: change.usage(),
        holds_until: Some(next_invoice_at),
        source: Source::Stripe,
    })
}

/// The price of a change that restarts the period: all of it is due at once.
fn restarted(change: &Switch<'_>, invoice: Invoice) -> Result<Pricing, Failure> {
    let full = |line: &&InvoiceLine| {
        !line.proration && line.price_id.as_ref() == Some(&change.prices.base)
    };
    let period = invoice.lines.iter().find(full);
    let ends = period.and_then(|line| line.period_end);
    Ok(Pricing {
        effective_at: change.at,
        prorated_amount: invoice.total,
        due_now_amount: invoice.total,
        next_invoice_amount: invoice.lines.iter().filter(full).map(|l| l.amount).sum(),
        next_invoice_at: ends.ok_or_else(|| unexpected("the new period has no line"))?,
        lines: change.lines(invoice.lines.iter())?,
        usage: change.usage(),
        holds_until: change.subscription.period_end,
        source: Source::Stripe,
        currency: invoice.currency,
    })
}

pub fn line(line: &InvoiceLine) -> Result<Line, Failure> {
    let (Some(period_start), Some(period_end)) = (line.period_start, line.period_end) else {
        return Err(unexpected("a line has no period"));
    };
    Ok(Line {
        description: line.description.clone().unwrap_or_default(),
        amount: line.amount,
        period_start,
        period_end,
        proration: line.proration,
    })
}

/// Metered prices are charged at the end of the period, for usage that is not
/// known before.
pub fn metered_prices<'a>(
    subscription: &'a SubscriptionRow,
    next: Option<&'a PlanPrices>,
) -> HashSet<&'a str> {
    let items = subscription.items.iter().filter(|item| item.metered);
    let next = next.into_iter().flat_map(|prices| prices.metered.values());
    items
        .filter_map(|item| item.price_id.as_deref())
        .chain(next.map(String::as_str))
        .collect()
}

pub fn has_price(line: &InvoiceLine, prices: &HashSet<&str>) -> bool {
    let price = line.price_id.as_deref();
    price.is_some_and(|id| prices.contains(id))
}

/// The total without the usage that goes on.
pub fn total_without(invoice: &Invoice, is_usage: impl Fn(&InvoiceLine) -> bool) -> i64 {
    let usage = invoice.lines.iter().filter(|line| is_usage(line));
    invoice.total - usage.map(|line| line.amount).sum::<i64>()
}

fn unexpected(what: &'static str) -> Failure {
    Failure::Unexpected(what)
}
