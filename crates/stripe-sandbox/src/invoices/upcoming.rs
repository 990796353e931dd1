//! `GET /v1/invoices/upcoming`: the older form of the preview, removed from the
//! API in `2025-03-31.basil`.

use serde_json::Value;

use crate::call::Call;
use crate::error::ApiError;
use crate::invoices::preview;
use crate::list;
use crate::params::Params;
use crate::shape::Shape;

/// The old and new names of the parameters that describe the subscription.
const RENAMED: [(&str, &str); 11] = [
    ("subscription_items", "items"),
    ("subscription_proration_behavior", "proration_behavior"),
    ("subscription_proration_date", "proration_date"),
    ("subscription_billing_cycle_anchor", "billing_cycle_anchor"),
    ("subscription_trial_end", "trial_end"),
    ("subscription_cancel_now", "cancel_now"),
    ("subscription_cancel_at", "cancel_at"),
    ("subscription_cancel_at_period_end", "cancel_at_period_end"),
    ("subscription_metadata", "metadata"),
    ("subscription_default_tax_rates", "default_tax_rates"),
    ("subscription_billing_mode", "billing_mode"),
];

pub fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let invoice = compute(call)?;
    let mut response = preview::keep(call, invoice);
    // The older preview has no id.
    if let Some(object) = response.as_object_mut() {
        object.remove("id");
    }
    Ok(response)
}

/// `GET /v1/invoices/upcoming/lines`, without paging.
pub fn lines(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.params.count("limit")?;
    let invoice = compute(call)?;
    let data = invoice
        .lines
        .iter()
        .map(|line| invoice.render_line(line, call.state, call.shape))
        .collect();
    Ok(list::object(data, false, "/v1/invoices/upcoming/lines"))
}

fn compute(call: &mut Call<'_>) -> Result<crate::invoices::model::Invoice, ApiError> {
    if call.shape == Shape::Basil {
        return Err(ApiError::no_such("invoice", "upcoming", "id"));
    }
    let mut params = call.take_params();
    let mut details = params
        .map("subscription_details")?
        .unwrap_or_else(|| Params::empty("subscription_details"));
    for (old, new) in RENAMED {
        params.rename(old, &mut details, new);
    }
    if params.has("customer") && !params.has("subscription") && details.is_empty() {
        choose_subscription(call, &mut params)?;
    }
    params.put_map("subscription_details", details);
    let version = call.version.clone();
    preview::preview(call.state, params, &version)
}

/// If only a customer is given, Stripe previews the subscription that renews
/// next.
fn choose_subscription(call: &Call<'_>, params: &mut Params) -> Result<(), ApiError> {
    let customer = params.required("customer")?;
    let next = call
        .state
        .subscriptions
        .iter()
        .filter(|subscription| subscription.customer == customer && subscription.status.renews())
        .min_by_key(|subscription| subscription.period.end_secs());
    if let Some(next) = next {
        params.put("subscription", &next.id);
    }
    params.put("customer", &customer);
    Ok(())
}
