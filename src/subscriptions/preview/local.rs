//! Prices a change with the engine of `billing-domain`, from our state alone.

use billing_domain::period::{Cadence, Period};
use billing_domain::preview::{
    BillingMode, ItemChange, ItemTerms, PlanChange, PreviewError, preview,
};
use billing_domain::proration::Charge;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::later::at_period_end;
use super::switch::proration_behavior;
use super::{Line, PreviewUnavailable, Pricing, Source, Totals, describe_price};
use crate::catalogue::{Catalogue, Interval, Plan};
use crate::subscriptions::command::{AddonItem, AddonPrice};
use crate::subscriptions::prices::SwitchTo;
use crate::subscriptions::selection::Quantities;
use crate::subscriptions::state::{Item, SubscriptionRow};

/// A new subscription: a full period, due at once.
pub fn of_creation(
    catalogue: &Catalogue,
    plan: &Plan,
    quantities: Quantities,
    addons: &[AddonItem],
    now: Timestamp,
) -> Result<Pricing, PreviewUnavailable> {
    let boundary = |interval: Interval| {
        let next = interval.cadence().boundary(now.as_second(), 1);
        second(next.map_err(|error| PreviewUnavailable::OutOfRange(error.to_string()))?)
    };
    let next = boundary(plan.price.interval)?;
    let now = second(now.as_second())?;
    let beside = quantities.beside.filter(|quantity| *quantity > 0);
    let seats = plan.seat_price().zip(beside);
    let seats = seats.map(|(price, quantity)| (&plan.name, price, quantity));
    let fee = (&plan.name, &plan.price, quantities.fee.unwrap_or(1));
    let addons = addons.iter().filter_map(|addon| match &addon.price {
        AddonPrice::Sold(price) => {
            let name = catalogue
                .addon(&addon.id)
                .map_or(&addon.id, |one| &one.name);
            Some((name, price, u64::from(addon.quantity)))
        }
        AddonPrice::Held { .. } => None,
    });
    let mut lines = Vec::new();
    for (name, price, quantity) in std::iter::once(fee).chain(seats).chain(addons) {
        let charge = Charge {
            unit_amount: price.amount,
            quantity,
        };
        let amount = charge.full_amount();
        let amount = amount.map_err(|error| PreviewUnavailable::OutOfRange(error.to_string()))?;
        let description = describe_price(name, price, quantity);
        lines.push(Line::plain(description, amount, (now, next)));
    }
    let totals = Totals::shown(&lines)?;
    let amount = totals.total_amount;
    let (next_totals, next_invoice_at) = match plan.mixes_intervals() {
        // That of the first month's usage.
        true => (Totals::default(), boundary(Interval::Month)?),
        false => (totals, next),
    };
    Ok(Pricing {
        currency: plan.price.currency.to_ascii_lowercase(),
        effective_at: now,
        prorated_amount: amount,
        due_now_amount: amount,
        next_invoice_amount: next_totals.total_amount,
        next_invoice_at,
        lines,
        usage: Vec::new(),
        totals,
        next_totals,
        holds_until: None,
        source: Source::Local,
    })
}

/// Another plan, or another quantity, for an existing subscription.
pub fn of_switch(
    subscription: &SubscriptionRow,
    catalogue: &Catalogue,
    switch: SwitchTo<'_>,
    now: Timestamp,
) -> Result<Pricing, PreviewUnavailable> {
    let (at_secs, plan) = (now.as_second(), switch.plan);
    let cadence = (!switch.keeps_prices).then(|| plan.price.interval.cadence());
    let known = Known::of(subscription, catalogue, cadence, at_secs)?;
    check_known(subscription, switch)?;
    let quantity = switch.quantities.fee;
    let quantity = quantity.unwrap_or(known.before.charge.quantity);
    let after = match switch.keeps_prices {
        true => ItemTerms {
            charge: Charge {
                quantity,
                ..known.before.charge
            },
            ..known.before
        },
        false => ItemTerms {
            price_id: &plan.tier,
            charge: Charge {
                unit_amount: plan.price.amount,
                quantity,
            },
            cadence: plan.price.interval.cadence(),
        },
    };
    let change = PlanChange {
        item: ItemChange {
            before: Some(known.before),
            after: Some(after),
            last_debited: None,
        },
        period: known.period,
        change_at_secs: at_secs,
        // Another interval restarts the period in either mode, because our
        // change resets the billing cycle anchor.
        mode: if known.before.cadence == after.cadence {
            known.mode
        } else {
            BillingMode::Classic
        },
        proration_behavior: proration_behavior(subscription, catalogue, known.plan, switch),
        on_trial: subscription.on_trial(),
    };
    let result = preview(&change).map_err(|error| match error {
        PreviewError::IntervalChange => PreviewUnavailable::StripeOnly("changes its interval"),
        other => PreviewUnavailable::OutOfRange(other.to_string()),
    })?;
    let mut lines = lines(&result, &known, (plan, quantity), at_secs)?;
    let totals = Totals::shown(&lines)?;
    lines.retain(|line| !line.proration || line.amount != 0);
    Ok(Pricing {
        currency: plan.price.currency.to_ascii_lowercase(),
        effective_at: second(at_secs)?,
        prorated_amount: totals.total_amount,
        due_now_amount: result.due_now,
        next_invoice_amount: result.next_invoice,
        next_invoice_at: second(result.next_invoice_at_secs)?,
        lines,
        usage: Vec::new(),
        totals,
        next_totals: Totals::plain(result.next_invoice),
        holds_until: Some(second(known.period.end_secs())?),
        source: Source::Local,
    })
}

/// Refuses what only Stripe can price.
fn check_known(
    subscription: &SubscriptionRow,
    switch: SwitchTo<'_>,
) -> Result<(), PreviewUnavailable> {
    let is_mixed = !switch.keeps_prices && switch.plan.mixes_intervals();
    let why = if switch.following.is_some() {
        "has a schedule"
    } else if subscription.mixes_intervals() || is_mixed {
        "is charged for usage by the month beside a fee by the year"
    } else if switch.quantities.beside.is_some_and(|seats| seats > 0) {
        "gets seats that have a price of their own"
    } else if !switch.addons.is_empty() {
        "gets add-ons"
    } else {
        return Ok(());
    };
    Err(PreviewUnavailable::StripeOnly(why))
}

/// Another plan, or another quantity, once the period has ended: its fee, and nothing now.
pub fn of_switch_later(
    subscription: &SubscriptionRow,
    catalogue: &Catalogue,
    switch: SwitchTo<'_>,
    now: Timestamp,
) -> Result<Pricing, PreviewUnavailable> {
    if subscription.schedule_id.is_some() {
        return Err(PreviewUnavailable::StripeOnly("has a schedule"));
    }
    let (plan, quantities) = (switch.plan, switch.quantities);
    let known = Known::of(subscription, catalogue, None, now.as_second())?;
    let unit_amount = match switch.keeps_prices {
        true => known.before.charge.unit_amount,
        false => plan.price.amount,
    };
    let quantity = quantities.fee.unwrap_or(known.before.charge.quantity);
    let seats = plan.seat_price().zip(quantities.beside);
    let seats = seats.map(|(price, quantity)| (price.amount, quantity));
    let addons = switch.addons.iter();
    let addons = addons.map(|addon| Some((addon.unit_amount()?, u64::from(addon.quantity))));
    let addons: Option<Vec<(i64, u64)>> = addons.collect();
    let addons = addons.ok_or(PreviewUnavailable::StripeOnly(
        "has a price that is no whole amount",
    ))?;
    let mut fee = 0_i64;
    for (unit_amount, quantity) in std::iter::once((unit_amount, quantity))
        .chain(seats)
        .chain(addons)
    {
        let amount = i64::try_from(quantity).ok();
        let amount = amount.and_then(|quantity| unit_amount.checked_mul(quantity));
        let sum = amount.and_then(|amount| fee.checked_add(amount));
        fee = sum.ok_or_else(|| PreviewUnavailable::OutOfRange("the next invoice".to_owned()))?;
    }
    Ok(Pricing {
        currency: plan.price.currency.to_ascii_lowercase(),
        ..at_period_end(
            second(known.period.end_secs())?,
            Totals::plain(fee),
            Source::Local,
        )
    })
}

/// What the engine needs to know about a subscription.
struct Known<'a> {
    plan: &'a Plan,
    before: ItemTerms<'a>,
    period: Period,
    mode: BillingMode,
}

impl<'a> Known<'a> {
    fn of(
        subscription: &'a SubscriptionRow,
        catalogue: &'a Catalogue,
        cadence: Option<Cadence>,
        at_secs: i64,
    ) -> Result<Self, PreviewUnavailable> {
        use PreviewUnavailable::StripeOnly;
        if subscription.discounted {
            return Err(StripeOnly("has a discount"));
        }
        if subscription.taxed {
            return Err(StripeOnly("is taxed"));
        }
        let (item, plan) = subscription
            .base_item(catalogue)
            .ok_or(StripeOnly("has no price of the catalogue"))?;
        let others = |other: &&Item| !other.metered && other.id != item.id;
        if subscription.items.iter().any(|other| others(&other)) {
            return Err(StripeOnly("has items besides its plan's"));
        }
        if cadence.is_some_and(|cadence| item.cadence() != Some(cadence))
            && subscription.items.iter().any(|item| item.metered)
        {
            return Err(StripeOnly(
                "has usage that another interval would have charged at once",
            ));
        }
        let before = terms(item).ok_or(StripeOnly("has a price that is no whole amount"))?;
        let period = subscription
            .period()
            .ok_or(StripeOnly("has no known period"))?;
        if !period.contains(at_secs) {
            return Err(StripeOnly(
                "is past its period, and its renewal is not known yet",
            ));
        }
        let whole = subscription.anchor.and_then(|anchor| {
            before
                .cadence
                .period_containing(anchor.as_second(), period.start_secs())
                .ok()
        });
        if !subscription.on_trial() && whole != Some(period) {
            return Err(StripeOnly(
                "is in a period that is shorter than its price's",
            ));
        }
        let mode = match subscription.billing_mode.as_deref() {
            Some("flexible") => BillingMode::Flexible,
            // Subscriptions without a mode predate billing modes.
            Some("classic") | None => BillingMode::Classic,
            Some(_) => return Err(StripeOnly("has a billing mode that is not known here")),
        };
        Ok(Self {
            plan,
            before,
            period,
            mode,
        })
    }
}

fn terms(item: &Item) -> Option<ItemTerms<'_>> {
    Some(ItemTerms {
        price_id: item.price_id.as_deref()?,
        charge: Charge {
            unit_amount: item.unit_amount?,
            quantity: u64::try_from(item.quantity.unwrap_or(1)).ok()?,
        },
        cadence: item.cadence()?,
    })
}

fn lines(
    result: &billing_domain::preview::Preview,
    known: &Known<'_>,
    (plan, quantity): (&Plan, u64),
    at_secs: i64,
) -> Result<Vec<Line>, PreviewUnavailable> {
    let (at, end) = (second(at_secs)?, second(known.period.end_secs())?);
    let prorated = |amount: i64, kind: &str, quantity: u64, name: &str| Line {
        proration: true,
        ..Line::plain(
            describe_proration(kind, quantity, name, at),
            amount,
            (at, end),
        )
    };
    let mut lines = Vec::new();
    if let Some(credit) = result.lines.credit {
        lines.push(prorated(
            credit,
            "Unused",
            known.before.charge.quantity,
            &known.plan.name,
        ));
    }
    if let Some(debit) = result.lines.debit {
        lines.push(prorated(debit, "Remaining", quantity, &plan.name));
    }
    if let Some(amount) = result.full_period {
        let until = second(result.next_invoice_at_secs)?;
        let description = describe_price(&plan.name, &plan.price, quantity);
        lines.push(Line::plain(description, amount, (at, until)));
    }
    Ok(lines)
}

/// Stripe's wording: `Unused time on Standard after 22 Nov 2026`.
fn describe_proration(kind: &str, quantity: u64, name: &str, at: Timestamp) -> String {
    let day = at.to_zoned(TimeZone::UTC).strftime("%-d %b %Y");
    match quantity {
        1 => format!("{kind} time on {name} after {day}"),
        _ => format!("{kind} time on {quantity} × {name} after {day}"),
    }
}

fn second(secs: i64) -> Result<Timestamp, PreviewUnavailable> {
    Timestamp::from_second(secs).map_err(|error| PreviewUnavailable::OutOfRange(error.to_string()))
}
