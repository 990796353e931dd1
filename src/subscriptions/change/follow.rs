//! A change of seats or add-ons beside a pending change: Stripe leaves the later phases of a
//! schedule as they are, so that those of before would be back when the next one begins. Once
//! the change is made, the phase is told the new ones.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::phase::{
    Discounts, begun, from_current_on, id, item_terms, members, metadata, repeat_all, same_items,
};
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

/// The parameters that give the phase its items. Stripe keeps nothing of what is left
/// out, so all phases from the current one on are repeated. `None` if the phase has them
/// or is gone.
fn with_items(schedule: &Value, held: &Discounts<'_>, follow: &Follow) -> Option<Params> {
    let begun = begun(schedule);
    let phases = from_current_on(schedule);
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
    let params = Params::new().set("proration_behavior", behavior);
    let new =
        |phase: &Value, at: &str, params, discounts: &dyn Fn(&Value, &str, Params) -> Params| {
            match phase["start_date"].as_i64() == Some(follow.starts_at) {
                true => new_items(phase, &follow.items, at, params, discounts),
                false => same_items(phase, at, params, discounts),
            }
        };
    Some(repeat_all(&phases, held, params, new))
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
