//! The price of a change at the period's end: nothing now, and another next invoice.

use jiff::Timestamp;

use super::stripe::{ask, has_price, is_none_upcoming, metered_prices, total_without};
use super::switch::Switch;
use super::{PreviewUnavailable, Pricing, Source};
use crate::stripe::client::{Client, Params};
use crate::stripe::objects::{Invoice, InvoiceLine};
use crate::subscriptions::failure::Failure;
use crate::subscriptions::state::SubscriptionRow;
use billing_domain::preview::ProrationBehavior;

/// What `change` would cost with the next invoice, as Stripe computes it.
pub async fn of_switch(client: &Client, change: &Switch<'_>) -> Result<Pricing, Failure> {
    let subscription = change.subscription;
    let params = Params::new().set("subscription", &subscription.id);
    let next_invoice_amount = if change.changes_interval || subscription.schedule_id.is_some() {
        // Stripe previews neither another interval from the next period on, nor what
        // follows without a schedule.
        let upcoming = match client.preview_invoice(&params).await {
            Ok(invoice) => Some(Invoice::read(&invoice.0)?),
            Err(error) if is_none_upcoming(&error) => None,
            Err(error) => return Err(Failure::Stripe(error)),
        };
        renewed(change, upcoming.as_ref())?
    } else {
        let details = change.parameters("subscription_details", ProrationBehavior::None);
        let invoice = ask(client, &details.set("subscription", &subscription.id)).await?;
        let metered = metered_prices(subscription, Some(change.prices));
        total_without(&invoice, |line| has_price(line, &metered))
    };
    let currency = subscription.currency.clone();
    Ok(Pricing {
        currency: currency.unwrap_or_else(|| change.currency.to_ascii_lowercase()),
        ..at_period_end(change.at, next_invoice_amount, Source::Stripe)
    })
}

/// A price of which only the next invoice is known.
pub fn at_period_end(at: Timestamp, next_invoice_amount: i64, source: Source) -> Pricing {
    Pricing {
        currency: String::new(),
        effective_at: at,
        prorated_amount: 0,
        due_now_amount: 0,
        next_invoice_amount,
        next_invoice_at: at,
        lines: Vec::new(),
        usage: Vec::new(),
        holds_until: None,
        source,
    }
}

/// What `upcoming` has besides the renewal and usage that goes on.
pub fn besides_renewal(
    subscription: &SubscriptionRow,
    goes_on: impl Fn(&InvoiceLine) -> bool,
    upcoming: Option<&Invoice>,
) -> Result<i64, Failure> {
    check_priced(subscription)?;
    let Some(invoice) = upcoming else {
        return Ok(0);
    };
    // Usage that waits to be charged has a price of its own and no item, or an item and a
    // period that is over by then.
    let is_next = |line: &InvoiceLine| line.period_end > subscription.period_end;
    let renewal = invoice
        .lines
        .iter()
        .filter(|line| !line.proration && line.subscription_item_id.is_some() && is_next(line));
    let total = total_without(invoice, goes_on);
    Ok(total - renewal.map(|line| line.amount).sum::<i64>())
}

/// Discounts and taxes are computed of all lines, and some are not known.
fn check_priced(subscription: &SubscriptionRow) -> Result<(), Failure> {
    let why = match (subscription.discounted, subscription.taxed) {
        (true, _) => "has a discount",
        (_, true) => "is taxed",
        _ => return Ok(()),
    };
    Err(PreviewUnavailable::not_priced(subscription, why).into())
}

/// The next invoice where a pending change costs `more` as its seats follow `change`.
pub fn following(change: &Switch<'_>, next_invoice: i64, more: i64) -> Result<i64, Failure> {
    check_priced(change.subscription)?;
    Ok(next_invoice.saturating_add(more))
}

/// The next invoice once `change` is made: what `upcoming` has besides the renewal, and
/// the renewal with the items after the change.
pub fn renewed(change: &Switch<'_>, upcoming: Option<&Invoice>) -> Result<i64, Failure> {
    let metered = metered_prices(change.subscription, Some(change.prices));
    let goes_on = |line: &InvoiceLine| has_price(line, &metered) && !change.is_accrued(line);
    let mut total = besides_renewal(change.subscription, goes_on, upcoming)?;
    let unknown = |why| Failure::from(PreviewUnavailable::not_priced(change.subscription, why));
    for item in change.items_after() {
        let Some(quantity) = item.quantity else {
            continue;
        };
        let unit = item.unit_amount;
        let unit = unit.ok_or_else(|| unknown("has a price that is no whole amount"))?;
        let amount = unit.checked_mul(quantity);
        let sum = amount.and_then(|amount| total.checked_add(amount));
        total = sum.ok_or_else(|| PreviewUnavailable::OutOfRange("the next invoice".to_owned()))?;
    }
    Ok(total)
}
