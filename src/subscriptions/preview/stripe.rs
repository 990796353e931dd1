//! Has Stripe price a new subscription, an end, or a promotion code that is redeemed:
//! previews the invoices that they would create.

use jiff::Timestamp;

use super::usage_lines::UsagePrices;
use super::{Line, Pricing, Source, Totals, later};
use crate::catalogue::{Catalogue, Plan};
use crate::stripe::client::{Client, ErrorKind, FLEXIBLE, Params, StripeError};
use crate::stripe::objects::{Invoice, InvoiceLine};
use crate::subscriptions::change::ending::with_period;
use crate::subscriptions::extras::{Extras, Remaining};
use crate::subscriptions::failure::Failure;
use crate::subscriptions::prices::PlanPrices;
use crate::subscriptions::selection::Quantities;
use crate::subscriptions::state::SubscriptionRow;
use billing_domain::period::Cadence;

/// The items of a new subscription: its fee, its seats, its add-ons and its metered prices.
pub fn items_of(prices: &PlanPrices, quantities: Quantities, params: Params, name: &str) -> Params {
    let seats = quantities.beside.filter(|quantity| *quantity > 0);
    let seats = prices.seats.as_ref().zip(seats);
    let seats = seats.map(|(price, quantity)| (price, Some(quantity)));
    let metered = prices.metered.values().map(|price| (price, None));
    let addons = prices.addons.iter();
    let addons = addons.map(|addon| (&addon.price_id, Some(addon.quantity.into())));
    let items = std::iter::once((&prices.base, quantities.fee))
        .chain(seats)
        .chain(addons)
        .chain(metered);
    items
        .enumerate()
        .fold(params, |params, (n, (price, quantity))| {
            params
                .set(format!("{name}[{n}][price]"), price)
                .set_if(&format!("{name}[{n}][quantity]"), quantity)
        })
}

/// A subscription that is to begin.
pub struct New<'a> {
    /// `None` for somebody whom Stripe does not know yet.
    pub customer_id: Option<&'a str>,
    pub plan: &'a Plan,
    pub prices: &'a PlanPrices,
    pub quantities: Quantities,
}

/// What a new subscription would cost.
pub async fn of_creation(
    client: &Client,
    catalogue: &Catalogue,
    new: New<'_>,
    extras: &Extras,
) -> Result<Pricing, Failure> {
    let prices = new.prices;
    let mode = prices.billing_mode(new.plan);
    let params = Params::new()
        .set_if("customer", new.customer_id)
        .set("subscription_details[billing_mode][type]", mode);
    let details = "subscription_details[items]";
    let params = items_of(prices, new.quantities, extras.tax(params), details);
    let first = ask(client, &extras.redeem(params.clone())).await?;
    let fee = fees(&first, prices).next();
    let period = fee.and_then(|line| Some((line.period_start?, line.period_end?)));
    let Some((starts, ends)) = period else {
        return Err(unexpected("the first invoice has no line of the plan"));
    };
    let (next_totals, next_invoice_at) = match extras.remaining(&first, starts, ends) {
        _ if mode == FLEXIBLE => (Totals::default(), month_after(starts)?),
        Remaining::All => (Totals::of(fees(&first, prices))?, ends),
        remaining => {
            let next = ask(client, &remaining.apply(params)).await?;
            (Totals::of(fees(&next, prices))?, ends)
        }
    };
    let usage = UsagePrices::of(None, Some(prices), catalogue);
    Ok(Pricing {
        currency: new.plan.price.currency.to_ascii_lowercase(),
        effective_at: starts,
        prorated_amount: first.total,
        due_now_amount: first.total,
        next_invoice_amount: next_totals.total_amount,
        next_invoice_at,
        lines: usage.shown(&first.lines)?,
        usage: Vec::new(),
        totals: Totals::of_invoice(&first),
        next_totals,
        holds_until: None,
        source: Source::Stripe,
    })
}

/// When the next invoice comes in a period that begins at `starts`, where usage is charged
/// by the month beside a fee by the year: it is that of the first month's usage, and charges
/// nothing in advance.
pub fn month_after(starts: Timestamp) -> Result<Timestamp, Failure> {
    let month = Cadence::MONTHLY.boundary(starts.as_second(), 1).ok();
    month
        .and_then(|secs| Timestamp::from_second(secs).ok())
        .ok_or_else(|| unexpected("a month is out of range"))
}

/// The lines of a whole period of the plan's fee, of its seats and add-ons.
pub fn fees<'a>(
    invoice: &'a Invoice,
    prices: &PlanPrices,
) -> impl Iterator<Item = &'a InvoiceLine> {
    let lines = invoice.lines.iter();
    lines.filter(|line| !line.proration && prices.are_licensed(line.price_id.as_deref()))
}

impl PlanPrices {
    /// Whether a price is the fee's, the seats' or an add-on's.
    fn are_licensed(&self, price: Option<&str>) -> bool {
        let is_addon = |price: &str| self.addons.iter().any(|addon| addon.price_id == price);
        price.is_some_and(|price| {
            price == self.base || Some(price) == self.seats.as_deref() || is_addon(price)
        })
    }
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
        .or_else(|| subscription.invoiced_at(at))
        .ok_or_else(|| unexpected("the next invoice has no date"))?;
    let next_totals = without(&next, |line| usage.charge(line))?;
    Ok(Pricing {
        currency: next.currency,
        effective_at: at,
        prorated_amount: 0,
        due_now_amount: 0,
        next_invoice_amount: next_totals.total_amount,
        next_invoice_at,
        lines: Vec::new(),
        usage: Vec::new(),
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
    let scheduled = subscription.schedule_id.is_some();
    // Stripe lets only the schedule set an end.
    let params = match scheduled {
        true => Params::new(),
        false => with_period(subscription, "subscription_details"),
    };
    let params = params.set("subscription", &subscription.id);
    let last = match client.preview_invoice(&params).await {
        Ok(invoice) => Some(Invoice::read(&invoice.0)?),
        Err(error) if is_none_upcoming(&error) => None,
        Err(error) => return Err(Failure::Stripe(error)),
    };
    let usage = UsagePrices::of(Some(subscription), None, catalogue);
    let goes_on = |line: &InvoiceLine| usage.charge(line);
    let left = match &last {
        _ if scheduled => later::besides_renewal(subscription, goes_on, last.as_ref())?,
        Some(last) => without(last, goes_on)?,
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

/// The invoice without the lines of usage that goes on.
pub fn without(
    invoice: &Invoice,
    goes_on: impl Fn(&InvoiceLine) -> bool,
) -> Result<Totals, Failure> {
    let usage = invoice.lines.iter().filter(|line| goes_on(line));
    Ok(Totals::of_invoice(invoice).less(Totals::of(usage)?))
}

/// The lines of what the renewal charges in advance.
pub fn in_advance<'a>(
    invoice: &'a Invoice,
    usage: &UsagePrices<'_>,
) -> impl Iterator<Item = &'a InvoiceLine> {
    let lines = invoice.lines.iter();
    lines.filter(|line| is_in_advance(line, usage))
}

/// Whether a line charges what the renewal charges in advance.
pub fn is_in_advance(line: &InvoiceLine, usage: &UsagePrices<'_>) -> bool {
    !line.proration && line.subscription_item_id.is_some() && !usage.charge(line)
}

pub fn unexpected(what: &'static str) -> Failure {
    Failure::Unexpected(what)
}
