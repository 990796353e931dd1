//! A change of seats or add-ons beside a pending change: Stripe leaves the later phases of a
//! schedule as they are, so that those of before would be back when the next one begins. Once
//! the change is made, the phase is told the new ones.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::phase::{Discounts, id, item_terms, members, metadata, number, same_items, terms};
use super::record::ChangeRecord;
use super::schedule::schedule_of;
use crate::stripe::client::{Client, Params, StripeError};
use crate::stripe::requests::Request;
use crate::subscriptions::Subscriptions;
use crate::subscriptions::command::{AddonItem, StripeAction};
use crate::subscriptions::failure::Failure;

/// What a later phase of a schedule becomes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Follow {
    schedule: String,
    /// When the phase begins.
    starts_at: i64,
    /// Prices with quantities.
    items: Vec<(String, Option<u64>)>,
}

impl Subscriptions {
    /// What becomes of the pending change, if its seats or add-ons follow those of `action`.
    pub(super) async fn follow(
        &self,
        client: &Client,
        action: &StripeAction<'_>,
    ) -> Result<Option<Follow>, Failure> {
        let StripeAction::Switch {
            following: Some(following),
            ..
        } = action
        else {
            return Ok(None);
        };
        let (plan, version) = (&following.plan, following.version);
        let new = match following.needs_seat_price() {
            true => self.prices_of(client, plan, version).await?.seats,
            false => None,
        };
        let addons = following.addons.iter();
        let addons: Vec<AddonItem> = addons.filter_map(|one| one.after.clone()).collect();
        let addons = self.addon_prices(client, &addons).await?;
        Ok(Some(Follow {
            schedule: following.schedule.clone(),
            starts_at: following.starts_at.as_second(),
            items: following.items(new.as_deref(), &addons),
        }))
    }
}

/// Tells the later phase its new quantities, once the change is made. Returns whether it
/// did. What Stripe refuses is left as it was, and is shown as pending.
pub async fn follow_after(
    client: &Client,
    request: &Request,
    change: &ChangeRecord,
    subscription: &Value,
) -> Result<bool, StripeError> {
    let Some(follow) = &change.follows else {
        return Ok(false);
    };
    if schedule_of(subscription) != Some(follow.schedule.as_str()) {
        return Ok(false);
    }
    let schedule = client.schedule(&follow.schedule).await?.body;
    let held = Discounts::of(subscription);
    let Some(params) = with_items(&schedule, &held, follow) else {
        return Ok(false);
    };
    // Told after the phase has begun, Stripe is told something else.
    let key = match begun(&schedule) == Some(follow.starts_at) {
        true => request.key_of("follow_late"),
        false => request.key_of("follow"),
    };
    match client
        .update_schedule(&follow.schedule, &params, &key)
        .await
    {
        Ok(_) => Ok(true),
        Err(error) if error.may_have_acted() || error.is_outage() => Err(error),
        Err(error) => {
            tracing::error!(
                organization_id = %request.organization_id, schedule = follow.schedule, %error,
                "A pending change keeps the seats and add-ons of before: Stripe does not give it others"
            );
            Ok(false)
        }
    }
}

/// When the schedule's current phase has begun.
fn begun(schedule: &Value) -> Option<i64> {
    schedule["current_phase"]["start_date"].as_i64()
}

/// The parameters that give the phase its items. Stripe keeps nothing of what is left
/// out, so all phases from the current one on are repeated. `None` if the phase has them
/// or is gone.
fn with_items(schedule: &Value, held: &Discounts<'_>, follow: &Follow) -> Option<Params> {
    let begun = begun(schedule);
    let phases = members(&schedule["phases"]);
    let phases = phases.filter(|phase| phase["start_date"].as_i64() >= begun);
    let phases: Vec<&Value> = phases.collect();
    let is_meant = |phase: &&&Value| phase["start_date"].as_i64() == Some(follow.starts_at);
    let meant = phases.iter().find(is_meant)?;
    let items = members(&meant["items"]);
    let items = items.map(|item| (id(&item["price"]).to_owned(), item["quantity"].as_u64()));
    let (mut had, mut wanted) = (Vec::from_iter(items), follow.items.clone());
    had.sort_unstable();
    wanted.sort_unstable();
    if had == wanted {
        return None;
    }
    // Where the phase has begun already, its seats of before are paid for: the difference
    // is charged from now on. Else nothing is charged before it begins.
    let behavior = match begun == Some(follow.starts_at) {
        true => "always_invoice",
        false => "none",
    };
    let mut params = Params::new().set("proration_behavior", behavior);
    for (n, phase) in phases.iter().enumerate() {
        let at = format!("phases[{n}]");
        if n == 0 {
            params = params.set(format!("{at}[start_date]"), number(&phase["start_date"]));
        }
        for name in [
            "end_date",
            "proration_behavior",
            "trial_end",
            "billing_cycle_anchor",
        ] {
            let value = &phase[name];
            if !value.is_null() {
                params = params.set(format!("{at}[{name}]"), number(value));
            }
        }
        params = terms(phase, &at, params);
        params = metadata(&phase["metadata"], &at, params);
        let discounts = |item: &Value, at: &str, params| match n {
            0 => held.repeat_item(item, at, params),
            _ => held.keep(&item["discounts"], at, params),
        };
        if n == 0 {
            params = held.repeat(&at, params);
        } else {
            params = held.keep(&phase["discounts"], &at, params);
            // Those of the current phase are on an invoice already.
            params = one_off_items(&phase["add_invoice_items"], &at, params, discounts);
        }
        params = if is_meant(&phase) {
            new_items(phase, &follow.items, &at, params, discounts)
        } else {
            same_items(phase, &at, params, discounts)
        };
    }
    Some(params)
}

/// What the invoice of a phase has besides its items, such as a fee for setting up.
fn one_off_items(
    items: &Value,
    at: &str,
    mut params: Params,
    discounts: impl Fn(&Value, &str, Params) -> Params,
) -> Params {
    for (n, item) in members(items).enumerate() {
        let at = format!("{at}[add_invoice_items][{n}]");
        params = params
            .set(format!("{at}[price]"), id(&item["price"]))
            .set_if(&format!("{at}[quantity]"), item["quantity"].as_u64());
        params = metadata(&item["metadata"], &at, params);
        params = discounts(item, &at, item_terms(item, &at, params));
    }
    params
}

/// Other items of a phase. Those whose prices stay are charged as they were.
fn new_items(
    phase: &Value,
    items: &[(String, Option<u64>)],
    at: &str,
    mut params: Params,
    discounts: impl Fn(&Value, &str, Params) -> Params,
) -> Params {
    for (n, (price, quantity)) in items.iter().enumerate() {
        let at = format!("{at}[items][{n}]");
        params = params
            .set(format!("{at}[price]"), price)
            .set_if(&format!("{at}[quantity]"), *quantity);
        let mut had = members(&phase["items"]);
        if let Some(item) = had.find(|item| id(&item["price"]) == price) {
            params = metadata(&item["metadata"], &at, params);
            params = discounts(item, &at, item_terms(item, &at, params));
        }
    }
    params
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_phases_are_repeated_and_one_gets_other_quantities_once() {
        let mut schedule = json!({
            "current_phase": {"start_date": 100},
            "phases": [
                {"start_date": 50, "end_date": 100, "items": []},
                {"start_date": 100, "end_date": 200, "proration_behavior": "none",
                 "items": [{"price": "price_a", "quantity": 5}]},
                {"start_date": 200, "end_date": 300, "billing_cycle_anchor": "phase_start",
                 "metadata": {"plan_version": "standard@2"},
                 "add_invoice_items": [{"price": "price_setup", "quantity": 1, "discounts": [],
                                        "tax_rates": []}],
                 "items": [{"price": {"id": "price_b"}, "quantity": 5,
                            "tax_rates": [{"id": "txr_1"}]}, {"price": "price_m"}]},
            ],
        });
        let follow = Follow {
            schedule: "sub_sched_1".to_owned(),
            starts_at: 200,
            items: vec![
                ("price_b".to_owned(), Some(8)),
                ("price_m".to_owned(), None),
            ],
        };
        let params = with_items(&schedule, &Discounts::default(), &follow).unwrap();
        let expected = json!({
            "proration_behavior": "none",
            "phases[0][start_date]": "100",
            "phases[0][end_date]": "200",
            "phases[0][proration_behavior]": "none",
            "phases[0][items][0][price]": "price_a",
            "phases[0][items][0][quantity]": "5",
            "phases[1][end_date]": "300",
            "phases[1][billing_cycle_anchor]": "phase_start",
            "phases[1][metadata][plan_version]": "standard@2",
            "phases[1][add_invoice_items][0][price]": "price_setup",
            "phases[1][add_invoice_items][0][quantity]": "1",
            "phases[1][items][0][price]": "price_b",
            "phases[1][items][0][quantity]": "8",
            "phases[1][items][0][tax_rates][0]": "txr_1",
            "phases[1][items][1][price]": "price_m",
        });
        assert_eq!(serde_json::to_value(params).unwrap(), expected);
        schedule["current_phase"]["start_date"] = json!(200);
        let late =
            serde_json::to_value(with_items(&schedule, &Discounts::default(), &follow).unwrap())
                .unwrap();
        assert_eq!(late["proration_behavior"], "always_invoice");
        assert_eq!(late["phases[0][start_date]"], "200");
        assert_eq!(late["phases[0][items][0][quantity]"], "8");
        schedule["phases"][2]["items"][0]["quantity"] = json!(8);
        assert!(with_items(&schedule, &Discounts::default(), &follow).is_none());
    }
}
