//! Has Stripe price a change: previews the invoices that the change would
//! create, as of the time that the change will use for proration.

use std::collections::HashSet;

use jiff::Timestamp;

use super::{Line, Pricing, Source};
use crate::catalogue::{Catalogue, Plan};
use crate::stripe::client::{BILLING_MODE, Client, ErrorKind, Params, StripeError};
use crate::stripe::objects::{Invoice, InvoiceLine};
use crate::subscriptions::failure::Failure;
use crate::subscriptions::prices::{PlanPrices, SwitchTo};
use crate::subscriptions::selection::Quantities;
use crate::subscriptions::state::{Item, SubscriptionRow};
use billing_domain::preview::ProrationBehavior;

/// A change of plan as parameters for Stripe. Preview and change send the same
/// ones, so that their amounts cannot differ.
pub struct Switch<'a> {
    pub subscription: &'a SubscriptionRow,
    /// The item that pays for the plan.
    item_id: &'a str,
    prices: &'a PlanPrices,
    quantities: Quantities,
    /// Another item that has the new price already. It then stays and this one is
    /// removed, since Stripe accepts no price twice.
    base_is_there: Option<&'a str>,
    /// Whether a scheduled end stays: only quantities change.
    keeps_end: bool,
    others: Vec<Other<'a>>,
    pub proration_behavior: ProrationBehavior,
    /// The start of proration.
    pub at: Timestamp,
    /// Whether a new interval restarts the period.
    restarts: bool,
}

/// A change of another item than the plan's. Usage so far stays charged, since
/// the meter counts it for the whole period.
#[derive(Debug, PartialEq, Eq)]
enum Other<'a> {
    Replaced {
        item_id: &'a str,
        price_id: &'a str,
    },
    Added {
        price_id: &'a str,
    },
    Removed {
        item_id: &'a str,
    },
    /// Of a licensed price; a new item without an id.
    Licensed {
        item_id: Option<&'a str>,
        price_id: &'a str,
        quantity: u64,
    },
}

/// The changes of metered items and of other plans' fees. An item that has the
/// right price already stays, whichever plan it belonged to: somebody may have
/// changed only the fee in Stripe.
fn others<'a>(
    subscription: &'a SubscriptionRow,
    catalogue: &'a Catalogue,
    base: &'a Item,
    prices: &'a PlanPrices,
    quantities: Quantities,
) -> Vec<Other<'a>> {
    let mut others = seats(subscription, catalogue, prices, quantities);
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
            (None, Some(price_id)) if old.is_empty() => others.push(Other::Added { price_id }),
            (None, Some(price_id)) => {
                let item_id = &*old.remove(0).id;
                others.push(Other::Replaced { item_id, price_id });
            }
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

/// The changes of items that charge seats beside the fee: one item is left, or none.
fn seats<'a>(
    subscription: &'a SubscriptionRow,
    catalogue: &Catalogue,
    prices: &'a PlanPrices,
    quantities: Quantities,
) -> Vec<Other<'a>> {
    let mut had = subscription.seat_items(catalogue);
    had.sort_by_key(|item| (item.price_id != prices.seats, &item.id));
    let beside = quantities.beside.filter(|quantity| *quantity > 0);
    let wanted = prices.seats.as_deref().zip(beside);
    let kept = wanted.and(had.first()).map(|item| item.id.as_str());
    let left = wanted.map(|(price_id, quantity)| Other::Licensed {
        item_id: kept,
        price_id,
        quantity,
    });
    let gone = had
        .into_iter()
        .filter(|item| Some(item.id.as_str()) != kept);
    let gone = gone.map(|item| Other::Removed { item_id: &item.id });
    left.into_iter().chain(gone).collect()
}

/// When a switch is charged: fewer seats of the same plan as a change to a lower one.
pub fn proration_behavior(
    subscription: &SubscriptionRow,
    catalogue: &Catalogue,
    current: &Plan,
    switch: SwitchTo<'_>,
) -> ProrationBehavior {
    let units = |items: Vec<&Item>| {
        let units = items.into_iter().map(|item| item.quantity.unwrap_or(1));
        u64::try_from(units.fold(0, i64::saturating_add)).unwrap_or(0)
    };
    let fee = subscription.base_item(catalogue).map(|(item, _)| item);
    let before = (
        units(fee.into_iter().collect()),
        units(subscription.seat_items(catalogue)),
    );
    let fewer = switch.quantities.fee.is_some_and(|fee| fee < before.0)
        || switch.quantities.beside.unwrap_or(0) < before.1;
    match switch.plan.tier == current.tier && switch.keeps_prices && fewer {
        true => catalogue.proration_of_less(),
        false => catalogue.proration_behavior(&current.tier, &switch.plan.tier),
    }
}

impl<'a> Switch<'a> {
    /// Returns `None` if the subscription has no item of the catalogue.
    pub fn new(
        subscription: &'a SubscriptionRow,
        catalogue: &'a Catalogue,
        switch: SwitchTo<'_>,
        prices: &'a PlanPrices,
        at: Timestamp,
    ) -> Option<Self> {
        let (item, current) = subscription.base_item(catalogue)?;
        let quantities = switch.quantities;
        let interval = switch.plan.price.interval.cadence();
        let changes_interval = !switch.keeps_prices && item.cadence() != Some(interval);
        let mut items = subscription.items.iter();
        let there = items
            .find(|other| other.id != item.id && other.price_id.as_ref() == Some(&prices.base));
        Some(Self {
            subscription,
            item_id: &item.id,
            base_is_there: there.map(|other| other.id.as_str()),
            prices,
            quantities,
            others: others(subscription, catalogue, item, prices, quantities),
            proration_behavior: proration_behavior(subscription, catalogue, current, switch),
            at,
            keeps_end: switch.keeps_prices,
            restarts: changes_interval && !subscription.on_trial(),
        })
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
        let fee = self.quantities.fee;
        let there = self.base_is_there.map(|item_id| Other::Licensed {
            item_id: Some(item_id),
            price_id: &self.prices.base,
            quantity: fee.unwrap_or(1),
        });
        params = if there.is_some() {
            params.set(name("items[0][deleted]"), true)
        } else {
            params
                .set(name("items[0][price]"), &self.prices.base)
                .set_if(&name("items[0][quantity]"), fee)
        };
        let there = there.iter().filter(|_| fee.is_some());
        for (n, other) in (1..).zip(self.others.iter().chain(there)) {
            let name = |field: &str| name(&format!("items[{n}][{field}]"));
            params = match other {
                Other::Replaced { item_id, price_id } => {
                    params.set(name("id"), item_id).set(name("price"), price_id)
                }
                Other::Added { price_id } => params.set(name("price"), price_id),
                Other::Removed { item_id } => {
                    params.set(name("id"), item_id).set(name("deleted"), true)
                }
                Other::Licensed {
                    item_id,
                    price_id,
                    quantity,
                } => params
                    .set_if(&name("id"), *item_id)
                    .set(name("price"), price_id)
                    .set(name("quantity"), quantity),
            };
        }
        // A trial has nothing to prorate.
        if !self.subscription.on_trial() {
            params = params.set(name("proration_date"), self.at.as_second());
        }
        if self.restarts {
            params = params.set(name("billing_cycle_anchor"), "now");
        }
        // Choosing a plan cancels a scheduled end.
        if self.keeps_end {
            return params;
        }
        if self.subscription.cancel_at_period_end {
            params = params.set(name("cancel_at_period_end"), false);
        } else if self.subscription.cancel_at.is_some() {
            params = params.set(name("cancel_at"), "");
        }
        params
    }
}

/// The items of a new subscription: its fee, its seats and its metered prices.
pub fn items_of(prices: &PlanPrices, quantities: Quantities, params: Params, name: &str) -> Params {
    let seats = quantities.beside.filter(|quantity| *quantity > 0);
    let seats = prices.seats.as_ref().zip(seats);
    let seats = seats.map(|(price, quantity)| (price, Some(quantity)));
    let metered = prices.metered.values().map(|price| (price, None));
    let items = std::iter::once((&prices.base, quantities.fee))
        .chain(seats)
        .chain(metered);
    items
        .enumerate()
        .fold(params, |params, (n, (price, quantity))| {
            params
                .set(format!("{name}[{n}][price]"), price)
                .set_if(&format!("{name}[{n}][quantity]"), quantity)
        })
}

/// What a new subscription of `customer` would cost.
pub async fn of_creation(
    client: &Client,
    customer: &str,
    plan: &Plan,
    prices: &PlanPrices,
    quantities: Quantities,
) -> Result<Pricing, Failure> {
    let params = Params::new()
        .set("customer", customer)
        .set("subscription_details[billing_mode][type]", BILLING_MODE);
    let params = items_of(prices, quantities, params, "subscription_details[items]");
    let first = ask(client, &params).await?;
    let (mut next, mut starts, mut ends) = (0, None, None);
    for line in &first.lines {
        if prices.is_licensed(line) {
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
    // Without proration lines, nothing is invoiced at once.
    if change.proration_behavior == ProrationBehavior::AlwaysInvoice && !pricing.lines.is_empty() {
        let now = ask_with(ProrationBehavior::AlwaysInvoice).await?;
        pricing.lines = now.lines.iter().map(line).collect::<Result<_, _>>()?;
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
    let params = Params::new()
        .set("subscription", &subscription.id)
        .set("subscription_details[cancel_at_period_end]", true);
    let last = match client.preview_invoice(&params).await {
        Ok(invoice) => Some(Invoice::read(&invoice.0)?),
        Err(error) if is_none_upcoming(&error) => None,
        Err(error) => return Err(Failure::Stripe(error)),
    };
    let metered = metered_prices(subscription, None);
    let left = last.map_or(0, |last| total_without(&last, &metered));
    Ok(Pricing {
        next_invoice_amount: left,
        source: Source::Stripe,
        ..pricing
    })
}

pub fn is_none_upcoming(error: &StripeError) -> bool {
    error.code.as_deref() == Some("invoice_upcoming_none")
}

async fn ask(client: &Client, params: &Params) -> Result<Invoice, Failure> {
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
    let is_new = |line: &&InvoiceLine| line.proration && line.period_start == Some(change.at);
    let renewal = invoice
        .lines
        .iter()
        .find(|line| !line.proration && line.price_id.as_ref() == Some(&change.prices.base));
    let renews_at = renewal.and_then(|line| line.period_start);
    let next_invoice_at = renews_at
        .or(change.subscription.period_end)
        .ok_or_else(|| unexpected("the next invoice has no date"))?;
    let lines: Vec<Line> = invoice
        .lines
        .iter()
        .filter(is_new)
        .map(line)
        .collect::<Result<_, _>>()?;
    Ok(Pricing {
        currency: invoice.currency.clone(),
        effective_at: change.at,
        prorated_amount: lines.iter().map(|line| line.amount).sum(),
        due_now_amount: 0,
        next_invoice_amount: total_without(invoice, &metered),
        next_invoice_at,
        lines,
        holds_until: Some(next_invoice_at),
        source: Source::Stripe,
    })
}

/// The price of a change that restarts the period: all of it is due at once.
fn restarted(change: &Switch<'_>, invoice: Invoice) -> Result<Pricing, Failure> {
    let full = |line: &&InvoiceLine| change.prices.is_licensed(line);
    let period = invoice.lines.iter().find(full);
    let ends = period.and_then(|line| line.period_end);
    Ok(Pricing {
        effective_at: change.at,
        prorated_amount: invoice.total,
        due_now_amount: invoice.total,
        next_invoice_amount: invoice.lines.iter().filter(full).map(|l| l.amount).sum(),
        next_invoice_at: ends.ok_or_else(|| unexpected("the new period has no line"))?,
        lines: invoice.lines.iter().map(line).collect::<Result<_, _>>()?,
        holds_until: change.subscription.period_end,
        source: Source::Stripe,
        currency: invoice.currency,
    })
}

impl PlanPrices {
    /// Whether a line charges a whole period of the fee or of seats.
    fn is_licensed(&self, line: &InvoiceLine) -> bool {
        let price = line.price_id.as_ref();
        let is_ours =
            price == Some(&self.base) || (price.is_some() && price == self.seats.as_ref());
        !line.proration && is_ours
    }
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
fn metered_prices<'a>(
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

fn total_without(invoice: &Invoice, metered: &HashSet<&str>) -> i64 {
    let usage: i64 = invoice
        .lines
        .iter()
        .filter(|line| {
            line.price_id
                .as_deref()
                .is_some_and(|id| metered.contains(id))
        })
        .map(|line| line.amount)
        .sum();
    invoice.total - usage
}

fn unexpected(what: &'static str) -> Failure {
    Failure::Unexpected(what)
}
