//! The quotas of the catalogue's file, validated so that the database accepts
//! them unchanged.

use std::collections::{BTreeMap, BTreeSet};

use billing_domain::money;
use rust_decimal::Decimal;
use serde::Deserialize;
use toml::Spanned;

use super::addons::Added;
use super::file::Problem;
use super::prices::check_currency;
use super::{GraceCeiling, Metric, OverLimit, Price, Quota};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QuotaEntry {
    quota: QuotaValue,
    over_limit: OverLimit,
    #[serde(default)]
    overage_rate: Option<RateEntry>,
    #[serde(default)]
    grace_max: Option<Spanned<CeilingValue>>,
}

/// A rate, or one for each currency that the plan is sold in.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a rate must be a text such as \"0.10\", or { usd = \"0.10\", eur = \"0.09\" }"
)]
pub(super) enum RateEntry {
    One(String),
    ByCurrency(BTreeMap<String, String>),
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a quota must be a number, a text such as \"0.5\", or \"unlimited\""
)]
pub(super) enum QuotaValue {
    Number(i64),
    Text(String),
}

/// A quantity, or a percentage such as `"200%"`.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum CeilingValue {
    Number(i64),
    Text(String),
}

/// The column's number of digits before and after the decimal point.
struct Digits {
    whole: u32,
    fraction: u32,
}

const OF_QUOTAS: Digits = Digits {
    whole: 20,
    fraction: 4,
};
const OF_RATES: Digits = Digits {
    whole: 12,
    fraction: 12,
};
const MAX_PERCENT: i64 = 1_000_000;

pub(super) fn check_quotas(
    tier: &str,
    tier_at: usize,
    metrics: &BTreeMap<String, Metric>,
    sold: &[Price],
    seats: Option<(&str, Quota)>,
    entries: BTreeMap<Spanned<String>, Spanned<QuotaEntry>>,
) -> Result<BTreeMap<String, Quota>, Problem> {
    let mut quotas = BTreeMap::new();
    quotas.extend(seats.map(|(metric, quota)| (metric.to_owned(), quota)));
    for (metric, entry) in entries {
        let at = metric.span().start;
        let metric = metric.into_inner();
        if !metrics.contains_key(&metric) {
            return Err((at, format!("{metric:?} is not among [metrics]")));
        }
        if quotas.contains_key(&metric) {
            let problem = format!("[plans.seats] is the quota of {metric:?}: leave this one out");
            return Err((at, problem));
        }
        let mut entry = entry.into_inner();
        let grace_max = entry.grace_max.take().map(check_ceiling).transpose()?;
        let quota = check_quota(tier, sold, entry, grace_max).map_err(|problem| (at, problem))?;
        quotas.insert(metric, quota);
    }
    match metrics.keys().find(|metric| !quotas.contains_key(*metric)) {
        Some(metric) => Err((tier_at, format!("{tier:?} says no quota for {metric:?}"))),
        None => Ok(quotas),
    }
}

/// A quantity as the file has it; `None` for no limit.
pub(super) fn check_units(value: &QuotaValue) -> Result<Option<Decimal>, String> {
    match value {
        QuotaValue::Text(word) if word == "unlimited" => Ok(None),
        QuotaValue::Text(text) => decimal(text, "quota", &OF_QUOTAS).map(Some),
        QuotaValue::Number(number) => Ok(Some(Decimal::from(*number))),
    }
}

fn check_quota(
    tier: &str,
    sold: &[Price],
    entry: QuotaEntry,
    grace_max: Option<GraceCeiling>,
) -> Result<Quota, String> {
    let quota = check_units(&entry.quota)?;
    if quota.is_some_and(|quota| quota.is_sign_negative()) {
        return Err("a quota cannot be negative; write \"unlimited\" for no limit".to_owned());
    }
    let rates = entry.overage_rate;
    let rates = rates
        .map(|rates| check_rates(tier, sold, rates))
        .transpose()?;
    let (rate, other_rates) = match rates {
        Some((rate, others)) => (Some(rate), others),
        None => (None, BTreeMap::new()),
    };
    if let Some(ceiling) = grace_max {
        let Some(quota) = quota.filter(|_| entry.over_limit == OverLimit::Grace) else {
            return Err("a grace_max needs over_limit = \"grace\" and a quota".to_owned());
        };
        if ceiling.over(quota) < quota {
            return Err(below());
        }
    }
    let billed = entry.over_limit == OverLimit::Overage && quota.is_some();
    match (billed, rate) {
        (true, None) => Err("over_limit = \"overage\" needs an overage_rate".to_owned()),
        (false, Some(_)) => {
            Err("an overage_rate needs over_limit = \"overage\" and a quota".to_owned())
        }
        _ => Ok(Quota {
            quota,
            over_limit: entry.over_limit,
            overage_rate: rate,
            other_rates,
            grace_max,
            added: Added::default(),
        }),
    }
}

/// The rate in the currency of the plan's first price, and those in its others.
pub(super) fn check_rates(
    tier: &str,
    sold: &[Price],
    entry: RateEntry,
) -> Result<(Decimal, BTreeMap<String, Decimal>), String> {
    let currencies: BTreeSet<&str> = sold.iter().map(|price| price.currency.as_str()).collect();
    let own = sold.first().map_or("", |price| price.currency.as_str());
    let known = Vec::from_iter(currencies.iter().copied()).join(", ");
    let by_currency = match entry {
        RateEntry::ByCurrency(rates) => rates,
        RateEntry::One(rate) if currencies.len() == 1 => BTreeMap::from([(own.to_owned(), rate)]),
        RateEntry::One(_) => {
            return Err(format!(
                "{tier:?} is sold in {known}, and this rate is in one currency: write one for each, \
                 such as {{ {own} = \"0.10\", … }}"
            ));
        }
    };
    let mut rates = BTreeMap::new();
    for (currency, rate) in by_currency {
        let code = check_currency(&currency)?;
        if !currencies.contains(code.as_str()) {
            return Err(format!(
                "{tier:?} has a rate in {code}, and no price: it is sold in {known}"
            ));
        }
        let rate = decimal(&rate, "overage_rate", &OF_RATES)?;
        if rate.is_sign_negative() {
            return Err("an overage_rate cannot be negative".to_owned());
        }
        check_step(rate, &code)?;
        rates.insert(code, rate);
    }
    match currencies
        .iter()
        .find(|currency| !rates.contains_key(**currency))
    {
        Some(missing) => Err(format!(
            "{tier:?} is sold in {missing}, and has no rate in it: it needs one for each of {known}"
        )),
        None => {
            let rate = rates.remove(own).unwrap_or_default();
            Ok((rate, rates))
        }
    }
}

/// Where Stripe charges in steps of several minor units, a rate is a whole number of steps:
/// so is every amount of usage then, whatever Stripe makes of one that is not.
fn check_step(rate: Decimal, currency: &str) -> Result<(), String> {
    let step = money::step(currency);
    let minor = rate * Decimal::from(10_u32.pow(money::decimals(currency)));
    if step == 1 || (minor % Decimal::from(step)).is_zero() {
        return Ok(());
    }
    Err(format!(
        "an overage_rate is {}, but Stripe charges {} in steps of {}: write a multiple of that, and \
         count in larger units if need be",
        rate.normalize(),
        currency.to_ascii_uppercase(),
        money::major(step, currency)
    ))
}

pub(super) fn check_ceiling(value: Spanned<CeilingValue>) -> Result<GraceCeiling, Problem> {
    let at = value.span().start;
    let read = match value.into_inner() {
        CeilingValue::Number(number) => Ok(GraceCeiling::Quantity(number.into())),
        CeilingValue::Text(text) => read_ceiling(&text),
    };
    let valid = read.and_then(|ceiling| match ceiling {
        GraceCeiling::Percent(percent) if percent > MAX_PERCENT.into() => {
            Err(format!("a grace_max is at most {MAX_PERCENT}%"))
        }
        GraceCeiling::Percent(percent) if percent < Decimal::ONE_HUNDRED => Err(below()),
        GraceCeiling::Quantity(quantity) if quantity.is_sign_negative() => Err(below()),
        valid => Ok(valid),
    });
    valid.map_err(|problem| (at, problem))
}

fn read_ceiling(text: &str) -> Result<GraceCeiling, String> {
    let (digits, percent) = match text.strip_suffix('%') {
        Some(digits) => (digits, true),
        None => (text, false),
    };
    if digits.parse::<Decimal>().is_err() {
        return Err(format!(
            "grace_max {text:?}: write a percentage of the quota (\"200%\") or a number"
        ));
    }
    let number = decimal(digits, "grace_max", &OF_QUOTAS)?;
    Ok(if percent {
        GraceCeiling::Percent(number)
    } else {
        GraceCeiling::Quantity(number)
    })
}

/// A ceiling as the file writes it: a percentage such as `200%`, or a quantity.
pub(super) mod ceiling_text {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::{GraceCeiling, read_ceiling};

    pub fn write(ceiling: GraceCeiling) -> String {
        match ceiling {
            GraceCeiling::Percent(percent) => format!("{}%", percent.normalize()),
            GraceCeiling::Quantity(quantity) => quantity.normalize().to_string(),
        }
    }

    pub fn serialize<S: Serializer>(
        ceiling: &Option<GraceCeiling>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        ceiling.map(write).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<GraceCeiling>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| read_ceiling(&text).map_err(D::Error::custom))
            .transpose()
    }
}

/// Reads what the database keeps of a ceiling. What cannot be read is no ceiling that
/// this program knows.
pub fn stored_ceiling(text: &str) -> Option<GraceCeiling> {
    read_ceiling(text).ok()
}

pub fn ceiling_text(ceiling: GraceCeiling) -> String {
    ceiling_text::write(ceiling)
}

fn below() -> String {
    "a grace_max that is below the quota allows no usage over it; write at least \"100%\", or \
     over_limit = \"hard\""
        .to_owned()
}

fn decimal(text: &str, what: &str, digits: &Digits) -> Result<Decimal, String> {
    let number = Decimal::from_str_exact(text)
        .map_err(|_| format!("{what} {text:?} is no decimal number"))?;
    let Digits { whole, fraction } = digits;
    let is_whole = number.trunc().abs().to_string().len() <= *whole as usize;
    if is_whole && number.normalize().scale() <= *fraction {
        // Equal numbers are written alike, so that equal terms have one digest.
        return Ok(number.normalize());
    }
    Err(format!(
        "{what} {text:?} has at most {whole} digits before the point, and {fraction} after"
    ))
}
