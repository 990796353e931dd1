//! The price of a change at the period's end: nothing now, and another next invoice.

use jiff::Timestamp;

use super::stripe::{is_none_upcoming, without};
use super::switch::Switch;
use super::switched::ask_about;
use super::usage_lines::UsagePrices;
use super::{PreviewUnavailable, Pricing, Source, Totals};
use crate::stripe::client::{Client, Params};
use crate::stripe::objects::{Invoice, InvoiceLine};
use crate::subscriptions::extras::Extras;
use crate::subscriptions::failure::Failure;
use billing_domain::preview::ProrationBehavior;

/// What `change` would cost with the next invoice, as Stripe computes it.
pub async fn of_switch(
    client: &Client,
    change: &Switch<'_>,
    extras: &Extras,
) -> Result<Pricing, Failure> {
    let subscription = change.subscription;
    let reduced = check_plain(change, extras).is_err();
    let scheduled = subscription.schedule_id.is_some();
    let next_totals = if scheduled || (change.changes_interval && !reduced) {
        // Stripe previews neither another interval from the next period on, nor what
        // follows without a schedule.
        let params = Params::new().set("subscription", &subscription.id);
        let upcoming = match client.preview_invoice(&params).await {
            Ok(invoice) => Some(Invoice::read(&invoice.0)?),
            Err(error) if is_none_upcoming(&error) => None,
            Err(error) => return Err(Failure::Stripe(error)),
        };
        renewed(change, extras, upcoming.as_ref())?
    } else {
        let remaining = extras.remaining_at(change.at);
        let none = ProrationBehavior::None;
        let invoice = ask_about(client, change, extras, none, &remaining).await?;
        let usage = change.usage_prices();
        without(&invoice, |line| usage.charge(line))?
    };
    let currency = subscription.currency.clone();
    Ok(Pricing {
        currency: currency.unwrap_or_else(|| change.currency.to_ascii_lowercase()),
        ..at_period_end(change.at, next_totals, Source::Stripe)
    })
}

/// A price of which only the next invoice is known.
pub fn at_period_end(at: Timestamp, next_totals: Totals, source: Source) -> Pricing {
    Pricing {
        currency: String::new(),
        effective_at: at,
        prorated_amount: 0,
        due_now_amount: 0,
        next_invoice_amount: next_totals.total_amount,
        next_invoice_at: at,
        lines: Vec::new(),
        usage: Vec::new(),
        totals: Totals::default(),
        next_totals,
        holds_until: None,
        source,
    }
}

/// Refuses what is computed of all lines of an invoice, where these are only added up.
fn check_plain(change: &Switch<'_>, extras: &Extras) -> Result<(), PreviewUnavailable> {
    use PreviewUnavailable::NotPriced;
    if extras.redemption.is_some() {
        return Err(NotPriced("would redeem a promotion code"));
    }
    if change.subscription.discounted || extras.plays_a_part() {
        return Err(NotPriced("has a discount"));
    }
    if change.subscription.taxed {
        return Err(NotPriced("is taxed"));
    }
    Ok(())
}

/// What `upcoming` has besides the renewal and usage.
pub fn besides_renewal(
    usage: &UsagePrices<'_>,
    upcoming: Option<&Invoice>,
) -> Result<Totals, Failure> {
    let Some(invoice) = upcoming else {
        return Ok(Totals::default());
    };
    let renews = |line: &InvoiceLine| !line.proration && line.subscription_item_id.is_some();
    let left = without(invoice, |line| usage.charge(line) || renews(line))?;
    // The renewal takes part in it.
    if left.discount_amount != 0 {
        return Err(PreviewUnavailable::NotPriced("has a discount").into());
    }
    Ok(left)
}

/// The next invoice where a pending change costs `more` as its seats follow `change`.
pub fn following(
    change: &Switch<'_>,
    extras: &Extras,
    next_invoice: Totals,
    more: i64,
) -> Result<Totals, Failure> {
    check_plain(change, extras)?;
    Ok(Totals::plain(
        next_invoice.total_amount.saturating_add(more),
    ))
}

/// The next invoice once `change` is made: what `upcoming` has besides the renewal, and
/// the renewal with the items after the change.
pub fn renewed(
    change: &Switch<'_>,
    extras: &Extras,
    upcoming: Option<&Invoice>,
) -> Result<Totals, Failure> {
    check_plain(change, extras)?;
    let mut total = besides_renewal(&change.usage_prices(), upcoming)?.total_amount;
    let unknown = |why| Failure::from(PreviewUnavailable::NotPriced(why));
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
    Ok(Totals::plain(total))
}
