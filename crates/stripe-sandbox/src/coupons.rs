//! Coupons: percentages or amounts off, for one invoice, some months or for
//! ever.

use serde_json::{Value, json};

use crate::call::{Call, Route, delete, get, post};
use crate::error::ApiError;
use crate::list::Page;
use crate::metadata::{Metadata, MetadataChange};
use crate::params::Params;
use crate::percent::Percent;
use crate::state::State;
use crate::store::Keyed;
use crate::validate;

pub const ROUTES: &[Route] = &[
    post("/v1/coupons", create),
    get("/v1/coupons", list),
    get("/v1/coupons/{id}", retrieve),
    post("/v1/coupons/{id}", update),
    delete("/v1/coupons/{id}", remove),
];

const MAX_NAME_CHARS: usize = 40;
/// Parameters that Stripe accepts and the sandbox does not support.
const UNSUPPORTED: [&str; 1] = ["currency_options"];

/// What a coupon takes off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reduction {
    Percent(Percent),
    /// In minor units of the currency.
    Amount(i64, String),
}

/// How long a discount lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duration {
    /// For one invoice.
    Once,
    /// For a number of months.
    Repeating(u16),
    Forever,
}

/// A coupon.
#[derive(Debug, Clone)]
pub struct Coupon {
    id: String,
    created_secs: i64,
    pub reduction: Reduction,
    pub duration: Duration,
    /// The products it is limited to; none means all.
    pub products: Vec<String>,
    max_redemptions: Option<u64>,
    redeem_by: Option<i64>,
    /// How often it was redeemed.
    pub times_redeemed: u64,
    name: Option<String>,
    metadata: Metadata,
    /// A deleted coupon cannot be redeemed; its discounts go on.
    pub deleted: bool,
}

impl Keyed for Coupon {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Coupon {
    /// Why the coupon cannot be redeemed, in Stripe's words.
    pub fn check_redeemable(&self, param: &str, now_secs: i64) -> Result<(), ApiError> {
        if self.redeem_by.is_some_and(|until| until <= now_secs) {
            return Err(
                ApiError::bad_param(param, format!("Coupon expired: {}", self.id))
                    .code("coupon_expired"),
            );
        }
        if self.used_up() {
            return Err(ApiError::bad_param(
                param,
                format!("Coupon {} is used up and cannot be applied.", self.id),
            ));
        }
        Ok(())
    }

    fn used_up(&self) -> bool {
        self.max_redemptions
            .is_some_and(|most| self.times_redeemed >= most)
    }

    /// The API object.
    #[must_use]
    pub fn render(&self, now_secs: i64) -> Value {
        let (percent, amount, currency) = match &self.reduction {
            Reduction::Percent(percent) => (percent.render(), Value::Null, Value::Null),
            Reduction::Amount(amount, currency) => (Value::Null, json!(amount), json!(currency)),
        };
        let (duration, months) = match self.duration {
            Duration::Once => ("once", None),
            Duration::Repeating(months) => ("repeating", Some(months)),
            Duration::Forever => ("forever", None),
        };
        let expired = self.redeem_by.is_some_and(|until| until <= now_secs);
        json!({
            "id": self.id,
            "object": "coupon",
            "amount_off": amount,
            "created": self.created_secs,
            "currency": currency,
            "duration": duration,
            "duration_in_months": months,
            "livemode": false,
            "max_redemptions": self.max_redemptions,
            "metadata": self.metadata,
            "name": self.name,
            "percent_off": percent,
            "redeem_by": self.redeem_by,
            "times_redeemed": self.times_redeemed,
            "valid": !self.deleted && !expired && !self.used_up(),
        })
    }

    /// `applies_to`, which is returned only when expanded.
    #[must_use]
    pub fn render_products(&self) -> Value {
        json!({ "products": self.products })
    }
}

impl State {
    /// The coupon with this id, unless deleted.
    pub fn coupon(&self, id: &str, param: &str) -> Result<&Coupon, ApiError> {
        self.coupons
            .get(id)
            .filter(|coupon| !coupon.deleted)
            .ok_or_else(|| ApiError::no_such("coupon", id, param))
    }
}

fn not_found(error: ApiError) -> ApiError {
    error.param("coupon")
}

fn take_reduction(params: &mut Params) -> Result<Reduction, ApiError> {
    let percent = params.text("percent_off")?;
    let amount = params.integer("amount_off")?;
    let currency = params.text("currency")?;
    match (percent, amount) {
        (Some(_), Some(_)) => Err(ApiError::invalid(
            "Received both percent_off and amount_off parameters. Please pass in only one.",
        )),
        (None, None) => {
            Err(ApiError::invalid("Must provide percent_off or amount_off.")
                .code("parameter_missing"))
        }
        (Some(text), None) => take_percent(&text).map(Reduction::Percent),
        (None, Some(amount)) if amount < 1 => Err(ApiError::bad_param(
            "amount_off",
            format!("This value must be greater than or equal to 1 (it currently is '{amount}')."),
        )),
        (None, Some(amount)) => {
            let currency = currency.ok_or_else(|| {
                ApiError::bad_param("currency", "You must pass currency when passing amount_off")
            })?;
            Ok(Reduction::Amount(
                validate::amount("amount_off", amount)?,
                validate::currency("currency", &currency)?,
            ))
        }
    }
}

fn take_percent(text: &str) -> Result<Percent, ApiError> {
    const LEAST: Percent = Percent::from_ten_thousandths(100);
    match Percent::parse(text) {
        Some(percent) if percent >= LEAST => Ok(percent),
        Some(_) => Err(ApiError::bad_param(
            "percent_off",
            format!("This value must be greater than or equal to 0.01 (it currently is '{text}')."),
        )),
        None => Err(ApiError::bad_param(
            "percent_off",
            format!("Invalid percent_off: {text}; must be a number from 0.01 to 100."),
        )),
    }
}

fn take_duration(params: &mut Params) -> Result<Duration, ApiError> {
    let kind = params.choice("duration", &["forever", "once", "repeating"])?;
    let months = params.count("duration_in_months")?;
    match (kind, months) {
        (Some("repeating"), None) => Err(ApiError::bad_param(
            "duration",
            "The duration_in_months param must be set when creating a coupon with a repeating duration",
        )),
        (Some("repeating"), Some(months)) => u16::try_from(months)
            .ok()
            .filter(|months| (1..=1_200).contains(months))
            .map(Duration::Repeating)
            .ok_or_else(|| {
                ApiError::bad_param("duration_in_months", "Invalid duration: 1 to 1200 months.")
            }),
        (_, Some(_)) => Err(ApiError::bad_param(
            "duration_in_months",
            "The duration_in_months param can only be set for a repeating duration.",
        )),
        (Some("forever"), None) => Ok(Duration::Forever),
        (_, None) => Ok(Duration::Once),
    }
}

/// Takes a time that must lie in the future.
pub fn take_future(
    params: &mut Params,
    name: &str,
    now_secs: i64,
) -> Result<Option<i64>, ApiError> {
    const FIVE_YEARS_SECS: i64 = 5 * 366 * 86_400;
    match params.integer(name)? {
        Some(at) if at <= now_secs => Err(ApiError::bad_param(
            name,
            format!(
                "The parameter `{name}` expects a unix timestamp representing a date and time in the future. You specified the value `{at}` which is in the past."
            ),
        )),
        Some(at) if at > now_secs + FIVE_YEARS_SECS => Err(ApiError::bad_param(
            name,
            "Invalid timestamp: can be no more than five years in the future.",
        )),
        at => Ok(at),
    }
}

fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let state = &mut *call.state;
    let now = state.wall_secs;
    let id = params.text_up_to("id", 200)?;
    let mut products = Vec::new();
    if let Some(mut applies_to) = params.map("applies_to")? {
        products = applies_to.texts("products")?.unwrap_or_default();
        applies_to.finish()?;
    }
    let mut coupon = Coupon {
        id: String::new(),
        created_secs: now,
        reduction: take_reduction(&mut params)?,
        duration: take_duration(&mut params)?,
        products,
        max_redemptions: params.count("max_redemptions")?,
        redeem_by: take_future(&mut params, "redeem_by", now)?,
        times_redeemed: 0,
        name: params.text_up_to("name", MAX_NAME_CHARS)?,
        metadata: MetadataChange::take(&mut params)?.initial(),
        deleted: false,
    };
    params.finish_rejecting(&UNSUPPORTED)?;
    for product in &coupon.products {
        if state.products.get(product).is_none() {
            return Err(ApiError::no_such(
                "product",
                product,
                "applies_to[products]",
            ));
        }
    }
    coupon.id = match id {
        Some(id) if state.coupons.get(&id).is_some_and(|known| !known.deleted) => {
            return Err(
                ApiError::bad_param("id", "Coupon already exists.").code("resource_already_exists")
            );
        }
        Some(id) => id,
        None => state.ids.token(8),
    };
    let id = coupon.id.clone();
    state.coupons.insert(coupon);
    state.emit("coupon.created", &id, now);
    call.render(&id)
}

fn update(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let id = call.id();
    let state = &mut *call.state;
    let mut coupon = state.coupon(&id, "id").map_err(not_found)?.clone();
    if let Some(name) = params.clearable_up_to("name", MAX_NAME_CHARS)? {
        coupon.name = name;
    }
    let metadata = MetadataChange::take(&mut params)?;
    metadata.check_room(&coupon.metadata, "metadata")?;
    metadata.apply(&mut coupon.metadata);
    params.finish_rejecting(&UNSUPPORTED)?;
    let (before, now) = (state.snapshot(&id), state.wall_secs);
    state.coupons.insert(coupon);
    state.emit_update("coupon.updated", &id, before, now);
    call.render(&id)
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let coupon = call.state.coupon(&call.id(), "id").map_err(not_found)?;
    Ok(coupon.render(call.state.wall_secs))
}

fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    let page = Page::take(&mut params)?;
    let created = params.range("created")?;
    params.finish()?;
    call.render_page(
        &page,
        "coupon",
        "/v1/coupons",
        call.state.coupons.iter().rev(),
        |coupon: &Coupon| !coupon.deleted && created.contains(coupon.created_secs),
    )
}

fn remove(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    let state = &mut *call.state;
    state.coupon(&id, "id").map_err(not_found)?;
    if let Some(coupon) = state.coupons.get_mut(&id) {
        coupon.deleted = true;
    }
    let now = state.wall_secs;
    state.emit("coupon.deleted", &id, now);
    Ok(json!({ "id": id, "object": "coupon", "deleted": true }))
}
