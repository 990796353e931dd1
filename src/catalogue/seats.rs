//! Seats: so many people may use the product.
//!
//! Licensed seats are bought, and what was bought is the hard limit of their metric.
//! Metered seats are a level that is charged as it is used, like any other metric.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use toml::Spanned;
use utoipa::ToSchema;

use super::addons::Added;
use super::file::Problem;
use super::prices::{self, SeatPriceEntry};
use super::quotas::{RateEntry, check_rates};
use super::{Aggregation, Metric, OverLimit, Plan, Price, Quota};

/// The most seats that one subscription has.
pub const MAX_SEATS: u32 = 1_000_000;

/// The seats of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seats {
    pub metric: String,
    /// Those that come with the fee, or where the fee is for each seat, the fewest that
    /// are sold.
    pub included: u32,
    pub mode: SeatMode,
    /// The price of each licensed seat beyond the included ones, by currency and interval;
    /// empty if the plan's fee is charged for each seat.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prices: Vec<Price>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SeatMode {
    /// Bought in advance; what was bought is the limit.
    Licensed,
    /// Charged as used.
    Metered,
}

/// How many units of a subscription's licensed items a number of seats comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeatItems {
    /// Of the plan's fee.
    pub fee: u64,
    /// Of the price of a seat; `None` if seats have no price of their own.
    pub seats: Option<u64>,
}

impl Seats {
    /// The fewest that are sold.
    pub fn fewest(&self) -> u32 {
        self.included.max(1)
    }

    /// The units of each item that `seats` seats come to.
    pub fn items(&self, seats: u32) -> SeatItems {
        match self.prices.is_empty() {
            true => SeatItems {
                fee: seats.into(),
                seats: None,
            },
            false => SeatItems {
                fee: 1,
                seats: Some(seats.saturating_sub(self.included).into()),
            },
        }
    }

    /// The seats that these units come to: of the fee, one if that is not said, and of
    /// the price of a seat. No more than can be stored.
    pub fn bought(&self, fee: Option<i64>, seats: i64) -> u32 {
        let most = i64::from(i32::MAX);
        let bought = match self.prices.is_empty() {
            true => fee.unwrap_or(1),
            false => seats.saturating_add(self.included.into()),
        };
        u32::try_from(bought.clamp(0, most)).unwrap_or(0)
    }
}

impl Plan {
    /// Its seats, if they are bought.
    pub fn licensed_seats(&self) -> Option<&Seats> {
        let seats = self.seats.as_ref();
        seats.filter(|seats| seats.mode == SeatMode::Licensed)
    }

    /// What a further seat costs where the plan is bought at its price, if seats have a
    /// price of their own.
    pub fn seat_price(&self) -> Option<&Price> {
        let mut prices = self.licensed_seats()?.prices.iter();
        prices.find(|price| price.point() == self.price.point())
    }

    /// The plan with `seats` seats, or if that is not said, the fewest.
    pub fn with_seats(mut self, seats: Option<u32>) -> Self {
        let Some(of_plan) = self.licensed_seats() else {
            return self;
        };
        let limit = seats.unwrap_or(of_plan.fewest());
        let metric = of_plan.metric.clone();
        if let Some(quota) = self.quotas.get_mut(&metric) {
            quota.quota = Some(limit.into());
        }
        self
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SeatsEntry {
    metric: Spanned<String>,
    #[serde(default)]
    included: Option<Spanned<i64>>,
    mode: SeatMode,
    #[serde(default)]
    price: Option<Spanned<SeatCost>>,
}

/// The price of a licensed seat, or the rate of a metered one.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "the price of a seat must be like { amount = 1_500 }, with interval (month or year) \
                 and currency where the plan has several prices, or with mode = \"metered\" like \"5.00\""
)]
enum SeatCost {
    Rate(String),
    One(SeatPriceEntry),
    ByPrice(Vec<SeatPriceEntry>),
    Rates(BTreeMap<String, String>),
}

/// The seats of a plan with these prices, and the quota that they are.
pub(super) fn check_seats(
    tier: &str,
    metrics: &BTreeMap<String, Metric>,
    sold: &[Price],
    entry: Spanned<SeatsEntry>,
) -> Result<(Seats, Quota), Problem> {
    let (at, entry) = (entry.span().start, entry.into_inner());
    let metric_at = entry.metric.span().start;
    let metric = entry.metric.into_inner();
    match metrics.get(&metric) {
        None => return Err((metric_at, format!("{metric:?} is not among [metrics]"))),
        Some(found) if found.aggregation != Aggregation::Last => {
            return Err((
                metric_at,
                format!("seats are a level: give {metric:?} aggregation = \"last\""),
            ));
        }
        Some(_) => {}
    }
    if !sold.iter().any(Price::is_in_stripe) {
        return Err((
            at,
            format!(
                "{tier:?} is not sold through Stripe, and seats are: say a quota of {metric:?} instead"
            ),
        ));
    }
    let included = match entry.included {
        None => 0,
        Some(included) => u32::try_from(*included.get_ref())
            .ok()
            .filter(|included| *included <= MAX_SEATS)
            .ok_or_else(|| {
                (
                    included.span().start,
                    format!("included is a number of seats from 0 to {MAX_SEATS}"),
                )
            })?,
    };
    let (prices, quota) = match entry.mode {
        SeatMode::Licensed => {
            let prices = match entry.price {
                None => Vec::new(),
                Some(price) => licensed_prices(tier, sold, price)?,
            };
            let quota = Quota {
                quota: Some(included.max(1).into()),
                over_limit: OverLimit::Hard,
                overage_rate: None,
                other_rates: BTreeMap::new(),
                grace_max: None,
                added: Added::default(),
            };
            (prices, quota)
        }
        SeatMode::Metered => (
            Vec::new(),
            metered_quota(tier, at, sold, included, entry.price)?,
        ),
    };
    let seats = Seats {
        metric,
        included,
        mode: entry.mode,
        prices,
    };
    Ok((seats, quota))
}

/// One price for each of the plan's.
fn licensed_prices(
    tier: &str,
    sold: &[Price],
    entry: Spanned<SeatCost>,
) -> Result<Vec<Price>, Problem> {
    let at = entry.span().start;
    let entries = match entry.into_inner() {
        SeatCost::One(price) => vec![price],
        SeatCost::ByPrice(prices) => prices,
        SeatCost::Rate(_) | SeatCost::Rates(_) => {
            return Err((
                at,
                "the price of a licensed seat is like a plan's: price = { amount = 1_500 }, in the \
                 minor unit; mode = \"metered\" has a rate"
                    .to_owned(),
            ));
        }
    };
    let mut prices = Vec::<Price>::new();
    for entry in entries {
        let price = prices::check_seat_price(tier, at, sold, entry)?;
        if prices.iter().any(|other| other.point() == price.point()) {
            let problem = format!(
                "the seats of {tier:?} have two prices for {}",
                price.place()
            );
            return Err((at, problem));
        }
        prices.push(price);
    }
    let has_none = |fee: &&Price| !prices.iter().any(|price| price.point() == fee.point());
    match sold.iter().find(has_none) {
        Some(fee) => Err((
            at,
            format!(
                "{tier:?} is sold for {}, and its seats have no price for that: write price = [{{ \
                 interval = …, currency = …, amount = … }}, …] with one for each of the plan's",
                fee.place()
            ),
        )),
        None => {
            prices.sort_by(|one, other| one.point().cmp(&other.point()));
            Ok(prices)
        }
    }
}

/// The level that is included, and what each further seat costs.
fn metered_quota(
    tier: &str,
    at: usize,
    sold: &[Price],
    included: u32,
    entry: Option<Spanned<SeatCost>>,
) -> Result<Quota, Problem> {
    let rate = match entry {
        None => {
            let problem = "metered seats need a price: the rate of each seat over those included, \
                           such as price = \"5.00\"";
            return Err((at, problem.to_owned()));
        }
        Some(entry) => {
            let at = entry.span().start;
            let rate = match entry.into_inner() {
                SeatCost::Rate(rate) => RateEntry::One(rate),
                SeatCost::Rates(rates) => RateEntry::ByCurrency(rates),
                SeatCost::One(_) | SeatCost::ByPrice(_) => {
                    let problem = "the price of a metered seat is a rate in the major unit, such \
                                   as price = \"5.00\"; mode = \"licensed\" has an amount";
                    return Err((at, problem.to_owned()));
                }
            };
            check_rates(tier, sold, rate).map_err(|problem| (at, problem))?
        }
    };
    let (overage_rate, other_rates) = rate;
    Ok(Quota {
        quota: Some(Decimal::from(included)),
        over_limit: OverLimit::Overage,
        overage_rate: Some(overage_rate),
        other_rates,
        grace_max: None,
        added: Added::default(),
    })
}
