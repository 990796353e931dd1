//! Promotion codes, coupons, and what responses show of discounts.

use serde::Deserialize;
use serde_json::Value;

use super::endpoints::call;
use super::error::{ErrorKind, StripeError};
use super::{Client, Params, Response};

/// A promotion code. Its coupon is `promotion.coupon`, or `coupon` in versions before
/// 2025-09-30.clover.
#[derive(Debug, Clone, Deserialize)]
pub struct PromotionCode {
    pub id: String,
    pub code: String,
    pub active: bool,
    /// The only customer who may redeem it.
    #[serde(default)]
    pub customer: Option<String>,
    #[serde(default)]
    pub expires_at: Option<i64>,
    #[serde(default)]
    pub max_redemptions: Option<i64>,
    #[serde(default)]
    pub times_redeemed: i64,
    #[serde(default)]
    promotion: Value,
    #[serde(default)]
    coupon: Value,
}

impl PromotionCode {
    /// The coupon, as Stripe's object.
    pub fn coupon(&self) -> &Value {
        match &self.promotion["coupon"] {
            coupon @ Value::Object(_) => coupon,
            _ => &self.coupon,
        }
    }
}

/// Has a response show the subscription's discounts with their coupons' terms, and
/// the codes that were typed.
pub fn with_discounts(params: Params) -> Params {
    params
        .set("expand[0]", "discounts.source.coupon")
        .set("expand[1]", "discounts.promotion_code")
        .set("expand[2]", "items.data.discounts")
}

impl Client {
    /// All promotion codes that are written like this, whatever their case, with their
    /// coupons: of several customers, and those that hold no longer.
    pub async fn promotion_codes(&self, code: &str) -> Result<Vec<PromotionCode>, StripeError> {
        let params = Params::new()
            .set("code", code)
            .set("expand[0]", "data.promotion.coupon");
        self.all("promotion_codes.list", "/v1/promotion_codes", params)
            .await
    }

    pub async fn coupon(&self, id: &str) -> Result<Response, StripeError> {
        let name = "coupons.retrieve";
        // Merchants choose the ids of coupons, within what a path may have.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        if id.is_empty() || id.len() > 200 || id.starts_with('.') || !id.bytes().all(is_plain) {
            let message = format!("{id:?} cannot be asked for");
            return Err(StripeError::new(ErrorKind::NotFound, name, message));
        }
        let path = format!("/v1/coupons/{id}");
        self.get(call(name, &path, &Params::new())).await
    }
}
