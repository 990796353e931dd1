//! What another fee would mean, and for whom: a question about what is sold, which changes
//! nothing.

use super::Interval;
use super::history::PlanVersion;

/// The fee that is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub plan_tier: String,
    pub currency: String,
    pub interval: Interval,
    /// In the currency's minor unit.
    pub amount: i64,
}

/// Running subscriptions of one version that pay by the interval and currency that are asked
/// about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raised {
    pub version: i32,
    pub subscriptions: i64,
    /// What each pays now; null where it was agreed in Stripe.
    pub paid_amount: Option<i64>,
    /// What each would pay more, once it is moved; negative: less.
    pub difference_amount: Option<i64>,
    /// What all of them would then pay more a month; null if it is too large a number.
    pub monthly_difference_amount: Option<i64>,
}

/// Who pays the fee that would change, version by version.
pub fn raised(versions: &[PlanVersion], asked: &Asked) -> Vec<Raised> {
    let of_plan = versions
        .iter()
        .filter(|one| one.plan_tier == asked.plan_tier);
    let paid = of_plan.flat_map(|version| {
        let prices = version.prices.iter().filter(|price| {
            price.subscriptions > 0
                && price.currency == asked.currency
                && price.interval == Some(asked.interval)
        });
        prices.map(move |price| {
            let each = price.amount.and_then(|paid| {
                let monthly = monthly(asked.amount, asked.interval);
                monthly.checked_sub(self::monthly(paid, asked.interval))
            });
            Raised {
                version: version.version,
                subscriptions: price.subscriptions,
                paid_amount: price.amount,
                difference_amount: price.amount.and_then(|paid| asked.amount.checked_sub(paid)),
                monthly_difference_amount: each
                    .and_then(|each| each.checked_mul(price.subscriptions)),
            }
        })
    });
    paid.collect()
}

/// A month's part of a fee, as recurring revenue counts it: rounded, halves up.
fn monthly(amount: i64, interval: Interval) -> i64 {
    match interval {
        Interval::Month => amount,
        Interval::Year => amount.div_euclid(12) + i64::from(amount.rem_euclid(12) >= 6),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::catalogue::history::PaidPrice;

    fn version(version: i32, prices: &[(Option<i64>, &str, Interval, i64)]) -> PlanVersion {
        let prices = prices
            .iter()
            .map(|(amount, currency, interval, subscriptions)| PaidPrice {
                amount: *amount,
                currency: (*currency).to_owned(),
                interval: Some(*interval),
                subscriptions: *subscriptions,
            });
        PlanVersion {
            plan_tier: "standard".to_owned(),
            version,
            created_at: Timestamp::UNIX_EPOCH,
            in_file: false,
            subscriptions: 0,
            prices: prices.collect(),
            changes: Vec::new(),
            terms: None,
        }
    }

    #[test]
    fn each_version_pays_the_difference_to_its_own_fee() {
        use Interval::{Month, Year};
        let versions = [
            version(
                1,
                &[
                    (Some(9_900), "usd", Month, 3),
                    (Some(9_900), "eur", Month, 5),
                ],
            ),
            version(
                2,
                &[
                    (Some(11_900), "usd", Month, 2),
                    (Some(99_000), "usd", Year, 4),
                ],
            ),
            version(
                3,
                &[(None, "usd", Month, 1), (Some(12_900), "usd", Month, 0)],
            ),
        ];
        let ask = |interval, amount| {
            let asked = Asked {
                plan_tier: "standard".to_owned(),
                currency: "usd".to_owned(),
                interval,
                amount,
            };
            let found = raised(&versions, &asked).into_iter();
            let found = found.map(|one| {
                let differences = (one.difference_amount, one.monthly_difference_amount);
                (one.version, one.subscriptions, differences)
            });
            found.collect::<Vec<_>>()
        };
        assert_eq!(
            ask(Month, 10_900),
            [
                (1, 3, (Some(1_000), Some(3_000))),
                (2, 2, (Some(-1_000), Some(-2_000))),
                (3, 1, (None, None)),
            ]
        );
        // 990.06 a year is 82.505 a month, which is 82.51: a cent more than 82.50.
        assert_eq!(ask(Year, 99_006), [(2, 4, (Some(6), Some(4)))]);
        assert_eq!(ask(Year, 99_005), [(2, 4, (Some(5), Some(0)))]);
    }
}
