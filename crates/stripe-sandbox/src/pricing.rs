//! Pricing: what a number of units costs. Decimals are exact, and rounding is
//! explicit.

use std::fmt;

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::params::Params;
use crate::validate;

/// Stripe allows twelve decimal places.
const MAX_PLACES: usize = 12;
const SCALE: i128 = 1_000_000_000_000;

/// An amount in minor units with up to twelve decimal places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecimalAmount(i128);

impl DecimalAmount {
    #[must_use]
    pub const fn whole(amount: i64) -> Self {
        Self(amount as i128 * SCALE)
    }

    /// Parses `0.001`, without sign or exponent.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || whole.len() > 15 || fraction.len() > MAX_PLACES {
            return None;
        }
        if !digits(whole) || !digits(fraction) || text.ends_with('.') {
            return None;
        }
        let whole: i128 = whole.parse().ok()?;
        let fraction: i128 = format!("{fraction:0<MAX_PLACES$}").parse().ok()?;
        Some(Self(whole * SCALE + fraction))
    }

    /// Like [`DecimalAmount::parse`], with an optional minus sign.
    #[must_use]
    pub fn parse_signed(text: &str) -> Option<Self> {
        match text.strip_prefix('-') {
            Some(size) => Self::parse(size).map(|size| Self(-size.0)),
            None => Self::parse(text),
        }
    }

    /// The amount for a number of units, rounded half up; `None` on overflow.
    #[must_use]
    pub fn times(self, quantity: u64) -> Option<i64> {
        half_up(self.0.checked_mul(i128::from(quantity))?)
    }

    /// The amount in minor units, if it is whole.
    #[must_use]
    pub fn to_whole(self) -> Option<i64> {
        if self.0 % SCALE == 0 {
            i64::try_from(self.0 / SCALE).ok()
        } else {
            None
        }
    }
}

impl fmt::Display for DecimalAmount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0 {
            formatter.write_str("-")?;
        }
        let size = self.0.unsigned_abs();
        let (whole, fraction) = (size / SCALE.unsigned_abs(), size % SCALE.unsigned_abs());
        if fraction == 0 {
            return write!(formatter, "{whole}");
        }
        let digits = format!("{fraction:0>MAX_PLACES$}");
        write!(formatter, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

/// A tier of a tiered price.
#[derive(Debug, Clone, Copy)]
pub struct Tier {
    up_to: Option<u64>,
    flat: Option<DecimalAmount>,
    unit: DecimalAmount,
}

/// How a quantity is priced.
#[derive(Debug, Clone)]
pub enum Scheme {
    PerUnit(DecimalAmount),
    /// Each unit at the rate of the tier it falls in.
    Graduated(Vec<Tier>),
    /// All units at the rate of the tier that the total falls in.
    Volume(Vec<Tier>),
}

/// A separately rounded part of the price of a quantity. Each becomes a line of
/// an invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PricedLine {
    /// The number of the tier, from 1, if the price is tiered.
    pub tier: Option<usize>,
    /// The units it covers; zero for a flat amount.
    pub quantity: u64,
    /// The unit amount, or the flat amount.
    pub unit: DecimalAmount,
    /// Whether it is the flat amount of a tier.
    pub flat: bool,
    /// In minor units, rounded half up.
    pub amount: i64,
}

impl PricedLine {
    fn units(tier: Option<usize>, quantity: u64, unit: DecimalAmount) -> Option<Self> {
        let amount = half_up(unit.0.checked_mul(i128::from(quantity))?)?;
        Some(Self {
            tier,
            quantity,
            unit,
            flat: false,
            amount,
        })
    }

    fn flat(tier: usize, unit: DecimalAmount) -> Option<Self> {
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

/// Stripe rounds metered amounts half up, so 1.5 cents become 2.
fn half_up(exact: i128) -> Option<i64> {
    i64::try_from(exact.checked_add(SCALE / 2)?.div_euclid(SCALE)).ok()
}

impl Scheme {
    /// The lines for a quantity; `None` on overflow.
    #[must_use]
    pub fn lines(&self, quantity: u64) -> Option<Vec<PricedLine>> {
        match self {
            Self::PerUnit(unit) => Some(vec![PricedLine::units(None, quantity, *unit)?]),
            Self::Graduated(tiers) => graduated_lines(tiers, quantity),
            Self::Volume(tiers) => {
                let index = tiers
                    .iter()
                    .position(|tier| tier.up_to.is_none_or(|limit| quantity <= limit))?;
                tier_lines(index + 1, &tiers[index], quantity)
            }
        }
    }

    /// The total amount for a quantity; `None` on overflow.
    #[must_use]
    pub fn amount(&self, quantity: u64) -> Option<i64> {
        self.lines(quantity)?
            .iter()
            .try_fold(0_i64, |sum, line| sum.checked_add(line.amount))
    }

    /// The unit amount, if the price is not tiered.
    #[must_use]
    pub const fn unit(&self) -> Option<DecimalAmount> {
        match self {
            Self::PerUnit(unit) => Some(*unit),
            Self::Graduated(_) | Self::Volume(_) => None,
        }
    }

    /// The tiers in Stripe's format.
    #[must_use]
    pub fn render_tiers(&self) -> Value {
        match self {
            Self::PerUnit(_) => Value::Null,
            Self::Graduated(tiers) | Self::Volume(tiers) => tiers
                .iter()
                .map(|tier| {
                    json!({
                        "flat_amount": tier.flat.and_then(DecimalAmount::to_whole),
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

/// The lines of a tier: its units and, if it has one, its flat amount.
fn tier_lines(number: usize, tier: &Tier, quantity: u64) -> Option<Vec<PricedLine>> {
    let mut lines = vec![PricedLine::units(Some(number), quantity, tier.unit)?];
    if let Some(flat) = tier.flat {
        lines.push(PricedLine::flat(number, flat)?);
    }
    Some(lines)
}

fn graduated_lines(tiers: &[Tier], quantity: u64) -> Option<Vec<PricedLine>> {
    let (mut lines, mut below) = (Vec::new(), 0_u64);
    for (index, tier) in tiers.iter().enumerate() {
        if quantity <= below && index > 0 {
            break;
        }
        let upper = tier.up_to.map_or(quantity, |limit| limit.min(quantity));
        let units = upper.saturating_sub(below);
        let mut lines_of_tier = tier_lines(index + 1, tier, units)?;
        // Without usage no tier is entered, so no flat amount is charged.
        if quantity == 0 {
            lines_of_tier.retain(|line| !line.flat);
        }
        lines.extend(lines_of_tier);
        below = upper;
    }
    Some(lines)
}

/// Takes `name` or `name_decimal`, but not both.
pub fn take_decimal(params: &mut Params, name: &str) -> Result<Option<DecimalAmount>, ApiError> {
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
            validate::amount(&params.name(name), whole)
                .map(|whole| Some(DecimalAmount::whole(whole)))
        }
        (None, Some(text)) => DecimalAmount::parse(&text).map(Some).ok_or_else(|| {
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
    let zero = DecimalAmount::whole(0);
    Ok(Tier {
        up_to,
        flat,
        unit: unit.unwrap_or(zero),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> DecimalAmount {
        DecimalAmount::parse(text).expect("a decimal")
    }

    #[test]
    fn decimals_are_exact_and_print_as_written() {
        for text in ["0", "12", "0.001", "0.000000000001", "999999.5"] {
            assert_eq!(decimal(text).to_string(), text);
        }
        for text in ["", ".5", "1.", "-1", "1e3", "0.0000000000001"] {
            assert_eq!(DecimalAmount::parse(text), None, "{text}");
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
        // Recorded from Stripe in December 2022.
        let recorded = Scheme::Graduated(vec![
            tier(Some(1_000), Some("900"), "0"),
            tier(None, Some("0"), "3.6"),
        ]);
        let lines = recorded.lines(1_031).expect("it fits");
        let amounts: Vec<_> = lines.iter().map(|l| (l.amount, l.quantity)).collect();
        assert_eq!(amounts, [(0, 1_000), (900, 0), (112, 31), (0, 0)]);
        let tiers: Vec<_> = lines.iter().map(|l| l.tier).collect();
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
