//! What discounts take off the lines of an invoice.
//!
//! Each discount is computed on what the ones before it have left. Its amount
//! is rounded once, for all lines that it covers, and then shared among them in
//! proportion, so that the shares add up to it.

use crate::coupons::Reduction;
use crate::discounts::model::Discount;

/// What a discount can take from a line.
#[derive(Debug, Clone)]
pub struct Base {
    pub amount: i64,
    pub product: Option<String>,
    /// Prorations and credits are not discounted.
    pub discountable: bool,
}

/// The amounts off each line, discount by discount.
#[must_use]
pub fn shares(lines: &[Base], discounts: &[Discount]) -> Vec<Vec<i64>> {
    let mut left: Vec<i64> = lines
        .iter()
        .map(|line| if line.discountable { line.amount } else { 0 })
        .collect();
    let mut shares = vec![Vec::with_capacity(discounts.len()); lines.len()];
    for discount in discounts {
        let covered: Vec<i64> = lines
            .iter()
            .zip(&left)
            .map(|(line, left)| {
                if discount.covers(line.product.as_deref()) {
                    *left
                } else {
                    0
                }
            })
            .collect();
        let base: i64 = covered.iter().sum();
        let off = match &discount.reduction {
            Reduction::Percent(percent) => percent.of(base),
            Reduction::Amount(amount, _) => (*amount).min(base),
        };
        for (index, share) in apportion(off, &covered).into_iter().enumerate() {
            shares[index].push(share);
            left[index] -= share;
        }
    }
    shares
}

/// Shares an amount in proportion to the weights. Each share is rounded down,
/// and the rest goes, one by one, to the largest remainders.
fn apportion(amount: i64, weights: &[i64]) -> Vec<i64> {
    let whole: i128 = weights.iter().map(|weight| i128::from(*weight)).sum();
    if whole <= 0 || amount <= 0 {
        return vec![0; weights.len()];
    }
    let exact = |weight: i64| i128::from(amount) * i128::from(weight);
    let mut shares: Vec<i64> = weights
        .iter()
        .map(|weight| i64::try_from(exact(*weight) / whole).unwrap_or_default())
        .collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|index| std::cmp::Reverse(exact(weights[*index]) % whole));
    let given: i64 = shares.iter().sum();
    let missing = usize::try_from(amount - given).unwrap_or_default();
    for index in by_remainder.into_iter().take(missing) {
        shares[index] += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coupons::Duration;
    use crate::percent::Percent;

    fn discount(reduction: Reduction, products: &[&str]) -> Discount {
        Discount {
            id: "di_1".to_owned(),
            coupon: "C".to_owned(),
            reduction,
            duration: Duration::Forever,
            products: products.iter().map(|id| (*id).to_owned()).collect(),
            promotion_code: None,
            customer: "cus_1".to_owned(),
            subscription: None,
            start_secs: 0,
            end_secs: None,
        }
    }

    fn percent(text: &str) -> Discount {
        let percent = Percent::parse(text).expect("a percentage");
        discount(Reduction::Percent(percent), &[])
    }

    fn amount(amount: i64) -> Discount {
        discount(Reduction::Amount(amount, "usd".to_owned()), &[])
    }

    fn check(lines: &[i64], discounts: &[Discount], expected: &[&[i64]]) {
        let bases: Vec<Base> = lines
            .iter()
            .map(|amount| Base {
                amount: *amount,
                product: Some(format!("prod_{amount}")),
                discountable: *amount > 0,
            })
            .collect();
        assert_eq!(shares(&bases, discounts), expected);
    }

    #[test]
    fn a_percentage_is_rounded_once_for_all_lines() {
        check(&[999], &[percent("15")], &[&[150]]);
        check(
            &[333, 333, 333],
            &[percent("50")],
            &[&[167], &[167], &[166]],
        );
    }

    #[test]
    fn an_amount_is_shared_and_never_exceeds_the_lines() {
        check(&[1_000, 3_000], &[amount(500)], &[&[125], &[375]]);
        check(&[300, 100], &[amount(5_000)], &[&[300], &[100]]);
    }

    #[test]
    fn discounts_follow_one_another_and_spare_credits() {
        check(
            &[1_000, -400],
            &[percent("50"), amount(200), percent("10")],
            &[&[500, 200, 30], &[0, 0, 0]],
        );
    }

    #[test]
    fn a_coupon_for_a_product_spares_the_others() {
        let reduction = Reduction::Percent(Percent::parse("10").expect("a percentage"));
        let limited = discount(reduction, &["prod_2000"]);
        check(&[1_000, 2_000], &[limited], &[&[0], &[200]]);
    }
}
