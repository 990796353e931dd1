//! Proration: what a change in the middle of a period costs.
//!
//! The arithmetic is Stripe's, found from recorded invoices. A change makes
//! two lines for each item, never one difference: the unused time of what was
//! there (a credit), and the remaining time of what replaces it (a debit).
//! Each line is rounded by itself and only then summed.

use crate::period::Period;

/// How an exact fraction of a minor unit becomes a whole one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest minor unit; an exact half goes toward minus infinity,
    /// so a debit of 4.5 becomes 4 and a credit of −2.5 becomes −3.
    NearestTiesDown,
}

impl Rounding {
    /// `numerator / denominator` in whole units; the denominator is positive.
    #[must_use]
    pub fn divide(self, numerator: i128, denominator: i128) -> i128 {
        debug_assert!(denominator > 0, "a period has a length");
        match self {
            Self::NearestTiesDown => {
                let quotient = numerator.div_euclid(denominator);
                // Comparing the two sides of the half avoids doubling.
                let above = numerator.rem_euclid(denominator);
                quotient + i128::from(above > denominator - above)
            }
        }
    }
}

/// Why a change could not be prorated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProrationError {
    /// A full price, or a sum of lines, exceeds 64 bits of minor units.
    #[error("the amount does not fit in 64 bits of minor units")]
    AmountTooLarge,
    /// Prices below zero are discounts, which this engine does not know.
    #[error("a price must not be negative")]
    NegativePrice,
}

/// So many units at so much each, for one whole period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Charge {
    /// Price of one unit, in minor units of the currency.
    pub unit_amount: i64,
    /// How many units.
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

    /// The amount for what is left of `period` at `at_secs`.
    pub fn remaining_amount(
        &self,
        period: &Period,
        at_secs: i64,
        rounding: Rounding,
    ) -> Result<i64, ProrationError> {
        share(self.full_amount()?, period, at_secs, rounding)
    }

    /// The credit, zero or negative, for what is left of `period`.
    pub fn unused_amount(
        &self,
        period: &Period,
        at_secs: i64,
        rounding: Rounding,
    ) -> Result<i64, ProrationError> {
        share(-self.full_amount()?, period, at_secs, rounding)
    }
}

/// One item's change within its period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proration {
    /// The item's current period.
    pub period: Period,
    /// When the change takes effect, as Unix time.
    pub change_at_secs: i64,
    /// What is credited: in classic billing mode the item's configuration
    /// before the change, in flexible mode what was last debited for it.
    /// `None` when the item is added.
    pub credited: Option<Charge>,
    /// What is debited: the configuration after the change, or `None` when
    /// the item is removed.
    pub debited: Option<Charge>,
}

/// The lines that a change makes. A line of zero is still a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProrationLines {
    /// Unused time of what was there; never positive.
    pub credit: Option<i64>,
    /// Remaining time of what replaces it; never negative.
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

/// The lines for one item that changes; whether anything changed at all is
/// for the caller to see, since two prices may cost the same. With no time
/// left in the period there are no lines.
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
    // A share of a 64-bit amount fits in 64 bits; the conversion cannot fail.
    i64::try_from(amount).map_err(|_| ProrationError::AmountTooLarge)
}
