//! `expand[]`: replaces ids with the objects they refer to.

use serde_json::Value;

use crate::error::ApiError;
use crate::shape::Shape;
use crate::state::State;

/// Stripe expands at most four levels.
const MAX_DEPTH: usize = 4;

/// Expands every path in the response.
pub fn apply(
    state: &State,
    shape: Shape,
    paths: &[String],
    response: &mut Value,
) -> Result<(), ApiError> {
    for path in paths {
        let mut parts: Vec<&str> = path.split('.').collect();
        if response["object"] == "list" && parts.first() != Some(&"data") {
            return Err(not_expandable(path));
        }
        if parts.first() == Some(&"data") && response["object"] == "list" {
            parts.remove(0);
            for element in response["data"].as_array_mut().into_iter().flatten() {
                walk(state, shape, element, &parts, path)?;
            }
        } else {
            walk(state, shape, response, &parts, path)?;
        }
    }
    Ok(())
}

fn walk(
    state: &State,
    shape: Shape,
    value: &mut Value,
    parts: &[&str],
    path: &str,
) -> Result<(), ApiError> {
    let Some((part, rest)) = parts.split_first() else {
        return Ok(());
    };
    if parts.len() > MAX_DEPTH + 2 {
        return Err(ApiError::bad_param(
            "expand",
            format!("You cannot expand more than {MAX_DEPTH} levels of a property: {path}"),
        ));
    }
    if value.get(part).is_none() {
        add_on_request(state, shape, value, part);
    }
    let Some(child) = value.get_mut(part) else {
        return Err(not_expandable(path));
    };
    match child {
        Value::Null => Ok(()),
        Value::String(id) => {
            *child = state
                .render(id, shape)
                .ok_or_else(|| not_expandable(path))?;
            walk(state, shape, child, rest, path)
        }
        Value::Array(elements) => elements.iter_mut().try_for_each(|element| {
            if let Value::String(id) = element {
                *element = state
                    .render(id, shape)
                    .ok_or_else(|| not_expandable(path))?;
            }
            walk(state, shape, element, rest, path)
        }),
        Value::Object(_) => walk(state, shape, child, rest, path),
        Value::Bool(_) | Value::Number(_) => Err(not_expandable(path)),
    }
}

/// Adds a property that is returned only when expanded.
fn add_on_request(state: &State, shape: Shape, value: &mut Value, part: &str) {
    let id = value["id"].as_str().unwrap_or_default().to_owned();
    let included = match (value["object"].as_str(), part) {
        (Some("invoice"), "payments") if shape == Shape::Basil => state
            .invoices
            .get(&id)
            .map(|invoice| invoice.payments(state)),
        (Some("invoice"), "confirmation_secret") if shape == Shape::Basil => state
            .invoices
            .get(&id)
            .map(|invoice| invoice.confirmation_secret(state)),
        (Some("customer"), "subscriptions") => {
            Some(crate::customers::subscriptions_of(state, &id, shape))
        }
        (Some("customer"), part) => crate::customers::on_request(state, &id, part),
        (Some("charge"), "refunds") => Some(crate::payments::refunds::of_charge(state, &id)),
        (Some("coupon"), "applies_to") => state
            .coupons
            .get(&id)
            .map(|coupon| coupon.render_products()),
        (Some("price"), "tiers") => state.prices.get(&id).map(|price| price.render_tiers()),
        _ => None,
    };
    if let (Some(included), Some(object)) = (included, value.as_object_mut()) {
        object.insert(part.to_owned(), included);
    }
}

fn not_expandable(path: &str) -> ApiError {
    let last = path.rsplit('.').next().unwrap_or(path);
    ApiError::bad_param(
        "expand",
        format!("This property cannot be expanded ({last})."),
    )
}
