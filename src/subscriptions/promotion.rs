//! Promotion codes. What customers type is looked up in Stripe, which also decides
//! whether the code holds for this customer and purchase.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::command::StripeAction;
use super::failure::Failure;
use super::state::SubscriptionState;
use super::{Subscriptions, discounts};
use crate::stripe::client::{Client, ErrorKind, Params, PromotionCode, StripeError};
use crate::stripe::objects::CouponTerms;

/// Stripe's longest code.
const MAX_CHARS: usize = 500;

/// A code that is to be redeemed, beside the discounts that stay.
#[derive(Debug, Clone)]
pub struct Redemption {
    pub promotion_code_id: String,
    /// The subscription's own discounts.
    pub kept: Vec<String>,
    /// The coupon's terms, if Stripe showed them.
    pub terms: Option<CouponTerms>,
}

impl Redemption {
    /// Stripe replaces the whole list, so that what stays is named as well.
    pub fn apply(&self, params: Params) -> Params {
        let kept = self.kept.iter().enumerate();
        let params = kept.fold(params, |params, (n, id)| {
            params.set(format!("discounts[{n}][discount]"), id)
        });
        let last = self.kept.len();
        params.set(
            format!("discounts[{last}][promotion_code]"),
            &self.promotion_code_id,
        )
    }
}

/// Whether a call with these parameters redeems a code.
pub fn redeems(params: &Params) -> bool {
    (0..)
        .map_while(|n| {
            let code = params.get(&format!("discounts[{n}][promotion_code]"));
            let kept = params.get(&format!("discounts[{n}][discount]"));
            code.or(kept).map(|_| code.is_some())
        })
        .any(|is_code| is_code)
}

/// A code as it is looked up.
pub fn check_text(code: &str) -> Result<&str, Failure> {
    let invalid = |why: String| Err(Failure::PromotionCodeInvalid(why));
    let code = code.trim();
    if code.is_empty() {
        return invalid("the promotion code is empty; leave it out, or say which".to_owned());
    }
    if code.chars().count() > MAX_CHARS {
        return invalid(format!(
            "a promotion code has at most {MAX_CHARS} characters"
        ));
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !code.bytes().all(is_plain) {
        return invalid(
            "a promotion code has only letters, digits, hyphens and underscores".to_owned(),
        );
    }
    Ok(code)
}

/// What Stripe's refusal of a call that redeems a code says about the code. Other
/// refusals stay as they are.
pub fn refusal(failure: Failure) -> Failure {
    match failure {
        Failure::Stripe(error) if is_about_code(&error) => Failure::PromotionCodeInvalid(format!(
            "the promotion code was refused: {}",
            error.message
        )),
        other => other,
    }
}

fn is_about_code(error: &StripeError) -> bool {
    let is_refusal = matches!(error.kind, ErrorKind::InvalidRequest | ErrorKind::NotFound);
    let param = error.param.as_deref().unwrap_or_default();
    // A discount that is gone by now shows that our state is out of date.
    let is_code = ["promotion_code", "coupon"]
        .iter()
        .any(|word| param.contains(word));
    let message = error.message.to_ascii_lowercase();
    let is_said = message.contains("promotion code") || message.contains("coupon");
    is_refusal && !param.contains("[discount]") && (is_code || is_said)
}

/// Of the codes that are written like this, the one that the customer may redeem, or
/// why there is none.
fn choose<'a>(
    code: &str,
    found: &'a [PromotionCode],
    customer_id: Option<&str>,
    now: Timestamp,
) -> Result<&'a PromotionCode, String> {
    let same = found
        .iter()
        .filter(|one| one.code.eq_ignore_ascii_case(code));
    let is_ours = |one: &&PromotionCode| match (&one.customer, customer_id) {
        (None, _) => true,
        (Some(theirs), Some(ours)) => theirs == ours,
        (Some(_), None) => false,
    };
    // One of the customer's own comes before one for everybody.
    let usable = same.clone().filter(|one| one.active).filter(is_ours);
    if let Some(one) = usable.max_by_key(|one| one.customer.is_some()) {
        return Ok(one);
    }
    // What says most about why: a code that is ours, then one that is in force.
    let nearest = same.max_by_key(|one| (is_ours(one), one.active));
    Err(match nearest {
        None => format!("there is no promotion code {code:?}"),
        Some(one) if !is_ours(&one) => {
            format!("the promotion code {code:?} is for another customer")
        }
        Some(one) => {
            let is_used_up = one
                .max_redemptions
                .is_some_and(|most| one.times_redeemed >= most);
            let expired = one.expires_at.filter(|end| *end <= now.as_second());
            let coupon = one.coupon();
            match (
                expired.and_then(|end| Timestamp::from_second(end).ok()),
                is_used_up,
            ) {
                (_, true) => format!("the promotion code {code:?} has been used up"),
                (Some(end), _) => format!("the promotion code {code:?} expired on {end}"),
                (None, _) if coupon["valid"] == false => {
                    format!("the coupon of the promotion code {code:?} is valid no more")
                }
                (None, _) => format!("the promotion code {code:?} is not active"),
            }
        }
    })
}

impl Subscriptions {
    /// Finds `code` in Stripe, for `action`.
    pub(super) async fn redemption(
        &self,
        client: Option<&Client>,
        code: &str,
        state: &SubscriptionState,
        action: &StripeAction<'_>,
        known: &BTreeMap<String, discounts::Applied>,
    ) -> Result<Redemption, Failure> {
        let invalid = Failure::PromotionCodeInvalid;
        let code = check_text(code)?;
        let kept = match action {
            StripeAction::Create { .. } => Vec::new(),
            StripeAction::Switch { subscription, .. }
            | StripeAction::SwitchLater { subscription, .. }
            | StripeAction::Redeem { subscription, .. } => subscription.discount_ids.clone(),
            _ => {
                return Err(invalid(
                    "nothing is charged that a promotion code could reduce".to_owned(),
                ));
            }
        };
        let client = client.ok_or(Failure::NotConfigured)?;
        let found = client.promotion_codes(code).await;
        let found = found.map_err(Failure::Stripe)?;
        let customer = state.customer_id.as_deref();
        let chosen = choose(code, &found, customer, Timestamp::now()).map_err(invalid)?;
        let is_there = |id: &String| {
            let one = known.get(id);
            one.is_some_and(|one| one.promotion_code_id.as_ref() == Some(&chosen.id))
        };
        if kept.iter().any(is_there) {
            let why =
                format!("the promotion code {code:?} is redeemed by the subscription already");
            return Err(invalid(why));
        }
        Ok(Redemption {
            promotion_code_id: chosen.id.clone(),
            kept,
            terms: CouponTerms::read(chosen.coupon()).ok(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn codes(list: serde_json::Value) -> Vec<PromotionCode> {
        serde_json::from_value(list).unwrap()
    }

    #[test]
    fn the_customers_own_code_comes_first_and_a_refusal_says_why() {
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let found = codes(json!([
            {"id": "promo_all", "code": "SPRING", "active": true},
            {"id": "promo_own", "code": "Spring", "active": true, "customer": "cus_1"},
            {"id": "promo_old", "code": "SPRING", "active": false},
        ]));
        let chosen = |customer| choose("spring", &found, customer, now).unwrap().id.clone();
        assert_eq!(chosen(Some("cus_1")), "promo_own");
        assert_eq!(chosen(Some("cus_2")), "promo_all");
        assert_eq!(chosen(None), "promo_all");
        for (one, why) in [
            (
                json!({"customer": "cus_9", "active": true}),
                "another customer",
            ),
            (
                json!({"active": false, "expires_at": 1_780_000_000}),
                "expired on 2026-05-28",
            ),
            (
                json!({"active": false, "max_redemptions": 2, "times_redeemed": 2}),
                "used up",
            ),
            (
                json!({"active": false, "promotion": {"coupon": {"valid": false}}}),
                "valid no more",
            ),
            (json!({"active": false}), "not active"),
        ] {
            let mut one = one;
            one["id"] = json!("promo_1");
            one["code"] = json!("SPRING");
            let found = codes(json!([one]));
            let refused = choose("spring", &found, Some("cus_1"), now).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
        let none = choose("spring", &[], None, now).unwrap_err();
        assert_eq!(none, "there is no promotion code \"spring\"");
    }

    #[test]
    fn what_cannot_be_a_code_is_refused_as_it_is() {
        assert_eq!(check_text(" SPRING-25_x ").unwrap(), "SPRING-25_x");
        for (code, why) in [
            ("  ", "empty"),
            ("a b", "only letters"),
            ("é", "only letters"),
        ] {
            let refused = check_text(code).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
        assert!(check_text(&"a".repeat(500)).is_ok());
        assert!(check_text(&"a".repeat(501)).is_err());
    }
}
