//! Another payment method for a subscription that a schedule drives: Stripe charges the one
//! that a phase or the schedule names from the next phase on, whatever the subscription has.

use serde_json::Value;

use super::phase::{Discounts, from_current_on, id, repeat_all, same_items};
use super::schedule::schedule_of;
use crate::stripe::client::{Client, Params, StripeError};
use crate::stripe::requests::Request;

/// Which payment method takes the place of which.
#[derive(Debug, Clone, Copy)]
pub struct Replacement<'a> {
    /// `None`: of any other.
    pub from: Option<&'a str>,
    pub to: &'a str,
}

impl Replacement<'_> {
    fn concerns(&self, named: &Value) -> bool {
        let named = id(named);
        !named.is_empty() && named != self.to && self.from.is_none_or(|from| from == named)
    }
}

/// Has the schedule of a subscription, if it has one, charge the other payment method too.
pub async fn recharge_schedule(
    client: &Client,
    request: &Request,
    subscription: &Value,
    methods: Replacement<'_>,
) -> Result<(), StripeError> {
    let Some(schedule) = schedule_of(subscription) else {
        return Ok(());
    };
    let shown = client.schedule(schedule).await?.body;
    if shown["status"] != "active" && shown["status"] != "not_started" {
        return Ok(());
    }
    let mut subscription = subscription.clone();
    client.fetch_missing_items(&mut subscription).await?;
    let held = Discounts::of(&subscription);
    let Some(params) = with_method(&shown, &held, methods) else {
        return Ok(());
    };
    let key = request.key_of(schedule);
    client.update_schedule(schedule, &params, &key).await?;
    Ok(())
}

/// The parameters that name the other payment method. `None` if nothing names one that it
/// takes the place of: then Stripe charges the customer's default.
fn with_method(schedule: &Value, held: &Discounts<'_>, methods: Replacement<'_>) -> Option<Params> {
    const NAME: &str = "default_payment_method";
    let mut params = Params::new();
    let of_all = methods.concerns(&schedule["default_settings"][NAME]);
    if of_all {
        params = params.set(format!("default_settings[{NAME}]"), methods.to);
    }
    let mut phases: Vec<Value> = from_current_on(schedule).into_iter().cloned().collect();
    let mut of_phases = false;
    for phase in &mut phases {
        if methods.concerns(&phase[NAME]) {
            phase[NAME] = methods.to.into();
            of_phases = true;
        }
    }
    if of_phases {
        let phases: Vec<&Value> = phases.iter().collect();
        params = params.set("proration_behavior", "none");
        params = repeat_all(&phases, held, params, |phase, at, params, discounts| {
            same_items(phase, at, params, discounts)
        });
    }
    (of_all || of_phases).then_some(params)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(schedule: &Value, methods: Replacement<'_>) -> Option<Value> {
        let params = with_method(schedule, &Discounts::default(), methods)?;
        Some(serde_json::to_value(params).unwrap())
    }

    #[test]
    fn what_names_another_method_names_the_new_one_and_the_rest_is_repeated() {
        let schedule = json!({
            "current_phase": {"start_date": 100},
            "default_settings": {"default_payment_method": "pm_old"},
            "phases": [
                {"start_date": 50, "end_date": 100, "default_payment_method": "pm_old", "items": []},
                {"start_date": 100, "end_date": 200, "default_payment_method": null,
                 "items": [{"price": "price_a", "quantity": 5}]},
                {"start_date": 200, "end_date": 300, "default_payment_method": {"id": "pm_old"},
                 "items": [{"price": {"id": "price_b"}, "quantity": 5}]},
            ],
        });
        let any = Replacement {
            from: None,
            to: "pm_new",
        };
        let expected = json!({
            "default_settings[default_payment_method]": "pm_new",
            "proration_behavior": "none",
            "phases[0][start_date]": "100",
            "phases[0][end_date]": "200",
            "phases[0][items][0][price]": "price_a",
            "phases[0][items][0][quantity]": "5",
            "phases[1][end_date]": "300",
            "phases[1][default_payment_method]": "pm_new",
            "phases[1][items][0][price]": "price_b",
            "phases[1][items][0][quantity]": "5",
        });
        assert_eq!(told(&schedule, any), Some(expected));
        let gone = |from| Replacement {
            from: Some(from),
            to: "pm_new",
        };
        assert!(told(&schedule, gone("pm_old")).is_some());
        assert_eq!(told(&schedule, gone("pm_other")), None);
        let none = json!({"default_settings": {"default_payment_method": null}, "phases": []});
        assert_eq!(told(&none, any), None);
    }
}
