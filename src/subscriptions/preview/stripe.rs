//! Has Stripe price a change: previews the invoices that the change would
//! create, as of the time that the change will use for proration.

use std::collections::HashSet;

use jiff::Timestamp;

use super::switch::Switch;
use super::{Line, Pricing, Source, later};
use crate::catalogue::Plan;
use crate::stripe::client::{BILLING_MODE, Client, ErrorKind, Params, StripeError};
use crate::stripe::objects::{Invoice, InvoiceLine};
use crate::subscriptions::failure::Failure;
use crate::subscriptions::prices::PlanPrices;
use crate::subscriptions::selection::Quantities;
use crate::subscriptions::state::SubscriptionRow;
use crate::subscriptions::usage_charges::BillableUsage;
use billing_domain::preview::ProrationBehavior;

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
    if let Some(more) = change.more_later {
        pricing.next_invoice_amount = later::following(change, pricing.next_invoice_amount, more)?;
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
        _ if scheduled => later::besides_renewal(subscription, is_usage, last.as_ref())?,
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
    let full = |line: &&InvoiceLine| change.prices.is_licensed(line);
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

impl Switch<'_> {
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
    fn charge_of(&self, line: &InvoiceLine) -> Option<&BillableUsage> {
        let is_item = line.subscription_item_id.is_none() && !line.proration;
        self.usage
            .iter()
            .filter(|_| is_item && line.period_end == Some(self.at))
            .find(|usage| usage.is_line(line))
    }

    /// The lines as a preview shows them: usage says what it is.
    fn lines<'l>(
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

fn unexpected(what: &'static str) -> Failure {
    Failure::Unexpected(what)
}
