//! Has Stripe price another plan, interval or other seats, as of the time that the change
//! will use for proration.

use jiff::Timestamp;

use super::stripe::{ask, fees, in_advance, is_in_advance, line, month_after, unexpected, without};
use super::switch::Switch;
use super::{Line, Pricing, Source, Totals, later};
use crate::stripe::client::Client;
use crate::stripe::objects::{Invoice, InvoiceLine};
use crate::subscriptions::extras::{Extras, Remaining};
use crate::subscriptions::failure::Failure;
use crate::subscriptions::usage_charges::BillableUsage;
use billing_domain::preview::ProrationBehavior;

/// What a change of plan would cost.
pub async fn of_switch(
    client: &Client,
    change: &Switch<'_>,
    extras: &Extras,
) -> Result<Pricing, Failure> {
    use ProrationBehavior::{AlwaysInvoice, CreateProrations};
    let all = &Remaining::All;
    if change.restarts {
        return of_restart(client, change, extras).await;
    }
    let waiting = ask_about(client, change, extras, CreateProrations, all).await?;
    let mut pricing = with_renewal(change, &waiting)?;
    // The schedule goes once the change is made, and Stripe shows what it would do.
    let renews = change.renews(&waiting);
    if change.subscription.schedule_id.is_some() && !change.keeps_plan && renews {
        pricing.next_totals = later::renewed(change, extras, Some(&waiting))?;
    }
    if let Some(more) = change.more_later.filter(|_| renews) {
        pricing.next_totals = later::following(change, extras, pricing.next_totals, more)?;
    }
    // Without proration lines, nothing is invoiced at once.
    let prorates = pricing.lines.iter().any(|line| line.proration);
    let accrued = waiting.lines.iter().any(|line| change.is_accrued(line));
    if change.proration_behavior == AlwaysInvoice && (prorates || accrued) {
        let now = ask_about(client, change, extras, AlwaysInvoice, all).await?;
        pricing.lines = change.lines(now.lines.iter())?;
        pricing.totals = Totals::of_invoice(&now);
        pricing.prorated_amount = now.total;
        pricing.due_now_amount = now.total;
        pricing.next_totals = if extras.plays_a_part() {
            // The invoice may use a discount up, so that the renewal has less.
            let remaining = extras.remaining(&now, change.at, pricing.next_invoice_at);
            let renewal =
                ask_about(client, change, extras, ProrationBehavior::None, &remaining).await?;
            match change.invoices_usage_first() {
                true => Totals::default(),
                false => Totals::of(in_advance(&renewal, &change.usage_prices()))?,
            }
        } else {
            pricing.next_totals.less(pricing.totals)
        };
    }
    pricing.next_invoice_amount = pricing.next_totals.total_amount;
    pricing
        .lines
        .retain(|line| !line.proration || !line.is_nothing());
    Ok(pricing)
}

/// The invoice of a change, with the discounts that it has or those that remain.
pub async fn ask_about(
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

/// The price of a change that is invoiced with the renewal.
fn with_renewal(change: &Switch<'_>, invoice: &Invoice) -> Result<Pricing, Failure> {
    let usage = change.usage_prices();
    let is_new = |line: &&InvoiceLine| {
        let prorated = line.proration && line.period_start == Some(change.at);
        prorated || change.is_accrued(line) || change.charge_of(line).is_some()
    };
    let goes_on = |line: &InvoiceLine| usage.charge(line) && !change.is_accrued(line);
    let usage_first = change.invoices_usage_first();
    let is_later = |line: &InvoiceLine| usage_first && is_in_advance(line, &usage);
    let renewal = invoice.lines.iter().find(|line| {
        let is_fee = line.price_id.as_ref() == Some(&change.prices.base);
        !line.proration && is_fee && !usage_first
    });
    let renews_at = renewal.and_then(|line| line.period_start);
    let next_invoice_at = renews_at
        .or_else(|| change.usage_invoiced_at())
        .or(change.subscription.period_end)
        .ok_or_else(|| unexpected("the next invoice has no date"))?;
    let lines = change.lines(invoice.lines.iter().filter(is_new))?;
    let totals = Totals::shown(&lines)?;
    let next_totals = without(invoice, |line| goes_on(line) || is_later(line))?;
    Ok(Pricing {
        currency: invoice.currency.clone(),
        effective_at: change.at,
        prorated_amount: totals.total_amount,
        due_now_amount: 0,
        next_invoice_amount: next_totals.total_amount,
        next_invoice_at,
        lines,
        usage: change.usage(),
        totals,
        next_totals,
        holds_until: Some(next_invoice_at),
        source: Source::Stripe,
    })
}

/// The price of a change that restarts the period: all of it is due at once.
async fn of_restart(
    client: &Client,
    change: &Switch<'_>,
    extras: &Extras,
) -> Result<Pricing, Failure> {
    let behavior = ProrationBehavior::AlwaysInvoice;
    let now = ask_about(client, change, extras, behavior, &Remaining::All).await?;
    let (full, ends) = full_period(change, &now)?;
    let (next_totals, next_invoice_at) = match extras.remaining(&now, change.at, ends) {
        _ if change.mixes => (Totals::default(), month_after(change.at)?),
        Remaining::All => (full, ends),
        remaining => {
            let next = ask_about(client, change, extras, behavior, &remaining).await?;
            (full_period(change, &next)?.0, ends)
        }
    };
    let mut lines = change.lines(now.lines.iter())?;
    lines.retain(|line| !line.proration || !line.is_nothing());
    Ok(Pricing {
        effective_at: change.at,
        prorated_amount: now.total,
        due_now_amount: now.total,
        next_invoice_amount: next_totals.total_amount,
        next_invoice_at,
        lines,
        usage: change.usage(),
        totals: Totals::of_invoice(&now),
        next_totals,
        holds_until: change.subscription.invoiced_at(change.at),
        source: Source::Stripe,
        currency: now.currency,
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

    /// Whether an upcoming invoice is the renewal: where only the fee is by the year, those
    /// in between are of usage alone.
    pub(super) fn renews(&self, upcoming: &Invoice) -> bool {
        let is_mixed = self.mixes || self.subscription.mixes_intervals();
        let charges_fee = in_advance(upcoming, &self.usage_prices()).next().is_some();
        !is_mixed || (charges_fee && !self.invoices_usage_first())
    }

    /// Whether the next invoice is of a month's usage, where Stripe previews the renewal: it
    /// does not know yet that usage is charged by the month.
    fn invoices_usage_first(&self) -> bool {
        let usage = self.usage_invoiced_at().filter(|_| self.needs_flexible);
        usage.is_some_and(|at| Some(at) < self.subscription.period_end)
    }

    /// When the usage of the month is invoiced in which the change is made, where usage is
    /// charged by the month beside a fee by the year.
    fn usage_invoiced_at(&self) -> Option<Timestamp> {
        self.subscription
            .month_end(self.at)
            .filter(|_| self.mixes && !self.subscription.on_trial())
    }

    /// The charge for usage that a line is.
    fn charge_of(&self, line: &InvoiceLine) -> Option<&BillableUsage> {
        let is_item = line.subscription_item_id.is_none() && !line.proration;
        self.usage
            .iter()
            .filter(|_| is_item && line.period_end == Some(self.at))
            .find(|usage| usage.is_line(line))
    }

    /// The lines as a preview shows them: usage says what it is, and is left out where it
    /// comes to nothing. Prorations that do are kept.
    fn lines<'l>(
        &self,
        lines: impl Iterator<Item = &'l InvoiceLine>,
    ) -> Result<Vec<Line>, Failure> {
        let prices = self.usage_prices();
        let mut shown = Vec::new();
        for one in lines {
            let mut view = line(one)?;
            if let Some(usage) = self.charge_of(one) {
                view.description = usage.describe();
            } else if prices.charge(one) {
                if view.is_nothing() {
                    continue;
                }
                view.description = prices.describe(one);
            }
            shown.push(view);
        }
        Ok(shown)
    }
}
