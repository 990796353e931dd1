//! Which plan is asked for, at which of its prices, with how many seats and which add-ons.
//! Pure.

use std::cmp;
use std::collections::BTreeMap;

use super::command::ChangeRejection;
use super::preview::token::Quote;
use crate::catalogue::{Interval, MAX_SEATS, Plan};

/// What a caller asks for. What is not said stays as it is, or is as the plan has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection<'a> {
    pub tier: &'a str,
    pub interval: Option<Interval>,
    /// ISO 4217, in any case.
    pub currency: Option<&'a str>,
    /// The seats, all of them.
    pub quantity: Option<u64>,
    /// The add-ons, all of them.
    pub addons: Option<&'a AskedAddons>,
}

/// How many of each add-on are asked for, by its id. Nobody has checked the numbers yet.
pub type AskedAddons = BTreeMap<String, i64>;

impl<'a> From<&'a str> for Selection<'a> {
    fn from(tier: &'a str) -> Self {
        Self {
            tier,
            interval: None,
            currency: None,
            quantity: None,
            addons: None,
        }
    }
}

/// The units of each item that is licensed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quantities {
    /// The seats; `None` if the plan's are not licensed.
    pub seats: Option<u32>,
    /// Of the fee; `None` leaves it as it is.
    pub fee: Option<u64>,
    /// Of the price of a seat; `None` for a plan whose seats have no price of their own.
    pub beside: Option<u64>,
}

impl Quantities {
    pub fn of(plan: &Plan, seats: Option<u32>) -> Self {
        match plan.licensed_seats().zip(seats) {
            Some((of_plan, seats)) => {
                let items = of_plan.items(seats);
                Self {
                    seats: Some(seats),
                    fee: Some(items.fee),
                    beside: items.seats,
                }
            }
            None => Self::default(),
        }
    }
}

impl<'a> Selection<'a> {
    /// What a preview was of, but for the currency, which its amounts have.
    pub fn quoted(quote: &'a Quote, currency: Option<&'a str>) -> Self {
        Self {
            tier: &quote.plan_tier,
            interval: quote.interval,
            currency: currency.filter(|asked| asked.eq_ignore_ascii_case(&quote.currency)),
            quantity: quote.quantity,
            addons: quote.addons.as_ref(),
        }
    }

    /// What is not said is as it was previewed.
    pub fn or_as_quoted(self, quote: &'a Quote) -> Self {
        Self {
            interval: self.interval.or(quote.interval),
            quantity: self.quantity.or(quote.quantity),
            addons: self.addons.or(quote.addons.as_ref()),
            ..self
        }
    }

    /// The plan as it is bought: in the customer's currency, if it has one, and by the
    /// interval that is asked for, or else by the one that `held` is, or else as the plan
    /// says.
    pub fn choose(
        &self,
        plan: &Plan,
        customers: Option<&str>,
        held: Option<Interval>,
    ) -> Result<Plan, ChangeRejection> {
        self.check_currency(plan, customers)?;
        let currency = customers.or(self.currency);
        let price = match (self.interval, held) {
            (Some(interval), _) => plan.price_in(currency, Some(interval)),
            (None, Some(held)) => plan
                .price_in(currency, Some(held))
                .or_else(|| plan.price_in(currency, None)),
            (None, None) => plan.price_in(currency, None),
        };
        price
            .and_then(|price| plan.at(&price.currency, price.interval))
            .ok_or_else(|| ChangeRejection::NotOffered {
                plan: plan.tier.clone(),
                currency: currency.map(shortened),
                interval: self.interval,
                offered: offered(plan),
            })
    }

    /// Checks that no other currency is asked for than the customer's, and that the plan
    /// is sold in that.
    pub fn check_currency(
        &self,
        plan: &Plan,
        customers: Option<&str>,
    ) -> Result<(), ChangeRejection> {
        let Some(customers) = customers else {
            return Ok(());
        };
        let other = self
            .currency
            .filter(|asked| !asked.eq_ignore_ascii_case(customers));
        if other.is_none() && plan.price_in(Some(customers), None).is_some() {
            return Ok(());
        }
        Err(ChangeRejection::OtherCurrency {
            customer: customers.to_owned(),
            asked: other.map(shortened),
            offered: offered(plan),
        })
    }

    /// The seats to be had of a plan whose subscriber has `held` seats now; `None` if its
    /// seats are not licensed.
    pub fn seats(&self, plan: &Plan, held: Option<u32>) -> Result<Option<u32>, ChangeRejection> {
        let asked = match self.quantity {
            Some(quantity) => Some(
                u32::try_from(quantity)
                    .ok()
                    .filter(|seats| (1..=MAX_SEATS).contains(seats))
                    .ok_or(ChangeRejection::QuantityOutOfRange(quantity))?,
            ),
            None => None,
        };
        let Some(of_plan) = plan.licensed_seats() else {
            return match asked.filter(|asked| *asked > 1) {
                Some(_) => Err(ChangeRejection::NoSeats(plan.tier.clone())),
                None => Ok(None),
            };
        };
        let fewest = of_plan.fewest();
        match asked {
            Some(asked) if asked < fewest => Err(ChangeRejection::TooFewSeats {
                plan: plan.tier.clone(),
                fewest,
            }),
            Some(asked) => Ok(Some(asked)),
            None => Ok(Some(cmp::max(held.unwrap_or(fewest), fewest))),
        }
    }
}

/// The prices of a plan: `9.00 USD a month`.
fn offered(plan: &Plan) -> Vec<String> {
    let prices = plan.prices().into_iter();
    prices.map(|price| price.display()).collect()
}

/// What a caller wrote, no longer than an answer should be.
fn shortened(text: &str) -> String {
    text.chars().take(16).collect()
}
