//! Redeems coupons and promotion codes.

use billing_domain::period::{Cadence, Interval};

use crate::coupons::{Duration, Reduction};
use crate::discounts::model::Discount;
use crate::error::ApiError;
use crate::ids::IdSource;
use crate::invoices::model::Status as InvoiceStatus;
use crate::params::Params;
use crate::state::State;
use crate::store::Keyed;

/// One entry of `discounts`.
#[derive(Debug, Clone)]
pub struct Redemption {
    /// The name of the parameter, for errors, such as `discounts[0][coupon]`.
    param: String,
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    Coupon(String),
    PromotionCode(String),
    /// A discount that exists already.
    Discount(String),
}

/// How a request changes discounts.
#[derive(Debug, Clone, Default)]
pub enum DiscountChange {
    /// The parameter is absent.
    #[default]
    Keep,
    /// `discounts=`
    Clear,
    Replace(Vec<Redemption>),
}

impl DiscountChange {
    /// Takes `discounts`.
    pub fn take(params: &mut Params) -> Result<Self, ApiError> {
        let Some(entries) = params.list("discounts")? else {
            return Ok(Self::Keep);
        };
        if entries.is_empty() {
            return Ok(Self::Clear);
        }
        entries
            .into_iter()
            .map(take_entry)
            .collect::<Result<_, _>>()
            .map(Self::Replace)
    }

    /// Takes `coupon` or `promotion_code`, as customers had them before basil.
    pub fn take_single(params: &mut Params) -> Result<Self, ApiError> {
        let coupon = params.clearable("coupon")?;
        let code = params.clearable("promotion_code")?;
        let redeem = |name: &str, source| {
            Self::Replace(vec![Redemption {
                param: name.to_owned(),
                source,
            }])
        };
        match (coupon, code) {
            (None, None) => Ok(Self::Keep),
            (Some(None), None) | (None, Some(None)) => Ok(Self::Clear),
            (Some(Some(id)), None) => Ok(redeem("coupon", Source::Coupon(id))),
            (None, Some(Some(id))) => Ok(redeem("promotion_code", Source::PromotionCode(id))),
            (Some(_), Some(_)) => Err(ApiError::bad_param(
                "coupon",
                "You may only specify one of these parameters: coupon, promotion_code.",
            )),
        }
    }

    #[must_use]
    pub const fn is_keep(&self) -> bool {
        matches!(self, Self::Keep)
    }
}

fn take_entry(mut params: Params) -> Result<Redemption, ApiError> {
    let mut found = Vec::new();
    for name in ["coupon", "promotion_code", "discount"] {
        if let Some(id) = params.text(name)? {
            let source = match name {
                "coupon" => Source::Coupon(id),
                "promotion_code" => Source::PromotionCode(id),
                _ => Source::Discount(id),
            };
            found.push(Redemption {
                param: params.name(name),
                source,
            });
        }
    }
    let name = params.name("coupon");
    params.finish_rejecting(&["discount_end", "settings"])?;
    match (found.pop(), found.pop()) {
        (Some(redemption), None) => Ok(redemption),
        (None, _) => Err(ApiError::missing_param(&name)),
        (Some(second), Some(first)) => Err(ApiError::bad_param(
            &second.param,
            format!(
                "You may only specify one of these parameters: {}, {}.",
                first.param, second.param
            ),
        )),
    }
}

/// Who redeems, and for what.
#[derive(Debug, Clone)]
pub struct Redeemer<'a> {
    pub customer: &'a str,
    pub subscription: Option<&'a str>,
    /// The discounts that it has already, which an entry may keep.
    pub current: &'a [Discount],
    /// `None` for a customer who has bought nothing yet.
    pub currency: Option<&'a str>,
    /// The amount before discounts, for codes with a minimum; `None` if nothing
    /// is bought.
    pub amount: Option<i64>,
}

/// The discounts that a change results in. Nothing is recorded yet; `None`
/// means that they stay as they are.
pub fn resolve(
    state: &State,
    change: &DiscountChange,
    redeemer: &Redeemer<'_>,
    ids: &mut IdSource,
    now_secs: i64,
) -> Result<Option<Vec<Discount>>, ApiError> {
    let entries = match change {
        DiscountChange::Keep => return Ok(None),
        DiscountChange::Clear => return Ok(Some(Vec::new())),
        DiscountChange::Replace(entries) => entries,
    };
    let mut discounts: Vec<Discount> = Vec::new();
    for entry in entries {
        let discount = match &entry.source {
            Source::Discount(id) => redeemer
                .current
                .iter()
                .find(|discount| discount.id == *id)
                .cloned()
                .ok_or_else(|| ApiError::no_such("discount", id, &entry.param))?,
            Source::Coupon(id) => {
                new_discount(state, redeemer, id, None, &entry.param, ids, now_secs)?
            }
            Source::PromotionCode(id) => {
                let coupon = check_code(state, redeemer, id, &entry.param, now_secs)?;
                let code = Some(id.as_str());
                new_discount(state, redeemer, &coupon, code, &entry.param, ids, now_secs)?
            }
        };
        if discounts
            .iter()
            .any(|other| other.coupon == discount.coupon)
        {
            return Err(ApiError::bad_param(
                &entry.param,
                format!("The coupon {} is given more than once.", discount.coupon),
            ));
        }
        discounts.push(discount);
    }
    Ok(Some(discounts))
}

fn new_discount(
    state: &State,
    redeemer: &Redeemer<'_>,
    coupon: &str,
    code: Option<&str>,
    param: &str,
    ids: &mut IdSource,
    now_secs: i64,
) -> Result<Discount, ApiError> {
    let coupon = state.coupon(coupon, param)?;
    coupon.check_redeemable(param, now_secs)?;
    if let (Reduction::Amount(_, currency), Some(expected)) = (&coupon.reduction, redeemer.currency)
        && currency != expected
    {
        return Err(ApiError::bad_param(
            param,
            format!(
                "The coupon {} is in `{currency}`, but the prices are in `{expected}`.",
                coupon.id()
            ),
        ));
    }
    let end_secs = match coupon.duration {
        Duration::Once | Duration::Forever => None,
        Duration::Repeating(months) => Some(
            Cadence::every(months, Interval::Month)
                .and_then(|cadence| cadence.boundary(now_secs, 1))
                .map_err(|error| ApiError::bad_param(param, error.to_string()))?,
        ),
    };
    Ok(Discount {
        id: ids.next("di"),
        coupon: coupon.id().to_owned(),
        reduction: coupon.reduction.clone(),
        duration: coupon.duration,
        products: coupon.products.clone(),
        promotion_code: code.map(str::to_owned),
        customer: redeemer.customer.to_owned(),
        subscription: redeemer.subscription.map(str::to_owned),
        start_secs: now_secs,
        end_secs,
    })
}

/// Checks a promotion code and returns its coupon.
fn check_code(
    state: &State,
    redeemer: &Redeemer<'_>,
    id: &str,
    param: &str,
    now_secs: i64,
) -> Result<String, ApiError> {
    let promotion = state
        .promotion_codes
        .get(id)
        .ok_or_else(|| ApiError::no_such("promotion code", id, param))?;
    promotion.check_redeemable(param, redeemer.customer, now_secs)?;
    if promotion.restrictions.first_time && has_bought(state, redeemer.customer) {
        return Err(ApiError::bad_param(
            param,
            "This promotion code cannot be redeemed because the associated customer has prior transactions.",
        ));
    }
    if let (Some((least, currency)), Some(amount), Some(expected)) = (
        &promotion.restrictions.minimum,
        redeemer.amount,
        redeemer.currency,
    ) {
        if currency != expected {
            return Err(ApiError::bad_param(
                param,
                format!(
                    "This promotion code cannot be redeemed because its minimum amount is in `{currency}`, but the prices are in `{expected}`."
                ),
            ));
        }
        if amount < *least {
            return Err(ApiError::bad_param(
                param,
                format!(
                    "This promotion code cannot be redeemed because the amount {amount} is below its minimum amount {least}."
                ),
            ));
        }
    }
    Ok(promotion.coupon.clone())
}

/// Whether a customer has paid before, or owes. Drafts do not count.
fn has_bought(state: &State, customer: &str) -> bool {
    let charged = state
        .charges
        .iter()
        .any(|charge| charge.customer == customer && charge.decline.is_none());
    let invoiced = state.invoices.iter().any(|invoice| {
        invoice.customer == customer
            && matches!(
                invoice.status,
                InvoiceStatus::Open | InvoiceStatus::Paid | InvoiceStatus::Uncollectible
            )
    });
    charged || invoiced
}

/// Records the change from one set of discounts to another: counts redemptions
/// and emits the events.
pub fn record(state: &mut State, before: &[Discount], after: &[Discount], now_secs: i64) {
    for discount in after {
        if before.iter().any(|known| known.id == discount.id) {
            continue;
        }
        if let Some(coupon) = state.coupons.get_mut(&discount.coupon) {
            coupon.times_redeemed += 1;
        }
        let code = discount.promotion_code.as_ref();
        if let Some(code) = code.and_then(|id| state.promotion_codes.get_mut(id)) {
            code.redeem();
        }
        state.discounts.insert(discount.clone());
        state.emit("customer.discount.created", &discount.id, now_secs);
    }
    for discount in before {
        if !after.iter().any(|known| known.id == discount.id) {
            state.emit("customer.discount.deleted", &discount.id, now_secs);
        }
    }
}
