//! What a number of units costs: exact decimals, tiers, named rounding.

use std::fmt;

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::params::Params;
use crate::validate;

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

    /// The same, with a sign before it.
    #[must_use]
    pub fn parse_signed(text: &str) -> Option<Self> {
        match text.strip_prefix('-') {
            Some(size) => Self::parse(size).map(|size| Self(-size.0)),
            None => Self::parse(text),
        }
    }

    /// So many of it in minor units, rounded half up; `None` on overflow.
    #[must_use]
    pub fn times(self, quantity: u64) -> Option<i64> {
        half_up(self.0.checked_mul(i128::from(quantity))?)
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
        if self.0 < 0 {
            formatter.write_str("-")?;
        }
        let size = self.0.unsigned_abs();
        let (whole, fraction) = (size / ONE.unsigned_abs(), size % ONE.unsigned_abs());
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
    flat: Option<Decimal>,
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

/// A part of what a number of units costs: a line of an invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The tier it is of, from 1, where there are tiers.
    pub tier: Option<usize>,
    /// The units it is for; none, where it is the tier's flat amount.
    pub quantity: u64,
    /// What one of the units costs; the amount, where it is flat.
    pub unit: Decimal,
    /// Whether it is the tier's flat amount.
    pub flat: bool,
    /// In minor units, rounded half up by itself.
    pub amount: i64,
}

impl Part {
    fn units(tier: Option<usize>, quantity: u64, unit: Decimal) -> Option<Self> {
        let amount = half_up(unit.0.checked_mul(i128::from(quantity))?)?;
        Some(Self {
            tier,
            quantity,
            unit,
            flat: false,
            amount,
        })
    }

    fn flat(tier: usize, unit: Decimal) -> Option<Self> {
        let amount = half_up(unit.0)?;
        Some(Self {
            tier: Some(tier),
            quantity: 0,
            unit,
            flat: true,
            amount,
        })
    }
}

/// Stripe rounds metered amounts half up: 1.5 cents are 2.
fn half_up(exact: i128) -> Option<i64> {
    i64::try_from(exact.checked_add(ONE / 2)?.div_euclid(ONE)).ok()
}

impl Scheme {
    /// The lines for so many units; `None` on overflow.
    #[must_use]
    pub fn parts(&self, quantity: u64) -> Option<Vec<Part>> {
        match self {
            Self::PerUnit(unit) => Some(vec![Part::units(None, quantity, *unit)?]),
            Self::Graduated(tiers) => graduated(tiers, quantity),
            Self::Volume(tiers) => {
                let index = tiers
                    .iter()
                    .position(|tier| tier.up_to.is_none_or(|limit| quantity <= limit))?;
                of_tier(index + 1, &tiers[index], quantity)
            }
        }
    }

    /// The amount for so many units; `None` on overflow.
    #[must_use]
    pub fn amount(&self, quantity: u64) -> Option<i64> {
        self.parts(quantity)?
            .iter()
            .try_fold(0_i64, |sum, part| sum.checked_add(part.amount))
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
                        "flat_amount": tier.flat.and_then(Decimal::to_whole),
                        "flat_amount_decimal": tier.flat.map(|flat| flat.to_string()),
                        "unit_amount": tier.unit.to_whole(),
                        "unit_amount_decimal": tier.unit.to_string(),
                        "up_to": tier.up_to,
                    })
                })
                .collect(),
        }
    }
}

/// What a tier's units cost, and its flat amount where it has one.
fn of_tier(number: usize, tier: &Tier, quantity: u64) -> Option<Vec<Part>> {
    let mut parts = vec![Part::units(Some(number), quantity, tier.unit)?];
    if let Some(flat) = tier.flat {
        parts.push(Part::flat(number, flat)?);
    }
    Some(parts)
}

fn graduated(tiers: &[Tier], quantity: u64) -> Option<Vec<Part>> {
    let (mut parts, mut below) = (Vec::new(), 0_u64);
    for (index, tier) in tiers.iter().enumerate() {
        if quantity <= below && index > 0 {
            break;
        }
        let upper = tier.up_to.map_or(quantity, |limit| limit.min(quantity));
        let units = upper.saturating_sub(below);
        let mut of_this = of_tier(index + 1, tier, units)?;
        // Nothing was used: no tier was entered, and none of its fee is due.
        if quantity == 0 {
            of_this.retain(|part| !part.flat);
        }
        parts.extend(of_this);
        below = upper;
    }
    Some(parts)
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
        (Some(whole), None) => {
            let whole = i64::try_from(whole).unwrap_or(i64::MAX);
            validate::amount(&params.name(name), whole).map(|whole| Some(Decimal::whole(whole)))
        }
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
        flat,
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
    fn each_tier_is_a_line_and_rounded_by_itself() {
        let half = Scheme::PerUnit(decimal("0.05"));
        assert_eq!(half.amount(30), Some(2), "1.5 cents");
        let tier = |up_to, flat: Option<&str>, unit: &str| Tier {
            up_to,
            flat: flat.map(decimal),
            unit: decimal(unit),
        };
        let two = Scheme::Graduated(vec![tier(Some(3), None, "0.5"), tier(None, None, "0.5")]);
        assert_eq!(two.amount(6), Some(4), "1.5 cents twice");
        // As recorded in December 2022.
        let recorded = Scheme::Graduated(vec![
            tier(Some(1_000), Some("900"), "0"),
            tier(None, Some("0"), "3.6"),
        ]);
        let parts = recorded.parts(1_031).expect("it fits");
        let lines: Vec<_> = parts.iter().map(|p| (p.amount, p.quantity)).collect();
        assert_eq!(lines, [(0, 1_000), (900, 0), (112, 31), (0, 0)]);
        let tiers: Vec<_> = parts.iter().map(|p| p.tier).collect();
        assert_eq!(tiers, [Some(1), Some(1), Some(2), Some(2)]);
        assert_eq!(recorded.amount(0), Some(0));
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
            flat: None,
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
