//! `POST /v1/subscriptions/{id}/migrate`: a subscription is put into flexible billing, for
//! good. Its items, periods and invoices stay as they are.

use billing_domain::preview::BillingMode;
use serde_json::Value;

use crate::call::Call;
use crate::error::ApiError;
use crate::subscriptions::create;

pub fn migrate(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let mut params = call.take_params();
    if !params.has("billing_mode") {
        return Err(ApiError::missing_param("billing_mode"));
    }
    let mode = create::take_billing_mode(&mut params, &call.version)?;
    params.finish()?;
    if mode == BillingMode::Classic {
        return Err(ApiError::bad_param(
            "billing_mode[type]",
            "Invalid billing_mode[type]: must be flexible",
        ));
    }
    let id = call.id();
    let state = &mut *call.state;
    let subscription = state.subscription(&id, "id")?;
    if subscription.status.is_final() {
        return Err(ApiError::invalid(
            "A canceled subscription cannot be migrated.",
        ));
    }
    if subscription.schedule.is_some() {
        return Err(ApiError::unsupported(
            "billing_mode",
            "migrating a subscription that has a schedule",
        ));
    }
    let (is_classic, now) = (
        subscription.mode == BillingMode::Classic,
        state.now_for(&subscription.customer),
    );
    if is_classic {
        state.change_subscription(&id, now, |subscription| {
            subscription.mode = BillingMode::Flexible;
        })?;
    }
    call.render(&id)
}
