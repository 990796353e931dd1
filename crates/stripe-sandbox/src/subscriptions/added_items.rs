//! `add_invoice_items`: one-time items that a change adds to the next invoice of
//! its subscription, in the same step.

use crate::error::ApiError;
use crate::invoice_items;
use crate::invoices::model::LineContent;
use crate::params::Params;
use crate::state::State;
use crate::subscriptions::model::Subscription;

/// Stripe's limit.
const MAX_ITEMS: usize = 20;
/// Parameters of invoice items that these do not have.
const UNKNOWN: [&str; 6] = [
    "amount",
    "currency",
    "description",
    "pricing",
    "unit_amount",
    "unit_amount_decimal",
];

/// Takes the items.
pub fn take(
    params: &mut Params,
    state: &State,
    subscription: &Subscription,
    now_secs: i64,
) -> Result<Vec<LineContent>, ApiError> {
    let items = params.list("add_invoice_items")?.unwrap_or_default();
    if items.len() > MAX_ITEMS {
        return Err(ApiError::bad_param(
            "add_invoice_items",
            "You may pass up to 20 items.",
        ));
    }
    let items = items.into_iter();
    items
        .map(|item| take_one(item, state, subscription, now_secs))
        .collect()
}

fn take_one(
    mut params: Params,
    state: &State,
    subscription: &Subscription,
    now_secs: i64,
) -> Result<LineContent, ApiError> {
    let unknown = UNKNOWN.iter().find(|name| params.has(name));
    if let Some(name) = unknown {
        let name = params.name(name);
        let message = format!("Received unknown parameter: {name}");
        return Err(ApiError::bad_param(&name, message).code("parameter_unknown"));
    }
    let period = take_period(&mut params, subscription)?;
    let currency_param = params.name("price_data[currency]");
    let request = invoice_items::take_request(&mut params, state, now_secs)?;
    params.finish_rejecting(&invoice_items::UNSUPPORTED)?;
    let content = LineContent {
        period,
        subscription: Some(subscription.id.clone()),
        ..request.content
    };
    if content.currency != subscription.currency {
        return Err(ApiError::bad_param(
            &currency_param,
            format!(
                "The currency `{}` does not match the subscription's, `{}`.",
                content.currency, subscription.currency
            ),
        ));
    }
    Ok(content)
}

/// Takes `period`, whose bounds are words or times; by default it is the
/// subscription's.
fn take_period(params: &mut Params, subscription: &Subscription) -> Result<(i64, i64), ApiError> {
    let whole = (
        subscription.period.start_secs(),
        subscription.period.end_secs(),
    );
    let Some(mut period) = params.map("period")? else {
        return Ok(whole);
    };
    let start = take_bound(&mut period, "start", "max_item_period_start", whole.0)?;
    let end = take_bound(&mut period, "end", "min_item_period_end", whole.1)?;
    period.finish()?;
    Ok((start, end))
}

fn take_bound(
    period: &mut Params,
    name: &str,
    word: &'static str,
    default: i64,
) -> Result<i64, ApiError> {
    let Some(mut bound) = period.map(name)? else {
        return Ok(default);
    };
    let kind = bound.choice("type", &[word, "timestamp"])?;
    let param = bound.name("timestamp");
    let at = bound.integer("timestamp")?;
    bound.finish()?;
    match (kind, at) {
        (Some("timestamp"), Some(at)) => Ok(at),
        (Some("timestamp"), None) => Err(ApiError::missing_param(&param)),
        (_, None) => Ok(default),
        (_, Some(_)) => Err(ApiError::bad_param(
            &param,
            "A timestamp needs `type=timestamp`.",
        )),
    }
}
