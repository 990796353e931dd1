//! Promotion codes: what customers type in to redeem a coupon.

use serde_json::{Value, json};

use crate::call::{Call, Route, get, post};
use crate::coupons::take_future;
use crate::error::ApiError;
use crate::list::Page;
use crate::metadata::{Metadata, MetadataChange};
use crate::params::Params;
use crate::shape::Shape;
use crate::state::State;
use crate::store::Keyed;
use crate::validate;

pub const ROUTES: &[Route] = &[
    post("/v1/promotion_codes", create),
    get("/v1/promotion_codes", list),
    get("/v1/promotion_codes/{id}", retrieve),
    post("/v1/promotion_codes/{id}", update),
];

const MAX_CODE_CHARS: usize = 500;

/// What limits the redemption of a code.
#[derive(Debug, Clone, Default)]
pub struct Restrictions {
    /// Only customers who never paid.
    pub first_time: bool,
    /// The least amount, and its currency.
    pub minimum: Option<(i64, String)>,
}

/// A promotion code.
#[derive(Debug, Clone)]
pub struct PromotionCode {
    id: String,
    created_secs: i64,
    code: String,
    pub coupon: String,
    active: bool,
    customer: Option<String>,
    expires_at: Option<i64>,
    max_redemptions: Option<u64>,
    times_redeemed: u64,
    pub restrictions: Restrictions,
    metadata: Metadata,
}

impl Keyed for PromotionCode {
    fn id(&self) -> &str {
        &self.id
    }
}

impl PromotionCode {
    /// Refuses a code that the customer cannot redeem now, whatever is bought.
    pub fn check_redeemable(
        &self,
        param: &str,
        customer: &str,
        now_secs: i64,
    ) -> Result<(), ApiError> {
        let problem = if self.used_up() {
            "This promotion code has been used up."
        } else if self.expires_at.is_some_and(|until| until <= now_secs) {
            "This promotion code has expired."
        } else if !self.active {
            "This promotion code is inactive."
        } else if self.customer.as_deref().is_some_and(|id| id != customer) {
            "This promotion code cannot be redeemed because it belongs to a different customer."
        } else {
            return Ok(());
        };
        Err(ApiError::bad_param(param, problem))
    }

    fn used_up(&self) -> bool {
        self.max_redemptions
            .is_some_and(|most| self.times_redeemed >= most)
    }

    /// Counts a redemption. The last one deactivates the code.
    pub fn redeem(&mut self) {
        self.times_redeemed += 1;
        self.active &= !self.used_up();
    }

    /// The API object.
    #[must_use]
    pub fn render(&self, state: &State, shape: Shape) -> Value {
        let minimum = self.restrictions.minimum.as_ref();
        let expired = self
            .expires_at
            .is_some_and(|until| until <= state.wall_secs);
        let mut object = json!({
            "id": self.id,
            "object": "promotion_code",
            "active": self.active && !expired,
            "code": self.code,
            "created": self.created_secs,
            "customer": self.customer,
            "customer_account": null,
            "expires_at": self.expires_at,
            "livemode": false,
            "max_redemptions": self.max_redemptions,
            "metadata": self.metadata,
            "restrictions": {
                "first_time_transaction": self.restrictions.first_time,
                "minimum_amount": minimum.map(|(amount, _)| amount),
                "minimum_amount_currency": minimum.map(|(_, currency)| currency),
            },
            "times_redeemed": self.times_redeemed,
        });
        match shape {
            Shape::Legacy => {
                let coupon = state.coupons.get(&self.coupon);
                object["coupon"] = json!(coupon.map(|coupon| coupon.render(state.wall_secs)));
            }
            Shape::Basil => {
                object["promotion"] = json!({ "coupon": self.coupon, "type": "coupon" });
            }
        }
        object
    }
}

/// Takes the coupon: `promotion[coupon]`, or `coupon` as it was called before.
fn take_coupon(params: &mut Params, state: &State, shape: Shape) -> Result<String, ApiError> {
    let (id, name) = match shape {
        Shape::Legacy => (params.required("coupon")?, "coupon"),
        Shape::Basil => {
            let mut promotion = params
                .map("promotion")?
                .ok_or_else(|| ApiError::missing_param("promotion"))?;
            promotion
                .choice("type", &["coupon"])?
                .ok_or_else(|| ApiError::missing_param("promotion[type]"))?;
            let coupon = promotion.text("coupon")?.ok_or_else(|| {
                ApiError::bad_param(
                    "promotion.coupon",
                    "You must pass promotion.coupon when passing promotion",
                )
            })?;
            promotion.finish()?;
            (coupon, "promotion[coupon]")
        }
    };
    state.coupon(&id, name)?;
    Ok(id)
}

fn take_restrictions(params: &mut Params) -> Result<Restrictions, ApiError> {
    let Some(mut restrictions) = params.map("restrictions")? else {
        return Ok(Restrictions::default());
    };
    let first_time = restrictions
        .boolean("first_time_transaction")?
        .unwrap_or(false);
    let amount = restrictions.integer("minimum_amount")?;
    let currency = restrictions.text("minimum_amount_currency")?;
    restrictions.finish_rejecting(&["currency_options"])?;
    let minimum = match (amount, currency) {
        (None, None) => None,
        (Some(amount), Some(currency)) if amount > 0 => {
            let name = "restrictions[minimum_amount_currency]";
            Some((amount, validate::currency(name, &currency)?))
        }
        (Some(_), Some(_)) => {
            return Err(ApiError::bad_param(
                "restrictions[minimum_amount]",
                "This value must be greater than or equal to 1.",
            ));
        }
        (Some(_), None) => {
            return Err(ApiError::missing_param(
                "restrictions[minimum_amount_currency]",
            ));
        }
        (None, Some(_)) => return Err(ApiError::missing_param("restrictions[minimum_amount]")),
    };
    Ok(Restrictions {
        first_time,
        minimum,
    })
}

fn check_code(code: &str) -> Result<(), ApiError> {
    let fits = code
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if fits {
        return Ok(());
    }
    Err(ApiError::bad_param(
        "code",
        format!(
            "This value must match the regex pattern. (/\\A[a-zA-Z0-9\\-_]+\\z/ does not match for the value {code})."
        ),
    ))
}

/// Codes are the same whatever their case.
fn check_unused(state: &State, code: &str, but: &str) -> Result<(), ApiError> {
    let taken = state
        .promotion_codes
        .iter()
        .any(|known| known.active && known.id != but && known.code.eq_ignore_ascii_case(code));
    if taken {
        return Err(ApiError::bad_param(
            "code",
            format!("An active promotion code with `code: {code}` already exists."),
        ));
    }
    Ok(())
}

fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let shape = call.shape;
    let state = &mut *call.state;
    let now = state.wall_secs;
    let code = params.text_up_to("code", MAX_CODE_CHARS)?;
    let mut promotion = PromotionCode {
        id: String::new(),
        created_secs: now,
        code: code.clone().unwrap_or_default(),
        coupon: take_coupon(&mut params, state, shape)?,
        active: params.boolean("active")?.unwrap_or(true),
        customer: params.text("customer")?,
        expires_at: take_future(&mut params, "expires_at", now)?,
        max_redemptions: params.count("max_redemptions")?,
        times_redeemed: 0,
        restrictions: take_restrictions(&mut params)?,
        metadata: MetadataChange::take(&mut params)?.initial(),
    };
    params.finish_rejecting(&["customer_account"])?;
    check_code(&promotion.code)?;
    if let Some(customer) = &promotion.customer {
        state.customer(customer, "customer")?;
    }
    if promotion.active && code.is_some() {
        check_unused(state, &promotion.code, "")?;
    }
    if code.is_none() {
        promotion.code = state.ids.token(8).to_uppercase();
    }
    promotion.id = state.ids.next("promo");
    let id = promotion.id.clone();
    state.promotion_codes.insert(promotion);
    state.emit("promotion_code.created", &id, now);
    call.render(&id)
}

fn find<'a>(state: &'a State, id: &str) -> Result<&'a PromotionCode, ApiError> {
    state
        .promotion_codes
        .get(id)
        .ok_or_else(|| ApiError::no_such("promotion code", id, "id").param("promotion_code"))
}

fn update(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let id = call.id();
    let state = &mut *call.state;
    let mut promotion = find(state, &id)?.clone();
    let active = params.boolean("active")?;
    let metadata = MetadataChange::take(&mut params)?;
    metadata.check_room(&promotion.metadata, "metadata")?;
    params.finish_rejecting(&["restrictions"])?;
    if active == Some(true) && !promotion.active {
        if promotion.used_up() {
            return Err(ApiError::bad_param(
                "active",
                "This promotion code has been used up and cannot be activated.",
            ));
        }
        check_unused(state, &promotion.code, &id)?;
    }
    promotion.active = active.unwrap_or(promotion.active);
    metadata.apply(&mut promotion.metadata);
    let (before, now) = (state.snapshot(&id), state.wall_secs);
    state.promotion_codes.insert(promotion);
    state.emit_update("promotion_code.updated", &id, before, now);
    call.render(&id)
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let promotion = find(call.state, &call.id())?;
    Ok(promotion.render(call.state, call.shape))
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let active = params.boolean("active")?;
    let code = params.text("code")?;
    let coupon = params.text("coupon")?;
    let created = params.range("created")?;
    let customer = params.text("customer")?;
    params.finish_rejecting(&["customer_account"])?;
    if let Some(coupon) = &coupon {
        call.state.coupon(coupon, "coupon")?;
    }
    let wall_secs = call.state.wall_secs;
    let filter = |promotion: &PromotionCode| {
        let expired = promotion.expires_at.is_some_and(|until| until <= wall_secs);
        active.is_none_or(|active| active == (promotion.active && !expired))
            && code
                .as_ref()
                .is_none_or(|code| promotion.code.eq_ignore_ascii_case(code))
            && coupon
                .as_ref()
                .is_none_or(|coupon| promotion.coupon == *coupon)
            && created.contains(promotion.created_secs)
            && (customer.is_none() || promotion.customer == customer)
    };
    call.render_page(
        &page,
        "promotion code",
        "/v1/promotion_codes",
        call.state.promotion_codes.iter().rev(),
        filter,
    )
}
