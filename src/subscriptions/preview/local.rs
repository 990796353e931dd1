//! The preview by the engine of `billing-domain`, from what is stored alone.

use billing_domain::period::{Cadence, Period};
use billing_domain::preview::{
    BillingMode, ItemChange, ItemTerms, PlanChange, PreviewError, preview,
};
use billing_domain::proration::Charge;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{Line, Quote, Source, Unknowable, describe_period};
use crate::catalogue::{Catalogue, Plan};
use crate::subscriptions::state::{Held, Item};

/// A new subscription: a whole period, due at once.
pub fn of_creation(plan: &Plan, now: Timestamp) -> Result<Quote, Unknowable> {
    let amount = plan.price.amount;
    let next = plan
        .price
        .interval
        .cadence()
        .boundary(now.as_second(), 1)
        .map_err(|error| Unknowable::OutOfRange(error.to_string()))?;
    let (now, next) = (second(now.as_second())?, second(next)?);
    Ok(Quote {
        currency: plan.price.currency.to_ascii_lowercase(),
        effective_at: now,
        prorated_amount: amount,
        due_now_amount: amount,
        next_invoice_amount: amount,
        next_invoice_at: next,
        lines: vec![Line {
            description: describe_period(plan, 1),
            amount,
            period_start: now,
            period_end: next,
            proration: false,
        }],
        holds_until: None,
        source: Source::Local,
    })
}

/// Another plan for a subscription that runs.
pub fn of_switch(
    held: &Held,
    catalogue: &Catalogue,
    plan: &Plan,
    now: Timestamp,
) -> Result<Quote, Unknowable> {
    let at_secs = now.as_second();
    let known = Known::of(held, catalogue, plan.price.interval.cadence(), at_secs)?;
    let quantity = known.before.charge.quantity;
    let after = ItemTerms {
        price_id: &plan.tier,
        charge: Charge {
            unit_amount: plan.price.amount,
            quantity,
        },
        cadence: plan.price.interval.cadence(),
    };
    let change = PlanChange {
        item: ItemChange {
            before: Some(known.before),
            after: Some(after),
            last_debited: None,
        },
        period: known.period,
        change_at_secs: at_secs,
        // Another interval restarts the period in either mode: that is how the
        // change is made.
        mode: if known.before.cadence == after.cadence {
            known.mode
        } else {
            BillingMode::Classic
        },
        settlement: catalogue.settlement(&known.plan.tier, &plan.tier),
        on_trial: held.on_trial(),
    };
    let result = preview(&change).map_err(|error| match error {
        PreviewError::IntervalChange => Unknowable::StripeOnly("changes its interval"),
        other => Unknowable::OutOfRange(other.to_string()),
    })?;
    let lines = lines(&result, &known, plan, at_secs)?;
    let prorated_amount = total(&lines)?;
    Ok(Quote {
        currency: plan.price.currency.to_ascii_lowercase(),
        effective_at: second(at_secs)?,
        prorated_amount,
        due_now_amount: result.due_now,
        next_invoice_amount: result.next_invoice,
        next_invoice_at: second(result.next_invoice_at_secs)?,
        lines,
        holds_until: Some(second(known.period.end_secs())?),
        source: Source::Local,
    })
}

/// What the engine needs to know of a subscription.
struct Known<'a> {
    plan: &'a Plan,
    before: ItemTerms<'a>,
    period: Period,
    mode: BillingMode,
}

impl<'a> Known<'a> {
    fn of(
        held: &'a Held,
        catalogue: &'a Catalogue,
        cadence: Cadence,
        at_secs: i64,
    ) -> Result<Self, Unknowable> {
        use Unknowable::StripeOnly;
        if held.discounted {
            return Err(StripeOnly("has a discount"));
        }
        if held.taxed {
            return Err(StripeOnly("is taxed"));
        }
        let (item, plan) = held
            .base_item(catalogue)
            .ok_or(StripeOnly("has no price of the catalogue"))?;
        let others = |other: &&Item| !other.metered && other.id != item.id;
        if held.items.iter().any(|other| others(&other)) {
            return Err(StripeOnly("has items besides its plan's"));
        }
        if item.cadence() != Some(cadence) && held.items.iter().any(|item| item.metered) {
            return Err(StripeOnly(
                "has usage that another interval would have charged at once",
            ));
        }
        let before = terms(item).ok_or(StripeOnly("has a price that is no whole amount"))?;
        let period = held.period().ok_or(StripeOnly("has no known period"))?;
        if !period.contains(at_secs) {
            return Err(StripeOnly(
                "is past its period, and its renewal is not known yet",
            ));
        }
        let whole = held.anchor.and_then(|anchor| {
            before
                .cadence
                .period_containing(anchor.as_second(), period.start_secs())
                .ok()
        });
        if !held.on_trial() && whole != Some(period) {
            return Err(StripeOnly(
                "is in a period that is shorter than its price's",
            ));
        }
        let mode = match held.billing_mode.as_deref() {
            Some("flexible") => BillingMode::Flexible,
            // What has no mode is from before there were any.
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
    plan: &Plan,
    at_secs: i64,
) -> Result<Vec<Line>, Unknowable> {
    let quantity = known.before.charge.quantity;
    let (at, end) = (second(at_secs)?, second(known.period.end_secs())?);
    let prorated = |amount: i64, what: &str, name: &str| Line {
        description: describe_proration(what, quantity, name, at),
        amount,
        period_start: at,
        period_end: end,
        proration: true,
    };
    let mut lines = Vec::new();
    if let Some(credit) = result.lines.credit {
        lines.push(prorated(credit, "Unused", &known.plan.name));
    }
    if let Some(debit) = result.lines.debit {
        lines.push(prorated(debit, "Remaining", &plan.name));
    }
    if let Some(amount) = result.full_period {
        lines.push(Line {
            description: describe_period(plan, quantity),
            amount,
            period_start: at,
            period_end: second(result.next_invoice_at_secs)?,
            proration: false,
        });
    }
    Ok(lines)
}

/// `Unused time on Standard after 22 Nov 2026`, in Stripe's words.
fn describe_proration(what: &str, quantity: u64, name: &str, at: Timestamp) -> String {
    let day = at.to_zoned(TimeZone::UTC).strftime("%-d %b %Y");
    match quantity {
        1 => format!("{what} time on {name} after {day}"),
        _ => format!("{what} time on {quantity} × {name} after {day}"),
    }
}

fn total(lines: &[Line]) -> Result<i64, Unknowable> {
    lines
        .iter()
        .try_fold(0_i64, |sum, line| sum.checked_add(line.amount))
        .ok_or_else(|| Unknowable::OutOfRange("the sum of the lines".to_owned()))
}

fn second(secs: i64) -> Result<Timestamp, Unknowable> {
    Timestamp::from_second(secs).map_err(|error| Unknowable::OutOfRange(error.to_string()))
}
