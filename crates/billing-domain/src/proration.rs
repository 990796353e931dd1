//! Proration: what a change in the middle of a period costs.
//!
//! The arithmetic is Stripe's, derived from recorded invoices. A change
//! produces two lines per item, never one net amount: a credit for the unused
//! time of the old configuration, and a debit for the remaining time of the new
//! one. Each line is rounded separately before the lines are summed.

use crate::period::Period;

/// How a fraction of a minor unit is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest minor unit, with ties toward minus infinity: a debit of
    /// 4.5 becomes 4 and a credit of −2.5 becomes −3.
    NearestTiesDown,
}

impl Rounding {
    /// Divides and rounds. The denominator must be positive.
    #[must_use]
    pub fn divide(self, numerator: i128, denominator: i128) -> i128 {
        debug_assert!(denominator > 0, "a period has a length");
        match self {
            Self::NearestTiesDown => {
                let quotient = numerator.div_euclid(denominator);
                // Comparing both parts of the unit avoids doubling, which could
                // overflow.
                let above = numerator.rem_euclid(denominator);
                quotient + i128::from(above > denominator - above)
            }
        }
    }
}

/// Why a change cannot be prorated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProrationError {
    /// A full price or a sum of lines does not fit in 64 bits.
    #[error("the amount does not fit in 64 bits of minor units")]
    AmountTooLarge,
    /// A negative price is a discount, which this engine does not support.
    #[error("a price must not be negative")]
    NegativePrice,
}

/// The charge for one item and a whole period: a quantity at a unit price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Charge {
    /// The price of one unit, in minor units of the currency.
    pub unit_amount: i64,
    pub quantity: u64,
}

impl Charge {
    /// The amount for a whole period.
    pub fn full_amount(&self) -> Result<i64, ProrationError> {
        if self.unit_amount < 0 {
            return Err(ProrationError::NegativePrice);
        }
        let full = i128::from(self.unit_amount)
            .checked_mul(i128::from(self.quantity))
            .ok_or(ProrationError::AmountTooLarge)?;
        i64::try_from(full).map_err(|_| ProrationError::AmountTooLarge)
    }

    /// The amount for the time left in `period` at `at_secs`.
    pub fn remaining_amount(
        &self,
        period: &Period,
        at_secs: i64,
        rounding: Rounding,
    ) -> Result<i64, ProrationError> {
        share(self.full_amount()?, period, at_secs, rounding)
    }

    /// The credit, zero or negative, for the time left in `period` at
    /// `at_secs`.
    pub fn unused_amount(
        &self,
        period: &Period,
        at_secs: i64,
        rounding: Rounding,
    ) -> Result<i64, ProrationError> {
        share(-self.full_amount()?, period, at_secs, rounding)
    }
}

/// The change of one item within its period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proration {
    pub period: Period,
    /// When the change takes effect, as Unix time.
    pub change_at_secs: i64,
    /// The charge to credit: in classic billing mode the item before the
    /// change, in flexible mode the last debit. `None` if the item is added.
    pub credited: Option<Charge>,
    /// The charge to debit: the item after the change. `None` if it is removed.
    pub debited: Option<Charge>,
}

/// The lines that a change produces. A line of zero is still a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProrationLines {
    /// For the unused time of the old configuration; never positive.
    pub credit: Option<i64>,
    /// For the remaining time of the new configuration; never negative.
    pub debit: Option<i64>,
}

impl ProrationLines {
    /// The sum of the lines.
    pub fn net(&self) -> Result<i64, ProrationError> {
        self.credit
            .unwrap_or(0)
            .checked_add(self.debit.unwrap_or(0))
            .ok_or(ProrationError::AmountTooLarge)
    }
}

/// Computes the lines for one changed item. There are none if no time is left
/// in the period. The caller decides whether anything changed at all, since two
/// prices may cost the same.
pub fn prorate(change: &Proration) -> Result<ProrationLines, ProrationError> {
    let Proration {
        period,
        change_at_secs,
        credited,
        debited,
    } = change;
    if period.remaining_secs(*change_at_secs) == 0 {
        return Ok(ProrationLines::default());
    }
    let rounding = Rounding::NearestTiesDown;
    Ok(ProrationLines {
        credit: credited
            .map(|charge| charge.unused_amount(period, *change_at_secs, rounding))
            .transpose()?,
        debit: debited
            .map(|charge| charge.remaining_amount(period, *change_at_secs, rounding))
            .transpose()?,
    })
}

fn share(
    full_amount: i64,
    period: &Period,
    at_secs: i64,
    rounding: Rounding,
) -> Result<i64, ProrationError> {
    let numerator = i128::from(full_amount) * i128::from(period.remaining_secs(at_secs));
    let amount = rounding.divide(numerator, i128::from(period.length_secs()));
    // Cannot fail: a share of a 64-bit amount fits in 64 bits.
    i64::try_from(amount).map_err(|_| ProrationError::AmountTooLarge)
}
