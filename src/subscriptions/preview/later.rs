//! The price of a change at the period's end: nothing now, and another next invoice.

use jiff::Timestamp;

use super::stripe::{is_none_upcoming, without};
use super::switch::Switch;
use super::switched::ask_about;
use super::{PreviewUnavailable, Pricing, Source, Totals};
use crate::stripe::client::{Client, Params};
use crate::stripe::objects::{Invoice, InvoiceLine};
use crate::subscriptions::extras::Extras;
use crate::subscriptions::failure::Failure;
use crate::subscriptions::state::SubscriptionRow;
use billing_domain::preview::ProrationBehavior;

/// What `change` would cost with the next invoice, as Stripe computes it. A code that it
/// redeems would end at `code_ends`, redeemed now.
pub async fn of_switch(
    client: &Client,
    change: &Switch<'_>,
    extras: &Extras,
    code_ends: Option<Timestamp>,
) -> Result<Pricing, Failure> {
    let subscription = change.subscription;
    let reduced = check_plain(change, extras).is_err();
    let scheduled = subscription.schedule_id.is_some();
    let is_mixed = subscription.mixes_intervals();
    let other_intervals = change.changes_interval || change.mixes || is_mixed;
    // Where usage is charged by the month, invoices of it come before the renewal, and may
    // use discounts up.
    let renewal = match scheduled || is_mixed || (other_intervals && !reduced) {
        true => upcoming(client, subscription).await?,
        false => None,
    };
    let renewal = renewal.filter(|invoice| change.renews(invoice));
    let is_far = is_mixed && renewal.is_none();
    let next_totals = if scheduled || is_far || (other_intervals && !reduced) {
        // Stripe previews neither another interval from the next period on, nor what
        // follows without a schedule.
        renewed(change, extras, renewal.as_ref())?
    } else {
        let ends_before = code_ends.filter(|end| *end <= change.at);
        if let Some(end) = ends_before.filter(|_| !change.is_previewed_anew()) {
            return Err(PreviewUnavailable::CodeEndsBefore(end).into());
        }
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

async fn upcoming(
    client: &Client,
    subscription: &SubscriptionRow,
) -> Result<Option<Invoice>, Failure> {
    let params = Params::new().set("subscription", &subscription.id);
    match client.preview_invoice(&params).await {
        Ok(invoice) => Ok(Some(Invoice::read(&invoice.0)?)),
        Err(error) if is_none_upcoming(&error) => Ok(None),
        Err(error) => Err(Failure::Stripe(error)),
    }
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
    let why = if extras.redemption.is_some() {
        "would redeem a promotion code"
    } else if change.subscription.discounted || extras.plays_a_part() {
        "has a discount"
    } else if change.subscription.taxed {
        "is taxed"
    } else {
        return Ok(());
    };
    Err(PreviewUnavailable::not_priced(change.subscription, why))
}

/// What `upcoming` has besides the renewal and usage that goes on.
pub fn besides_renewal(
    subscription: &SubscriptionRow,
    goes_on: impl Fn(&InvoiceLine) -> bool,
    upcoming: Option<&Invoice>,
) -> Result<Totals, Failure> {
    let Some(invoice) = upcoming else {
        return Ok(Totals::default());
    };
    // Usage that waits to be charged has a price of its own and no item, or an item and a
    // period that is over by then.
    let is_next = |line: &InvoiceLine| line.period_end > subscription.period_end;
    let renews = |line: &InvoiceLine| {
        !line.proration && line.subscription_item_id.is_some() && is_next(line)
    };
    let left = without(invoice, |line| goes_on(line) || renews(line))?;
    // The renewal takes part in it.
    if left.discount_amount != 0 {
        return Err(PreviewUnavailable::not_priced(subscription, "has a discount").into());
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
    let usage = change.usage_prices();
    let goes_on = |line: &InvoiceLine| usage.charge(line) && !change.is_accrued(line);
    let mut total = besides_renewal(change.subscription, goes_on, upcoming)?.total_amount;
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
    Ok(Totals::plain(total))
}
