//! Which payment method Stripe charges: a subscription's own default, its own source, the
//! customer's default, the customer's source, whichever of them is there first.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::owed::Owed;
use super::{Card, CardFailure};
use crate::stripe::client::{Client, Params, StripeError};
use crate::stripe::objects::Customer;
use crate::stripe::requests::Request;
use crate::subscriptions::Subscriptions;
use crate::subscriptions::change::recharge::{Replacement, recharge_schedule};
use crate::subscriptions::failure::Failure;
use crate::subscriptions::payer::id_in;

impl Subscriptions {
    /// Has Stripe charge another payment method where the one that goes is charged: the
    /// customer's default and running subscriptions' own. Refuses to leave none.
    pub(super) async fn successor(
        &self,
        client: &Client,
        request: &Request,
        card: &Card,
    ) -> Result<(), CardFailure> {
        // The mirror may not know yet what was bought a moment ago.
        let all = client.subscriptions(Some(&card.customer)).await;
        let all = all.map_err(Failure::Stripe)?;
        let running: Vec<&Value> = all.iter().filter(|one| is_running(one)).collect();
        if running.is_empty() {
            return Ok(());
        }
        let attached = client.attached(&card.customer).await;
        let attached = attached.map_err(Failure::Stripe)?;
        let now = Timestamp::now();
        let usable = |one: &&Value| one["id"] != json!(card.id) && is_usable(one, now);
        let usable: Vec<&Value> = attached.iter().filter(usable).collect();
        let newest = usable.iter().max_by_key(|one| one["created"].as_i64());
        let Some(newest) = newest.and_then(|one| one["id"].as_str()) else {
            return Err(CardFailure::LastOne);
        };
        let shown = client.customer_now(&card.customer).await;
        let shown = shown.map_err(Failure::Stripe)?;
        let shown = Customer::read(&shown.body, false).map_err(Failure::Shape)?;
        let default = shown.default_payment_method_id.as_deref();
        let keeps = default.filter(|id| usable.iter().any(|one| one["id"] == json!(id)));
        let next = keeps.unwrap_or(newest);
        if default == Some(card.id.as_str()) {
            let params = Params::new().set("invoice_settings[default_payment_method]", next);
            let key = request.key_of("default");
            let updated = client.update_customer(&card.customer, &params, &key);
            updated.await.map_err(Failure::Stripe)?;
        }
        let methods = Replacement {
            from: Some(&card.id),
            to: next,
        };
        for subscription in running {
            if own_method(subscription).as_deref() == Some(&*card.id) {
                let recharged = recharge(client, request, subscription, next).await;
                recharged.map_err(Failure::Stripe)?;
            }
            let scheduled = recharge_schedule(client, request, subscription, methods).await;
            scheduled.map_err(Failure::Stripe)?;
        }
        Ok(())
    }

    /// Makes a payment method the default of the customer, and of those subscriptions and
    /// schedules that have a default of their own, which Stripe would charge instead. Then
    /// what they owe is paid with it. `owed` has what was done, however it ends.
    pub(super) async fn charge_to(
        &self,
        client: &Client,
        request: &Request,
        (customer, method): (&str, &str),
        owed: &mut Owed,
    ) -> Result<(), Failure> {
        let params = Params::new().set("invoice_settings[default_payment_method]", method);
        let key = request.key_of("default");
        let updated = client.update_customer(customer, &params, &key).await;
        updated.map_err(Failure::Stripe)?;
        let all = client.subscriptions(Some(customer)).await;
        let all = all.map_err(Failure::Stripe)?;
        let methods = Replacement {
            from: None,
            to: method,
        };
        for subscription in all.iter().filter(|one| is_running(one)) {
            if own_method(subscription).is_some_and(|own| own != method) {
                owed.concerns(subscription);
                let recharged = recharge(client, request, subscription, method).await;
                recharged.map_err(Failure::Stripe)?;
            }
            let scheduled = recharge_schedule(client, request, subscription, methods).await;
            scheduled.map_err(Failure::Stripe)?;
        }
        self.pay_owed(client, request, (&all, method), owed).await
    }
}

/// Whether every running subscription of the customer is charged to its default.
pub(super) async fn follow_customer(
    client: &Client,
    customer: &str,
    method: &str,
) -> Result<bool, StripeError> {
    let all = client.subscriptions(Some(customer)).await?;
    let mut running = all.iter().filter(|one| is_running(one));
    Ok(running.all(|one| own_method(one).is_none_or(|own| own == method)))
}

/// The payment method that a subscription has for itself, and is charged to whatever the
/// customer's default is.
pub(in crate::subscriptions) fn own_method(subscription: &Value) -> Option<String> {
    id_in(subscription, "default_payment_method").or_else(|| id_in(subscription, "default_source"))
}

/// Has Stripe charge a subscription that has a default of its own to another one.
async fn recharge(
    client: &Client,
    request: &Request,
    subscription: &Value,
    method: &str,
) -> Result<(), StripeError> {
    let id = subscription["id"].as_str().unwrap_or_default();
    let params = Params::new().set("default_payment_method", method);
    let key = request.key_of(id);
    client.update_subscription(id, &params, &key).await?;
    Ok(())
}

/// Whether it is, or will be, charged. Stripe lets nobody change one whose first payment
/// is not made.
fn is_running(subscription: &Value) -> bool {
    let status = subscription["status"].as_str().unwrap_or_default();
    !matches!(status, "canceled" | "incomplete" | "incomplete_expired")
}

/// Whether a payment method can be charged, as far as its expiry says.
pub(in crate::subscriptions) fn is_usable(method: &Value, now: Timestamp) -> bool {
    let part = |name: &str| method["card"][name].as_i64();
    let (Some(month), Some(year)) = (part("exp_month"), part("exp_year")) else {
        return true;
    };
    let today = now.to_zoned(TimeZone::UTC);
    (year, month) >= (i64::from(today.year()), i64::from(today.month()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriptions_own_method_comes_before_its_own_source() {
        let both = json!({"default_payment_method": {"id": "pm_1"}, "default_source": "card_1"});
        assert_eq!(own_method(&both).as_deref(), Some("pm_1"));
        let source = json!({"default_payment_method": null, "default_source": "card_1"});
        assert_eq!(own_method(&source).as_deref(), Some("card_1"));
        assert_eq!(own_method(&json!({"default_source": null})), None);
    }

    #[test]
    fn a_card_can_be_charged_until_its_month_ends() {
        let now: Timestamp = "2026-02-28T23:59:59Z".parse().unwrap();
        let card = |month: i64, year: i64| json!({"card": {"exp_month": month, "exp_year": year}});
        assert!(is_usable(&card(2, 2026), now));
        assert!(is_usable(&card(1, 2027), now));
        assert!(!is_usable(&card(1, 2026), now));
        assert!(!is_usable(&card(12, 2025), now));
        assert!(is_usable(&json!({"type": "us_bank_account"}), now));
    }
}
