//! Changes that take more than one call to Stripe: those by a schedule, and those of a
//! subscription that has one.
//!
//! A change at the period's end gives the subscription a schedule, which repeats what
//! it is, and then tells the schedule what follows. The schedule's metadata have the
//! change's id, as the subscription's have it once the phase has begun.
//!
//! Stripe lets nobody set an end beside a schedule, and fits a direct change of items
//! into its phases. So whoever sets or clears an end releases the schedule first; a
//! change of plan, which takes the place of what was pending, releases it once that is
//! made, so that a declined card leaves everything as it was.

use jiff::Timestamp;
use serde_json::Value;

use super::phase::{Discounts, id, item_terms, members, metadata, number, same_items, terms};
use super::record::{CHANGE_ID_KEY, ChangeKind, ChangeRecord, Release};
use crate::stripe::client::{self, Client, ErrorKind, Params, StripeError};
use crate::stripe::requests::Request;
use crate::subscriptions::preview::switch::Switch;
use crate::subscriptions::promotion;

/// What is stored of the next phase, beside its parameters: where it begins.
pub const STARTS_AT: &str = "starts_at";
/// The price that an item takes the place of, under the item's number.
pub const REPLACES: &str = "replaces";

/// Makes the calls of a change at the period's end. Returns the subscription.
pub async fn switch_later(
    client: &Client,
    request: &Request,
    change: &ChangeRecord,
) -> Result<client::Response, StripeError> {
    let subscription = request.target_id.as_deref().unwrap_or_default();
    let mut found = client.subscription(subscription).await?.body;
    client.fetch_missing_items(&mut found).await?;
    let schedule = match found["schedule"].as_str() {
        Some(id) => client.schedule(id).await?,
        None => {
            let key = request.key_of("schedule");
            client.create_schedule(subscription, &key).await?
        }
    };
    let id = schedule.body["id"].as_str().unwrap_or_default().to_owned();
    let held = Discounts::of(&found);
    let params = phases(&schedule.body, &held, &request.params, change);
    let updated = client.update_schedule(&id, &params, &request.key()).await;
    if let Err(error) = updated {
        if !error.may_have_acted() {
            undo(client, request, change).await?;
        }
        return Err(error);
    }
    let made = client.subscription(subscription).await;
    made.map_err(StripeError::after_acting)
}

/// Whether the change that is to be called off has been made meanwhile: its phase has
/// begun, and may have ended.
pub async fn has_begun(
    client: &Client,
    request: &Request,
    change: &ChangeRecord,
) -> Result<bool, StripeError> {
    let starts_at = request.params.get(STARTS_AT);
    let starts_at = starts_at.and_then(|secs| secs.parse::<i64>().ok());
    let (Some(Release::Only(id)), Some(starts_at)) = (&change.releases, starts_at) else {
        return Ok(false);
    };
    let schedule = client.schedule(id).await?.body;
    let times = [
        &schedule["current_phase"]["start_date"],
        &schedule["released_at"],
        &schedule["completed_at"],
    ];
    let mut times = times.into_iter().filter_map(Value::as_i64);
    Ok(times.any(|at| at >= starts_at))
}

/// Releases a schedule, unless it drives its subscription no more.
pub async fn release(
    client: &Client,
    id: &str,
    keep_end: bool,
    key: &str,
) -> Result<(), StripeError> {
    match client.release_schedule(id, keep_end, key).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind == ErrorKind::InvalidRequest => {
            let schedule = client.schedule(id).await?;
            match schedule.body["status"].as_str() {
                Some("released" | "canceled" | "completed") => Ok(()),
                _ => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

/// Releases the schedule that has to go before the change.
pub async fn release_first(
    client: &Client,
    request: &Request,
    change: &ChangeRecord,
) -> Result<(), StripeError> {
    match &change.releases {
        Some(Release::First(id)) => release(client, id, false, &request.key_of("release")).await,
        _ => Ok(()),
    }
}

/// When the schedule that a change of items would release next does something that is not
/// a pending change, such as another discount: it would be lost.
pub async fn does_more(
    client: &Client,
    change: &ChangeRecord,
) -> Result<Option<Timestamp>, StripeError> {
    let (ChangeKind::Switch, Some(Release::First(id))) = (change.kind, &change.releases) else {
        return Ok(None);
    };
    let schedule = client.schedule(id).await?.body;
    if schedule["status"] != "active" && schedule["status"] != "not_started" {
        return Ok(None);
    }
    let begun = schedule["current_phase"]["start_date"].as_i64();
    let starts = members(&schedule["phases"]).filter_map(|phase| phase["start_date"].as_i64());
    let next = starts.filter(|at| Some(*at) > begun).min();
    Ok(next.and_then(|at| Timestamp::from_second(at).ok()))
}

/// Releases the schedule that has to go after the change. Returns whether it did.
pub async fn release_after(
    client: &Client,
    request: &Request,
    change: &ChangeRecord,
    subscription: &Value,
) -> Result<bool, StripeError> {
    match &change.releases {
        Some(Release::After(id)) if schedule_of(subscription) == Some(id.as_str()) => {
            release(client, id, true, &request.key_of("release")).await?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// The schedule of a subscription: its id, or the object in its place.
pub fn schedule_of(subscription: &Value) -> Option<&str> {
    let schedule = &subscription["schedule"];
    schedule.as_str().or_else(|| schedule["id"].as_str())
}

/// Releases a schedule that was made for a change which then was not: it changes
/// nothing, but nobody could set an end beside it.
pub async fn undo(
    client: &Client,
    request: &Request,
    change: &ChangeRecord,
) -> Result<(), StripeError> {
    let (ChangeKind::SwitchLater, Some(target)) = (change.kind, &request.target_id) else {
        return Ok(());
    };
    let mut found = client.subscription(target).await?.body;
    client.fetch_schedule(&mut found).await?;
    let schedule = &found["schedule"];
    match schedule_of(&found).filter(|_| changes_nothing(schedule)) {
        Some(id) => release(client, id, true, &request.key_of("undo")).await,
        None => Ok(()),
    }
}

/// Whether a schedule only repeats what its subscription is.
fn changes_nothing(schedule: &Value) -> bool {
    let starts = schedule["current_phase"]["start_date"].as_i64();
    let later = |phase: &Value| phase["start_date"].as_i64() > starts;
    let unnamed = schedule["metadata"]
        .as_object()
        .is_none_or(|map| map.is_empty());
    schedule["end_behavior"] == "release" && unnamed && !members(&schedule["phases"]).any(later)
}

/// The phase that follows, as it is stored with the request.
pub fn next_phase(switch: &Switch<'_>) -> Params {
    // The schedule has done its work once the phase has begun; a subscription that has
    // one cannot be set to end.
    let mut params = Params::new()
        .set(STARTS_AT, switch.at.as_second())
        .set("duration[interval]", "day")
        .set("duration[interval_count]", 1);
    if switch.changes_interval {
        params = params.set("billing_cycle_anchor", "phase_start");
    }
    for (n, item) in switch.items_after().iter().enumerate() {
        params = params
            .set(format!("items[{n}][price]"), item.price_id)
            .set_if(&format!("items[{n}][quantity]"), item.quantity)
            .set_if(&format!("{REPLACES}[{n}]"), item.replaces);
    }
    params
}

/// The parameters that let `next` follow the current phase of `schedule`, with the
/// discounts that the subscription still has.
fn phases(schedule: &Value, held: &Discounts<'_>, next: &Params, change: &ChangeRecord) -> Params {
    let none = Value::Null;
    let starts = &schedule["current_phase"]["start_date"];
    let mut begun = members(&schedule["phases"]);
    let current = begun.find(|phase| phase["start_date"] == *starts);
    let current = current.unwrap_or(&none);
    let mut params = Params::new()
        .set("end_behavior", "release")
        .set("proration_behavior", "none")
        .set(format!("metadata[{CHANGE_ID_KEY}]"), change.id)
        .set("phases[0][start_date]", number(starts))
        .set_if("phases[0][end_date]", next.get(STARTS_AT))
        .set("phases[1][proration_behavior]", "none");
    params = held.repeat("phases[0]", terms(current, "phases[0]", params));
    params = terms(current, "phases[1]", params);
    // A code that is redeemed comes with the discounts that stay.
    if !promotion::redeems(next) {
        params = held.repeat("phases[1]", params);
    }
    for name in ["trial_end", "billing_cycle_anchor"] {
        let value = &current[name];
        if !value.is_null() {
            params = params.set(format!("phases[0][{name}]"), number(value));
        }
    }
    params = metadata(&current["metadata"], "phases[0]", params);
    params = same_items(current, "phases[0]", params, |item, at, params| {
        held.repeat_item(item, at, params)
    });
    for (name, value) in next.iter() {
        let (first, rest) = name.split_once('[').unwrap_or((name, ""));
        params = match first {
            STARTS_AT => params,
            REPLACES => {
                let replaced = members(&current["items"]).find(|item| id(&item["price"]) == value);
                let n = rest.trim_end_matches(']');
                let at = format!("phases[1][items][{n}]");
                match replaced {
                    Some(item) => held.repeat_item(item, &at, item_terms(item, &at, params)),
                    None => params,
                }
            }
            _ if rest.is_empty() => params.set(format!("phases[1][{first}]"), value),
            _ => params.set(format!("phases[1][{first}][{rest}"), value),
        };
    }
    params
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::subscriptions::change::record::Initiator;

    fn scheduled() -> ChangeRecord {
        ChangeRecord {
            id: uuid::Uuid::from_u128(7),
            kind: ChangeKind::SwitchLater,
            command: Value::Null,
            request_key: None,
            actor: Initiator::system(),
            before: Value::Null,
            usage: None,
            releases: None,
            follows: None,
            flexible: false,
            payer_acts: false,
            voids: None,
        }
    }

    #[test]
    fn all_of_the_current_phase_is_repeated_and_the_next_one_takes_its_settings() {
        let schedule = json!({
            "current_phase": {"start_date": 100, "end_date": 200},
            "phases": [
                {"start_date": 50, "items": []},
                {
                    "start_date": 100, "end_date": 200, "trial_end": 200,
                    "collection_method": "charge_automatically",
                    "default_payment_method": {"id": "pm_1"}, "description": null,
                    "automatic_tax": {"enabled": true}, "default_tax_rates": [{"id": "txr_1"}],
                    "discounts": [
                        {"coupon": null, "discount": "di_used", "promotion_code": null},
                        {"coupon": null, "discount": "di_1", "promotion_code": null},
                    ],
                    "metadata": {"organization_id": "o"},
                    "items": [
                        {"price": "price_a", "quantity": 2, "tax_rates": [{"id": "txr_2"}],
                         "discounts": [], "metadata": {"k": "v"}},
                        {"price": {"id": "price_m"}},
                    ],
                },
            ],
        });
        let next = Params::new()
            .set(STARTS_AT, 200)
            .set("items[0][price]", "price_b")
            .set("items[0][quantity]", 2)
            .set("replaces[0]", "price_a")
            .set("duration[interval]", "day");
        let change = scheduled();
        let subscription = json!({"discounts": ["di_1"], "items": {"data": []}});
        let params = phases(&schedule, &Discounts::of(&subscription), &next, &change);
        let expected = json!({
            "end_behavior": "release",
            "proration_behavior": "none",
            "metadata[billing_change_id]": change.id,
            "phases[0][start_date]": "100",
            "phases[0][end_date]": "200",
            "phases[0][trial_end]": "200",
            "phases[0][collection_method]": "charge_automatically",
            "phases[0][default_payment_method]": "pm_1",
            "phases[0][automatic_tax][enabled]": "true",
            "phases[0][default_tax_rates][0]": "txr_1",
            "phases[0][discounts][0][discount]": "di_1",
            "phases[0][metadata][organization_id]": "o",
            "phases[0][items][0][price]": "price_a",
            "phases[0][items][0][quantity]": "2",
            "phases[0][items][0][tax_rates][0]": "txr_2",
            "phases[0][items][0][metadata][k]": "v",
            "phases[0][items][1][price]": "price_m",
            "phases[1][proration_behavior]": "none",
            "phases[1][collection_method]": "charge_automatically",
            "phases[1][default_payment_method]": "pm_1",
            "phases[1][automatic_tax][enabled]": "true",
            "phases[1][default_tax_rates][0]": "txr_1",
            "phases[1][discounts][0][discount]": "di_1",
            "phases[1][items][0][price]": "price_b",
            "phases[1][items][0][quantity]": "2",
            "phases[1][items][0][tax_rates][0]": "txr_2",
            "phases[1][duration][interval]": "day",
        });
        assert_eq!(serde_json::to_value(params).unwrap(), expected);
    }
}
