//! The preview by Stripe itself: the invoices that the change would make,
//! asked for with the time that the change then counts from.

use std::collections::HashSet;

use jiff::Timestamp;

use super::{Line, Quote, Source};
use crate::catalogue::{Catalogue, Plan};
use crate::stripe::client::{BILLING_MODE, Client, ErrorKind, Params, StripeError};
use crate::stripe::objects::{Invoice, InvoiceLine};
use crate::subscriptions::failure::Failure;
use crate::subscriptions::prices::PlanPrices;
use crate::subscriptions::state::{Held, Item};
use billing_domain::preview::Settlement;

/// A change of plan in Stripe's words: what the preview and the change send
/// alike, so that they cannot differ.
pub struct Switch<'a> {
    pub held: &'a Held,
    /// The item that the plan is paid by.
    item_id: &'a str,
    prices: &'a PlanPrices,
    /// The subscription has the new price already, beside the plan's: then that
    /// item stays, and the other goes. Stripe takes no price twice.
    base_is_there: bool,
    others: Vec<Other<'a>>,
    pub settlement: Settlement,
    /// The time that proration counts from.
    pub at: Timestamp,
    /// Another interval restarts the period.
    restarts: bool,
}

/// What becomes of an item beside the plan's. Usage so far goes with the item
/// that charges it: it is counted by the meter, for the period.
#[derive(Debug, PartialEq, Eq)]
enum Other<'a> {
    Replaced { item_id: &'a str, price_id: &'a str },
    Added { price_id: &'a str },
    Removed { item_id: &'a str },
}

/// What becomes of the items that charge usage, and of fees of other plans.
/// Items that have the right price already stay as they are, whichever plan was
/// theirs: somebody may have changed the fee alone, in Stripe.
fn others<'a>(
    held: &'a Held,
    catalogue: &'a Catalogue,
    base: &'a Item,
    prices: &'a PlanPrices,
) -> Vec<Other<'a>> {
    let mut others = Vec::new();
    for metric in catalogue.metrics().keys() {
        let new = prices.metered.get(metric).map(String::as_str);
        let mut old = held.metered_items(catalogue, metric);
        let kept = new.and_then(|price| {
            let has_it = |item: &&Item| item.price_id.as_deref() == Some(price);
            old.iter().position(has_it).or_else(|| {
                // It may be there without a key by which we would know it.
                let mut items = held.items.iter();
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
    // One plan is paid for, by one fee.
    let fees = held.items.iter().filter(|item| {
        let plan = catalogue.plan_of_price(item.lookup_key.as_deref(), item.price_id.as_deref());
        item.id != base.id && !item.metered && plan.is_some()
    });
    let fees = fees.filter(|item| item.price_id.as_ref() != Some(&prices.base));
    others.extend(fees.map(|item| Other::Removed { item_id: &item.id }));
    others
}

impl<'a> Switch<'a> {
    /// None where the subscription has no item of the catalogue.
    pub fn new(
        held: &'a Held,
        catalogue: &'a Catalogue,
        plan: &'a Plan,
        prices: &'a PlanPrices,
        at: Timestamp,
    ) -> Option<Self> {
        let (item, current) = held.base_item(catalogue)?;
        let others = others(held, catalogue, item, prices);
        let changes_interval = item.cadence() != Some(plan.price.interval.cadence());
        Some(Self {
            held,
            item_id: &item.id,
            base_is_there: held
                .items
                .iter()
                .any(|other| other.id != item.id && other.price_id.as_ref() == Some(&prices.base)),
            prices,
            others,
            settlement: catalogue.settlement(&current.tier, &plan.tier),
            at,
            restarts: changes_interval && !held.on_trial(),
        })
    }

    /// Under `prefix`, such as `subscription_details[items]…`; empty for the
    /// change itself.
    pub fn parameters(&self, prefix: &str, settlement: Settlement) -> Params {
        let name = |name: &str| match (prefix, name.split_once('[')) {
            ("", _) => name.to_owned(),
            (prefix, Some((first, rest))) => format!("{prefix}[{first}][{rest}"),
            (prefix, None) => format!("{prefix}[{name}]"),
        };
        let behavior = match settlement {
            Settlement::Now => "always_invoice",
            Settlement::WithRenewal => "create_prorations",
            Settlement::Never => "none",
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
                Other::Replaced { item_id, price_id } => {
                    params.set(name("id"), item_id).set(name("price"), price_id)
                }
                Other::Added { price_id } => params.set(name("price"), price_id),
                Other::Removed { item_id } => {
                    params.set(name("id"), item_id).set(name("deleted"), true)
                }
            };
        }
        // A trial has nothing to prorate.
        if !self.held.on_trial() {
            params = params.set(name("proration_date"), self.at.as_second());
        }
        if self.restarts {
            params = params.set(name("billing_cycle_anchor"), "now");
        }
        // Who chooses a plan wants to keep it.
        if self.held.cancel_at_period_end {
            params = params.set(name("cancel_at_period_end"), false);
        } else if self.held.cancel_at.is_some() {
            params = params.set(name("cancel_at"), "");
        }
        params
    }
}

/// The items of a new subscription: its fee, and its usage.
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
) -> Result<Quote, Failure> {
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
    Ok(Quote {
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
pub async fn of_switch(client: &Client, change: &Switch<'_>) -> Result<Quote, Failure> {
    let ask_with = async |settlement| {
        let params = change.parameters("subscription_details", settlement);
        let params = params.set("subscription", &change.held.id);
        ask(client, &params).await
    };
    if change.restarts {
        return restarted(change, ask_with(Settlement::Now).await?);
    }
    let waiting = ask_with(Settlement::WithRenewal).await?;
    let mut quote = with_renewal(change, &waiting)?;
    // Without proration there is nothing to be invoiced at once.
    if change.settlement == Settlement::Now && !quote.lines.is_empty() {
        let now = ask_with(Settlement::Now).await?;
        quote.lines = now.lines.iter().map(line).collect::<Result<_, _>>()?;
        quote.prorated_amount = now.total;
        quote.due_now_amount = now.total;
        quote.next_invoice_amount -= now.total;
    }
    Ok(quote)
}

/// The end with the period: what is left to be invoiced then.
pub async fn of_end(client: &Client, held: &Held, quote: Quote) -> Result<Quote, Failure> {
    let params = Params::new()
        .set("subscription", &held.id)
        .set("subscription_details[cancel_at_period_end]", true);
    let last = match client.preview_invoice(&params).await {
        Ok(invoice) => Some(Invoice::read(&invoice.0)?),
        Err(error) if is_none_upcoming(&error) => None,
        Err(error) => return Err(Failure::Stripe(error)),
    };
    let metered = metered_prices(held, None);
    let left = last.map_or(0, |last| total_without(&last, &metered));
    Ok(Quote {
        next_invoice_amount: left,
        source: Source::Stripe,
        ..quote
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
            Failure::Stale("the billing period is another one")
        } else {
            Failure::Stripe(error)
        }
    })?;
    Ok(Invoice::read(&invoice.0)?)
}

/// The change waits for the renewal.
fn with_renewal(change: &Switch<'_>, invoice: &Invoice) -> Result<Quote, Failure> {
    let metered = metered_prices(change.held, Some(change.prices));
    let is_new = |line: &&InvoiceLine| line.proration && line.period_start == Some(change.at);
    let renewal = invoice
        .lines
        .iter()
        .find(|line| !line.proration && line.price_id.as_ref() == Some(&change.prices.base));
    let renews_at = renewal.and_then(|line| line.period_start);
    let next_invoice_at = renews_at
        .or(change.held.period_end)
        .ok_or_else(|| unexpected("the next invoice has no date"))?;
    let lines: Vec<Line> = invoice
        .lines
        .iter()
        .filter(is_new)
        .map(line)
        .collect::<Result<_, _>>()?;
    Ok(Quote {
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

/// The change restarts the period: all of it is due at once.
fn restarted(change: &Switch<'_>, invoice: Invoice) -> Result<Quote, Failure> {
    let full = |line: &&InvoiceLine| {
        !line.proration && line.price_id.as_ref() == Some(&change.prices.base)
    };
    let period = invoice.lines.iter().find(full);
    let ends = period.and_then(|line| line.period_end);
    Ok(Quote {
        effective_at: change.at,
        prorated_amount: invoice.total,
        due_now_amount: invoice.total,
        next_invoice_amount: invoice.lines.iter().filter(full).map(|l| l.amount).sum(),
        next_invoice_at: ends.ok_or_else(|| unexpected("the new period has no line"))?,
        lines: invoice.lines.iter().map(line).collect::<Result<_, _>>()?,
        holds_until: change.held.period_end,
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

/// What has been used is charged with the period's end, and is not known before.
fn metered_prices<'a>(held: &'a Held, next: Option<&'a PlanPrices>) -> HashSet<&'a str> {
    let items = held.items.iter().filter(|item| item.metered);
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
