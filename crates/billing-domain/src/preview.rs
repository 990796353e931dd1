//! The local preview: what a change of plan costs now and at the next renewal.
//!
//! It handles licensed items of a single cadence. Discounts, taxes and stub
//! periods are outside its knowledge; the caller must ask Stripe for those.

use crate::period::{Cadence, Period, PeriodError};
use crate::proration::{Charge, Proration, ProrationError, ProrationLines, prorate};

/// How a subscription is billed: Stripe's `billing_mode.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BillingMode {
    /// A change of interval, or from free to paid, restarts the period. Credits
    /// are computed from the item's current price.
    Classic,
    /// The anchor never moves, and a credit returns what was debited.
    Flexible,
}

/// When a change is charged: Stripe's `proration_behavior`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProrationBehavior {
    /// Immediately, on a separate invoice.
    AlwaysInvoice,
    /// With the next renewal.
    CreateProrations,
    /// Never: the new price applies from the next renewal.
    None,
}

/// The price and quantity of a licensed item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ItemTerms<'a> {
    /// The price id. Two prices may cost the same and still differ.
    pub price_id: &'a str,
    /// The charge for a whole period.
    pub charge: Charge,
    pub cadence: Cadence,
}

/// A change of one item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ItemChange<'a> {
    /// `None` if the item is added.
    pub before: Option<ItemTerms<'a>>,
    /// `None` if the item is removed.
    pub after: Option<ItemTerms<'a>>,
    /// The last debit for the item in this period, if it differs from `before`
    /// because a change was not prorated. Only flexible billing uses it.
    pub last_debited: Option<Charge>,
}

impl ItemChange<'_> {
    /// Whether neither price nor quantity changes.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.before == self.after
    }

    /// Whether the change restarts the billing period in this mode.
    pub fn resets_anchor(&self, mode: BillingMode) -> Result<bool, ProrationError> {
        let (BillingMode::Classic, Some(before), Some(after)) = (mode, self.before, self.after)
        else {
            return Ok(false);
        };
        let from_free = before.charge.full_amount()? == 0 && after.charge.full_amount()? > 0;
        Ok(before.cadence != after.cadence || from_free)
    }
}

/// A change of plan, with everything that determines its price.
#[derive(Debug, Clone, Copy)]
pub struct PlanChange<'a> {
    pub item: ItemChange<'a>,
    /// The subscription's current period.
    pub period: Period,
    /// When the change takes effect, as Unix time.
    pub change_at_secs: i64,
    pub mode: BillingMode,
    pub proration_behavior: ProrationBehavior,
    /// Whether the subscription is on trial; changes during a trial are free.
    pub on_trial: bool,
}

/// The cost of a change of plan, in minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preview {
    pub lines: ProrationLines,
    /// The charge for a whole new period, if the change restarts the period.
    pub full_period: Option<i64>,
    /// The total charged immediately. A negative total is credited to the
    /// balance.
    pub due_now: i64,
    /// The total of the next invoice, including prorations deferred to it.
    pub next_invoice: i64,
    /// When the next invoice is created, as Unix time.
    pub next_invoice_at_secs: i64,
}

/// Why a change cannot be previewed locally.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PreviewError {
    /// An amount is out of range.
    #[error(transparent)]
    Amount(#[from] ProrationError),
    /// A period is out of range.
    #[error(transparent)]
    Period(#[from] PeriodError),
    /// In flexible billing, a change of interval produces items of two cadences
    /// or a stub period, which only Stripe can price.
    #[error("a change of interval in flexible billing mode is priced by Stripe alone")]
    IntervalChange,
}

/// Computes the preview of a change.
pub fn preview(change: &PlanChange<'_>) -> Result<Preview, PreviewError> {
    let item = &change.item;
    let renewal = amount_of(item.after)?;
    if item.is_unchanged() || change.on_trial {
        return Ok(Preview {
            lines: ProrationLines::default(),
            full_period: None,
            due_now: 0,
            next_invoice: renewal,
            next_invoice_at_secs: change.period.end_secs(),
        });
    }
    if item.resets_anchor(change.mode)? {
        return restarted(change, renewal);
    }
    if changes_cadence(item) {
        return Err(PreviewError::IntervalChange);
    }
    let lines = match change.proration_behavior {
        ProrationBehavior::None => ProrationLines::default(),
        ProrationBehavior::AlwaysInvoice | ProrationBehavior::CreateProrations => {
            prorate(&proration_of(change))?
        }
    };
    let net = lines.net()?;
    let (due_now, waiting) = match change.proration_behavior {
        ProrationBehavior::AlwaysInvoice => (net, 0),
        ProrationBehavior::CreateProrations | ProrationBehavior::None => (0, net),
    };
    Ok(Preview {
        lines,
        full_period: None,
        due_now,
        next_invoice: sum(renewal, waiting)?,
        next_invoice_at_secs: change.period.end_secs(),
    })
}

/// Previews a change that restarts the period. The unused time is credited and
/// a whole period is charged, both immediately, whatever the proration
/// behavior.
fn restarted(change: &PlanChange<'_>, renewal: i64) -> Result<Preview, PreviewError> {
    let cadence = change
        .item
        .after
        .map_or(Cadence::MONTHLY, |terms| terms.cadence);
    let lines = match change.proration_behavior {
        ProrationBehavior::None => ProrationLines::default(),
        ProrationBehavior::AlwaysInvoice | ProrationBehavior::CreateProrations => {
            prorate(&Proration {
                debited: None,
                ..proration_of(change)
            })?
        }
    };
    Ok(Preview {
        lines,
        full_period: Some(renewal),
        due_now: sum(lines.net()?, renewal)?,
        next_invoice: renewal,
        next_invoice_at_secs: cadence.boundary(change.change_at_secs, 1)?,
    })
}

fn proration_of(change: &PlanChange<'_>) -> Proration {
    let before = change.item.before.map(|terms| terms.charge);
    Proration {
        period: change.period,
        change_at_secs: change.change_at_secs,
        credited: match change.mode {
            BillingMode::Classic => before,
            BillingMode::Flexible => change.item.last_debited.or(before),
        },
        debited: change.item.after.map(|terms| terms.charge),
    }
}

fn changes_cadence(item: &ItemChange<'_>) -> bool {
    match (item.before, item.after) {
        (Some(before), Some(after)) => before.cadence != after.cadence,
        _ => false,
    }
}

fn amount_of(terms: Option<ItemTerms<'_>>) -> Result<i64, ProrationError> {
    terms.map_or(Ok(0), |terms| terms.charge.full_amount())
}

fn sum(left: i64, right: i64) -> Result<i64, ProrationError> {
    left.checked_add(right)
        .ok_or(ProrationError::AmountTooLarge)
}
