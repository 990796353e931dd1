//! Has Stripe price a change: previews the invoices that the change would
//! create, as of the time that the change will use for proration.

use jiff::Timestamp;

use super::usage_lines::UsagePrices;
use super::{Line, Pricing, Source, Totals};
use crate::catalogue::{Catalogue, Plan};
use crate::stripe::client::{BILLING_MODE, Client, ErrorKind, Params, StripeError};
use crate::stripe::objects::{Invoice, InvoiceLine};
use crate::subscriptions::extras::{Extras, Remaining};
use crate::subscriptions::failure::Failure;
use crate::subscriptions::prices::PlanPrices;
use crate::subscriptions::state::{Item, SubscriptionRow};
use billing_domain::preview::ProrationBehavior;

/// A change of plan as parameters for Stripe. Preview and change send the same
/// ones, so that their amounts cannot differ.
pub struct Switch<'a> {
    pub subscription: &'a SubscriptionRow,
    catalogue: &'a Catalogue,
    /// The item that pays for the plan.
    item_id: &'a str,
    prices: &'a PlanPrices,
    /// Whether another item has the new price already. That item then stays and
    /// this one is removed, since Stripe accepts no price twice.
    base_is_there: bool,
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
    Replaced { item_id: &'a str, price_id: &'a str },
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
            catalogue,
            item_id: &item.id,
            base_is_there: subscription
                .items
                .iter()
                .any(|other| other.id != item.id && other.price_id.as_ref() == Some(&prices.base)),
            prices,
            others,
            proration_behavior: catalogue.proration_behavior(&current.tier, &plan.tier),
            at,
            restarts: changes_interval && !subscription.on_trial(),
        })
    }

    fn usage_prices(&self) -> UsagePrices<'_> {
        UsagePrices::of(Some(self.subscription), Some(self.prices), self.catalogue)
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
        if !self.subscription.on_trial() {
            params = params.set(name("proration_date"), self.at.as_second());
        }
        if self.restarts {
            params = params.set(name("billing_cycle_anchor"), "now");
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

/// What a new subscription would cost: of `customer`, or of somebody whom Stripe does
/// not know yet.
pub async fn of_creation(
    client: &Client,
    catalogue: &Catalogue,
    customer: Option<&str>,
    plan: &Plan,
    prices: &PlanPrices,
    extras: &Extras,
) -> Result<Pricing, Failure> {
    let params = Params::new()
        .set_if("customer", customer)
        .set("subscription_details[billing_mode][type]", BILLING_MODE);
    let params = items_of(prices, extras.tax(params), "subscription_details[items]");
    let first = ask(client, &extras.redeem(params.clone())).await?;
    let fee = fees(&first, prices).next();
    let period = fee.and_then(|line| Some((line.period_start?, line.period_end?)));
    let Some((starts, ends)) = period else {
        return Err(unexpected("the first invoice has no line of the plan"));
    };
    let next_totals = match extras.remaining(&first, starts, ends) {
        Remaining::All => Totals::of(fees(&first, prices))?,
        remaining => {
            let next = ask(client, &remaining.apply(params)).await?;
            Totals::of(fees(&next, prices))?
        }
    };
    let usage = UsagePrices::of(None, Some(prices), catalogue);
    Ok(Pricing {
        currency: plan.price.currency.to_ascii_lowercase(),
        effective_at: starts,
        prorated_amount: first.total,
        due_now_amount: first.total,
        next_invoice_amount: next_totals.total_amount,
        next_invoice_at: ends,
        lines: usage.shown(&first.lines)?,
        totals: Totals::of_invoice(&first),
        next_totals,
        holds_until: None,
        source: Source::Stripe,
    })
}

/// The lines of a whole period of the plan's fee.
fn fees<'a>(invoice: &'a Invoice, prices: &PlanPrices) -> impl Iterator<Item = &'a InvoiceLine> {
    let lines = invoice.lines.iter();
    lines.filter(|line| !line.proration && line.price_id.as_ref() == Some(&prices.base))
}

/// What a change of plan would cost.
pub async fn of_switch(
    client: &Client,
    change: &Switch<'_>,
    extras: &Extras,
) -> Result<Pricing, Failure> {
    use ProrationBehavior::{AlwaysInvoice, CreateProrations};
    let all = &Remaining::All;
    if change.restarts {
        let now = ask_about(client, change, extras, AlwaysInvoice, all).await?;
        let (full, ends) = full_period(change, &now)?;
        let next_totals = match extras.remaining(&now, change.at, ends) {
            Remaining::All => full,
            remaining => {
                let next = ask_about(client, change, extras, AlwaysInvoice, &remaining).await?;
                full_period(change, &next)?.0
            }
        };
        return restarted(change, &now, next_totals, ends);
    }
    let waiting = ask_about(client, change, extras, CreateProrations, all).await?;
    let mut pricing = with_renewal(change, &waiting)?;
    // Without proration lines, nothing is invoiced at once.
    if change.proration_behavior == AlwaysInvoice && !pricing.lines.is_empty() {
        let now = ask_about(client, change, extras, AlwaysInvoice, all).await?;
        pricing.lines = change.usage_prices().shown(&now.lines)?;
        pricing.totals = Totals::of_invoice(&now);
        pricing.prorated_amount = now.total;
        pricing.due_now_amount = now.total;
        pricing.next_totals = if extras.plays_a_part() {
            // The invoice may use a discount up, so that the renewal has less.
            let remaining = extras.remaining(&now, change.at, pricing.next_invoice_at);
            let renewal =
                ask_about(client, change, extras, ProrationBehavior::None, &remaining).await?;
            Totals::of(in_advance(&renewal, &change.usage_prices()))?
        } else {
            pricing.next_totals.less(pricing.totals)
        };
        pricing.next_invoice_amount = pricing.next_totals.total_amount;
    }
    pricing
        .lines
        .retain(|line| !line.proration || !line.is_nothing());
    Ok(pricing)
}

/// The invoice of a change, with the discounts that it has or those that remain.
async fn ask_about(
    client: &Client,
    change: &Switch<'_>,
    extras: &Extras,
    proration_behavior: ProrationBehavior,
    remaining: &Remaining,
) -> Result<Invoice, Failure> {
    let params = change.parameters("subscription_details", proration_behavior);
    let params = params.set("subscription", &change.subscription.id);
    let params = match remaining {
        Remaining::All => extras.redeem(params),
        remaining => remaining.apply(params),
    };
    ask(client, &params).await
}

/// What keeping the plan would cost with a promotion code.
pub async fn of_redemption(
    client: &Client,
    catalogue: &Catalogue,
    subscription: &SubscriptionRow,
    at: Timestamp,
    extras: &Extras,
) -> Result<Pricing, Failure> {
    let params = Params::new().set("subscription", &subscription.id);
    let next = ask(client, &extras.redeem(params)).await?;
    let usage = UsagePrices::of(Some(subscription), None, catalogue);
    let renewal = in_advance(&next, &usage).find_map(|line| line.period_start);
    let next_invoice_at = renewal
        .or(subscription.period_end)
        .ok_or_else(|| unexpected("the next invoice has no date"))?;
    let next_totals = without_usage(&next, &usage)?;
    Ok(Pricing {
        currency: next.currency,
        effective_at: at,
        prorated_amount: 0,
        due_now_amount: 0,
        next_invoice_amount: next_totals.total_amount,
        next_invoice_at,
        lines: Vec::new(),
        totals: Totals::default(),
        next_totals,
        holds_until: Some(next_invoice_at),
        source: Source::Stripe,
    })
}

/// The end of a subscription with its period: what the last invoice charges.
pub async fn of_end(
    client: &Client,
    catalogue: &Catalogue,
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
    let usage = UsagePrices::of(Some(subscription), None, catalogue);
    let left = match last {
        Some(last) => without_usage(&last, &usage)?,
        None => Totals::default(),
    };
    Ok(Pricing {
        next_invoice_amount: left.total_amount,
        next_totals: left,
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
    let totals = Totals::shown(&lines)?;
    let next_totals = without_usage(invoice, &change.usage_prices())?;
    Ok(Pricing {
        currency: invoice.currency.clone(),
        effective_at: change.at,
        prorated_amount: totals.total_amount,
        due_now_amount: 0,
        next_invoice_amount: next_totals.total_amount,
        next_invoice_at,
        lines,
        totals,
        next_totals,
        holds_until: Some(next_invoice_at),
        source: Source::Stripe,
    })
}

/// What a whole period of the plan comes to on an invoice, and when the period ends.
fn full_period(change: &Switch<'_>, invoice: &Invoice) -> Result<(Totals, Timestamp), Failure> {
    let ends = fees(invoice, change.prices)
        .next()
        .and_then(|line| line.period_end);
    let ends = ends.ok_or_else(|| unexpected("the new period has no line"))?;
    Ok((Totals::of(fees(invoice, change.prices))?, ends))
}

/// The price of a change that restarts the period: all of it is due at once.
fn restarted(
    change: &Switch<'_>,
    invoice: &Invoice,
    next_totals: Totals,
    ends: Timestamp,
) -> Result<Pricing, Failure> {
    Ok(Pricing {
        effective_at: change.at,
        prorated_amount: invoice.total,
        due_now_amount: invoice.total,
        next_invoice_amount: next_totals.total_amount,
        next_invoice_at: ends,
        lines: change.usage_prices().shown(&invoice.lines)?,
        totals: Totals::of_invoice(invoice),
        next_totals,
        holds_until: change.subscription.period_end,
        source: Source::Stripe,
        currency: invoice.currency.clone(),
    })
}

pub fn line(line: &InvoiceLine) -> Result<Line, Failure> {
    let (Some(period_start), Some(period_end)) = (line.period_start, line.period_end) else {
        return Err(unexpected("a line has no period"));
    };
    Ok(Line {
        description: line.description.clone().unwrap_or_default(),
        amount: line.amount,
        discount_amount: line.discount,
        tax_amount: line.tax,
        included_tax_amount: line.included_tax,
        period_start,
        period_end,
        proration: line.proration,
    })
}

fn without_usage(invoice: &Invoice, usage: &UsagePrices<'_>) -> Result<Totals, Failure> {
    let usage = invoice.lines.iter().filter(|line| usage.charge(line));
    Ok(Totals::of_invoice(invoice).less(Totals::of(usage)?))
}

/// The lines of what the renewal charges in advance.
fn in_advance<'a>(
    invoice: &'a Invoice,
    usage: &UsagePrices<'_>,
) -> impl Iterator<Item = &'a InvoiceLine> {
    let lines = invoice.lines.iter();
    lines.filter(|line| {
        !line.proration && line.subscription_item_id.is_some() && !usage.charge(line)
    })
}

fn unexpected(what: &'static str) -> Failure {
    Failure::Unexpected(what)
}
