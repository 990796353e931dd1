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

use super::follow::same_items;
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
    let found = client.subscription(subscription).await?;
    let schedule = match found.body["schedule"].as_str() {
        Some(id) => client.schedule(id).await?,
        None => {
            let key = request.key_of("schedule");
            client.create_schedule(subscription, &key).await?
        }
    };
    let id = schedule.body["id"].as_str().unwrap_or_default().to_owned();
    let params = phases(&schedule.body, &request.params, change);
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

/// The parameters that let `next` follow the current phase of `schedule`. Stripe keeps
/// nothing of a phase that is left out, so all of it is repeated.
fn phases(schedule: &Value, next: &Params, change: &ChangeRecord) -> Params {
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
    params = settings(current, "phases[0]", params);
    params = terms(current, "phases[1]", params);
    // A code that is redeemed comes with the discounts that stay.
    if !promotion::redeems(next) {
        params = discounts(&current["discounts"], "phases[1]", params);
    }
    for name in ["trial_end", "billing_cycle_anchor"] {
        let value = &current[name];
        if !value.is_null() {
            params = params.set(format!("phases[0][{name}]"), number(value));
        }
    }
    params = metadata(&current["metadata"], "phases[0]", params);
    params = same_items(current, "phases[0]", params);
    for (name, value) in next.iter() {
        let (first, rest) = name.split_once('[').unwrap_or((name, ""));
        params = match first {
            STARTS_AT => params,
            REPLACES => {
                let replaced = members(&current["items"]).find(|item| id(&item["price"]) == value);
                let n = rest.trim_end_matches(']');
                let at = format!("phases[1][items][{n}]");
                match replaced {
                    Some(item) => item_settings(item, &at, params),
                    None => params,
                }
            }
            _ if rest.is_empty() => params.set(format!("phases[1][{first}]"), value),
            _ => params.set(format!("phases[1][{first}][{rest}"), value),
        };
    }
    params
}

/// What a phase says of how it is charged.
pub fn settings(phase: &Value, at: &str, params: Params) -> Params {
    discounts(&phase["discounts"], at, terms(phase, at, params))
}

/// The same without discounts.
fn terms(phase: &Value, at: &str, mut params: Params) -> Params {
    for name in [
        "collection_method",
        "default_payment_method",
        "description",
        "on_behalf_of",
        "application_fee_percent",
    ] {
        let value = &phase[name];
        if !value.is_null() {
            let value = value
                .as_str()
                .map_or_else(|| id_or_text(value), str::to_owned);
            params = params.set(format!("{at}[{name}]"), value);
        }
    }
    if let Some(enabled) = phase["automatic_tax"]["enabled"].as_bool() {
        params = params.set(format!("{at}[automatic_tax][enabled]"), enabled);
    }
    if let Some(days) = phase["invoice_settings"]["days_until_due"].as_i64() {
        params = params.set(format!("{at}[invoice_settings][days_until_due]"), days);
    }
    for (n, rate) in members(&phase["default_tax_rates"]).enumerate() {
        params = params.set(format!("{at}[default_tax_rates][{n}]"), id(rate));
    }
    recipients(phase, at, params)
}

/// Who gets what is paid, in whose name it is invoiced, and from which amount on.
fn recipients(phase: &Value, at: &str, mut params: Params) -> Params {
    for name in [
        "transfer_data[destination]",
        "transfer_data[amount_percent]",
        "automatic_tax[liability][type]",
        "automatic_tax[liability][account]",
        "invoice_settings[issuer][type]",
        "invoice_settings[issuer][account]",
        "billing_thresholds[amount_gte]",
        "billing_thresholds[reset_billing_cycle_anchor]",
    ] {
        let mut parts = name.split(['[', ']']).filter(|part| !part.is_empty());
        let first = parts.next().unwrap_or_default();
        let value = parts.fold(&phase[first], |object, part| &object[part]);
        if !value.is_null() {
            let value = value
                .as_str()
                .map_or_else(|| id_or_text(value), str::to_owned);
            params = params.set(format!("{at}[{first}]{}", &name[first.len()..]), value);
        }
    }
    for (n, tax_id) in members(&phase["invoice_settings"]["account_tax_ids"]).enumerate() {
        let name = format!("{at}[invoice_settings][account_tax_ids][{n}]");
        params = params.set(name, id(tax_id));
    }
    params
}

/// What an item says of how it is charged, besides its price and quantity.
pub fn item_settings(item: &Value, at: &str, mut params: Params) -> Params {
    for (n, rate) in members(&item["tax_rates"]).enumerate() {
        params = params.set(format!("{at}[tax_rates][{n}]"), id(rate));
    }
    let usage = item["billing_thresholds"]["usage_gte"].as_i64();
    params = params.set_if(&format!("{at}[billing_thresholds][usage_gte]"), usage);
    discounts(&item["discounts"], at, params)
}

fn discounts(list: &Value, at: &str, mut params: Params) -> Params {
    for (n, discount) in members(list).enumerate() {
        let kinds = ["discount", "coupon", "promotion_code"];
        let named = kinds.iter().find(|kind| !discount[**kind].is_null());
        if let Some(kind) = named {
            let value = id(&discount[*kind]);
            params = params.set(format!("{at}[discounts][{n}][{kind}]"), value);
        }
    }
    params
}

pub fn metadata(map: &Value, at: &str, mut params: Params) -> Params {
    for (key, value) in map.as_object().into_iter().flatten() {
        if let Some(value) = value.as_str() {
            params = params.set(format!("{at}[metadata][{key}]"), value);
        }
    }
    params
}

pub fn members(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// An id, bare or in its object.
pub fn id(value: &Value) -> &str {
    value
        .as_str()
        .or_else(|| value["id"].as_str())
        .unwrap_or_default()
}

fn id_or_text(value: &Value) -> String {
    match value {
        Value::Object(_) => id(value).to_owned(),
        other => other.to_string(),
    }
}

/// A number or a word, as a parameter has it.
pub fn number(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::subscriptions::change::record::Initiator;

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
                    "discounts": [{"coupon": null, "discount": "di_1", "promotion_code": null}],
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
        let change = ChangeRecord {
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
        };
        let params = phases(&schedule, &next, &change);
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

    #[test]
    fn who_is_paid_and_in_whose_name_is_repeated() {
        let phase = json!({
            "automatic_tax": {"enabled": null, "liability": {"type": "account", "account": "acct_3"}},
            "transfer_data": {"destination": {"id": "acct_1"}, "amount_percent": 12.5},
            "invoice_settings": {
                "account_tax_ids": ["atxi_1"], "days_until_due": null,
                "issuer": {"type": "account", "account": {"id": "acct_2"}},
            },
            "billing_thresholds": {"amount_gte": 500, "reset_billing_cycle_anchor": false},
        });
        let expected = json!({
            "p[transfer_data][destination]": "acct_1",
            "p[transfer_data][amount_percent]": "12.5",
            "p[automatic_tax][liability][type]": "account",
            "p[automatic_tax][liability][account]": "acct_3",
            "p[invoice_settings][issuer][type]": "account",
            "p[invoice_settings][issuer][account]": "acct_2",
            "p[invoice_settings][account_tax_ids][0]": "atxi_1",
            "p[billing_thresholds][amount_gte]": "500",
            "p[billing_thresholds][reset_billing_cycle_anchor]": "false",
        });
        let params = settings(&phase, "p", Params::new());
        assert_eq!(serde_json::to_value(params).unwrap(), expected);
        let item = json!({"billing_thresholds": {"usage_gte": 9}});
        let params = item_settings(&item, "p", Params::new());
        let expected = json!({"p[billing_thresholds][usage_gte]": "9"});
        assert_eq!(serde_json::to_value(params).unwrap(), expected);
    }
}
