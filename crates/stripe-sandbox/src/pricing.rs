//! What a number of units costs: exact decimals, tiers, named rounding.

use std::fmt;

use billing_domain::proration::Rounding;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::params::Params;

/// Twelve places after the point, as Stripe allows.
const PLACES: usize = 12;
const ONE: i128 = 1_000_000_000_000;

/// A price in minor units with up to twelve places after the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decimal(i128);

impl Decimal {
    /// A whole number of minor units.
    #[must_use]
    pub const fn whole(amount: i64) -> Self {
        Self(amount as i128 * ONE)
    }

    /// Reads `0.001`; no sign, no exponent.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || whole.len() > 15 || fraction.len() > PLACES {
            return None;
        }
        if !digits(whole) || !digits(fraction) || text.ends_with('.') {
            return None;
        }
        let whole: i128 = whole.parse().ok()?;
        let fraction: i128 = format!("{fraction:0<PLACES$}").parse().ok()?;
        Some(Self(whole * ONE + fraction))
    }

    /// The whole number of minor units, if it is one.
    #[must_use]
    pub fn to_whole(self) -> Option<i64> {
        if self.0 % ONE == 0 {
            i64::try_from(self.0 / ONE).ok()
        } else {
            None
        }
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / ONE, self.0 % ONE);
        if fraction == 0 {
            return write!(formatter, "{whole}");
        }
        let digits = format!("{fraction:0>PLACES$}");
        write!(formatter, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

/// One step of a tiered price.
#[derive(Debug, Clone, Copy)]
pub struct Tier {
    up_to: Option<u64>,
    flat: Decimal,
    unit: Decimal,
}

/// How the quantity becomes an amount.
#[derive(Debug, Clone)]
pub enum Scheme {
    /// The same for each unit.
    PerUnit(Decimal),
    /// Each unit at the rate of the tier it falls in.
    Graduated(Vec<Tier>),
    /// All units at the rate of the tier that the total falls in.
    Volume(Vec<Tier>),
}

impl Scheme {
    /// The amount for so many units, rounded once; `None` on overflow.
    #[must_use]
    pub fn amount(&self, quantity: u64) -> Option<i64> {
        let exact = match self {
            Self::PerUnit(unit) => unit.0.checked_mul(i128::from(quantity))?,
            Self::Graduated(tiers) => graduated(tiers, quantity)?,
            Self::Volume(tiers) => {
                let tier = tiers
                    .iter()
                    .find(|tier| tier.up_to.is_none_or(|limit| quantity <= limit))?;
                tier.unit
                    .0
                    .checked_mul(i128::from(quantity))?
                    .checked_add(tier.flat.0)?
            }
        };
        i64::try_from(Rounding::NearestTiesDown.divide(exact, ONE)).ok()
    }

    /// The price of one unit, where there is one price.
    #[must_use]
    pub const fn unit(&self) -> Option<Decimal> {
        match self {
            Self::PerUnit(unit) => Some(*unit),
            Self::Graduated(_) | Self::Volume(_) => None,
        }
    }

    /// The tiers as Stripe shows them.
    #[must_use]
    pub fn render_tiers(&self) -> Value {
        match self {
            Self::PerUnit(_) => Value::Null,
            Self::Graduated(tiers) | Self::Volume(tiers) => tiers
                .iter()
                .map(|tier| {
                    json!({
                        "flat_amount": tier.flat.to_whole(),
                        "flat_amount_decimal": tier.flat.to_string(),
                        "unit_amount": tier.unit.to_whole(),
                        "unit_amount_decimal": tier.unit.to_string(),
                        "up_to": tier.up_to,
                    })
                })
                .collect(),
        }
    }
}

fn graduated(tiers: &[Tier], quantity: u64) -> Option<i128> {
    let (mut total, mut below) = (0_i128, 0_u64);
    for tier in tiers {
        if quantity <= below && below > 0 {
            break;
        }
        let upper = tier.up_to.map_or(quantity, |limit| limit.min(quantity));
        let units = upper.saturating_sub(below);
        total = total
            .checked_add(tier.unit.0.checked_mul(i128::from(units))?)?
            .checked_add(if quantity > 0 { tier.flat.0 } else { 0 })?;
        below = upper;
        if tier.up_to.is_none() {
            break;
        }
    }
    Some(total)
}

/// Takes `name` or `name_decimal`, at most one of them.
pub fn take_decimal(params: &mut Params, name: &str) -> Result<Option<Decimal>, ApiError> {
    let decimal_name = format!("{name}_decimal");
    let whole = params.count(name)?;
    let decimal = params.text(&decimal_name)?;
    match (whole, decimal) {
        (Some(_), Some(_)) => Err(ApiError::bad_param(
            &params.name(name),
            format!("You may only specify one of these parameters: {name}, {decimal_name}."),
        )),
        (Some(whole), None) => Ok(Some(Decimal(i128::from(whole) * ONE))),
        (None, Some(text)) => Decimal::parse(&text).map(Some).ok_or_else(|| {
            let name = params.name(&decimal_name);
            ApiError::bad_param(
                &name,
                format!("Invalid decimal: {text}; must contain at maximum twelve decimal places."),
            )
        }),
        (None, None) => Ok(None),
    }
}

/// Takes `billing_scheme`, `tiers`, `tiers_mode` and the unit amount.
pub fn take_scheme(params: &mut Params) -> Result<Scheme, ApiError> {
    let scheme = params.choice("billing_scheme", &["per_unit", "tiered"])?;
    let mode = params.choice("tiers_mode", &["graduated", "volume"])?;
    if scheme != Some("tiered") {
        let unit = take_decimal(params, "unit_amount")?
            .ok_or_else(|| ApiError::missing_param("unit_amount"))?;
        return Ok(Scheme::PerUnit(unit));
    }
    let tiers = params
        .list("tiers")?
        .ok_or_else(|| ApiError::missing_param("tiers"))?
        .into_iter()
        .map(take_tier)
        .collect::<Result<Vec<_>, _>>()?;
    let ascending = tiers
        .windows(2)
        .all(|pair| match (pair[0].up_to, pair[1].up_to) {
            (Some(first), Some(second)) => first < second,
            (Some(_), None) => true,
            (None, _) => false,
        });
    if !ascending || tiers.last().is_none_or(|tier| tier.up_to.is_some()) {
        return Err(ApiError::bad_param(
            "tiers",
            "Tiers must ascend, and the last one must be up to `inf`.",
        ));
    }
    match mode {
        Some("volume") => Ok(Scheme::Volume(tiers)),
        Some(_) => Ok(Scheme::Graduated(tiers)),
        None => Err(ApiError::missing_param("tiers_mode")),
    }
}

fn take_tier(mut params: Params) -> Result<Tier, ApiError> {
    let text = params.required("up_to")?;
    let up_to = match text.as_str() {
        "inf" => None,
        number => Some(number.parse().map_err(|_| {
            ApiError::bad_param(&params.name("up_to"), format!("Invalid up_to: {number}"))
        })?),
    };
    let (flat, unit) = (
        take_decimal(&mut params, "flat_amount")?,
        take_decimal(&mut params, "unit_amount")?,
    );
    let name = params.name("unit_amount");
    params.finish()?;
    if flat.is_none() && unit.is_none() {
        return Err(ApiError::missing_param(&name));
    }
    let zero = Decimal::whole(0);
    Ok(Tier {
        up_to,
        flat: flat.unwrap_or(zero),
        unit: unit.unwrap_or(zero),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).expect("a decimal")
    }

    #[test]
    fn decimals_are_exact_and_print_as_written() {
        for text in ["0", "12", "0.001", "0.000000000001", "999999.5"] {
            assert_eq!(decimal(text).to_string(), text);
        }
        for text in ["", ".5", "1.", "-1", "1e3", "0.0000000000001"] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }

    #[test]
    fn usage_is_rounded_once_and_not_for_each_unit() {
        let price = Scheme::PerUnit(decimal("0.001"));
        assert_eq!(price.amount(1_234_567), Some(1_235));
        assert_eq!(price.amount(499), Some(0));
    }

    #[test]
    fn a_first_tier_of_zero_includes_units() {
        let tier = |up_to, unit: &str| Tier {
            up_to,
            flat: Decimal::whole(0),
            unit: decimal(unit),
        };
        let graduated = Scheme::Graduated(vec![tier(Some(100), "0"), tier(None, "5")]);
        assert_eq!(graduated.amount(0), Some(0));
        assert_eq!(graduated.amount(100), Some(0));
        assert_eq!(graduated.amount(103), Some(15));
        let volume = Scheme::Volume(vec![tier(Some(100), "7"), tier(None, "5")]);
        assert_eq!(volume.amount(103), Some(515));
    }
}
