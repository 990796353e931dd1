//! `expand[]`: ids replaced by the objects they name.

use serde_json::Value;

use crate::error::ApiError;
use crate::shape::Shape;
use crate::state::State;

/// Four levels, as Stripe allows.
const DEEPEST: usize = 4;

/// Expands every path in the answer.
pub fn apply(
    state: &State,
    shape: Shape,
    paths: &[String],
    answer: &mut Value,
) -> Result<(), ApiError> {
    for path in paths {
        let mut parts: Vec<&str> = path.split('.').collect();
        if answer["object"] == "list" && parts.first() != Some(&"data") {
            return Err(refused(path));
        }
        if parts.first() == Some(&"data") && answer["object"] == "list" {
            parts.remove(0);
            for element in answer["data"].as_array_mut().into_iter().flatten() {
                walk(state, shape, element, &parts, path)?;
            }
        } else {
            walk(state, shape, answer, &parts, path)?;
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
    if parts.len() > DEEPEST + 2 {
        return Err(ApiError::bad_param(
            "expand",
            format!("You cannot expand more than {DEEPEST} levels of a property: {path}"),
        ));
    }
    if value.get(part).is_none() {
        include(state, shape, value, part);
    }
    let Some(child) = value.get_mut(part) else {
        return Err(refused(path));
    };
    match child {
        Value::Null => Ok(()),
        Value::String(id) => {
            *child = state.render(id, shape).ok_or_else(|| refused(path))?;
            walk(state, shape, child, rest, path)
        }
        Value::Array(elements) => elements
            .iter_mut()
            .try_for_each(|element| walk(state, shape, element, rest, path)),
        Value::Object(_) => walk(state, shape, child, rest, path),
        Value::Bool(_) | Value::Number(_) => Err(refused(path)),
    }
}

/// Properties that are there only when asked for.
fn include(state: &State, shape: Shape, value: &mut Value, part: &str) {
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
        (Some("customer"), part) => crate::customers::included(state, &id, part),
        (Some("charge"), "refunds") => Some(crate::payments::refunds::of_charge(state, &id)),
        (Some("price"), "tiers") => state.prices.get(&id).map(|price| price.render_tiers()),
        _ => None,
    };
    if let (Some(included), Some(object)) = (included, value.as_object_mut()) {
        object.insert(part.to_owned(), included);
    }
}

fn refused(path: &str) -> ApiError {
    let last = path.rsplit('.').next().unwrap_or(path);
    ApiError::bad_param(
        "expand",
        format!("This property cannot be expanded ({last})."),
    )
}
