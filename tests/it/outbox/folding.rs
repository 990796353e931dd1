//! Folding all `organization.state_changed` by their sequence gives the state, whatever
//! changes in whatever order.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::tenancy::auth::Permission;

use super::receiver::{
    Receiver, Reply, change, endpoint, let_retries_be_due, service, until_count,
};
use crate::metering::tenant::Tenant;
use crate::support::TestService;
use crate::support::dice::Dice;
use crate::support::events::{event, invoice, subscription};

/// Something that may happen to an organization.
async fn happen(service: &TestService, tenant: &Tenant, customer: &str, dice: &mut Dice, n: i64) {
    let at = 1_760_000_000 + n;
    let (sub, id) = (format!("sub_{customer}"), format!("evt_{customer}_{n}"));
    match dice.below(7) {
        0 => change(service, tenant.organization, dice.below(50)).await,
        1 => {
            tenant
                .set_quota(service, "api_calls", &(1_000 + n).to_string(), None)
                .await
        }
        2 => {
            tenant.consume(service, "api_calls", 400).await;
        }
        3 => {
            let status = dice.pick(&["active", "past_due", "trialing"]);
            let tier = dice.pick(&["standard", "enterprise"]);
            let object = subscription(&sub, customer, status, tier);
            service
                .deliver(&event(&id, "customer.subscription.updated", at, object))
                .await;
        }
        4 => {
            let object = invoice(&format!("in_{id}"), customer, &sub, "paid");
            service
                .deliver(&event(&id, "invoice.paid", at, object))
                .await;
        }
        5 => {
            let object = invoice(&format!("in_{id}"), customer, &sub, "open");
            service
                .deliver(&event(&id, "invoice.payment_failed", at, object))
                .await;
        }
        _ => {
            let object = subscription(&sub, customer, "canceled", "standard");
            service
                .deliver(&event(&id, "customer.subscription.deleted", at, object))
                .await;
        }
    }
}

async fn state(service: &TestService, organization: Uuid) -> Value {
    let key = service
        .api_key(organization, &[Permission::BillingRead])
        .await;
    let request = service.get("/api/billing/state").bearer_auth(key);
    request.send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn folding_the_events_gives_the_state() {
    let service = service().await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    receiver.then(&[Reply::Status(500), Reply::Status(200), Reply::Status(503)]);
    endpoint(&service.db, &receiver, &[]).await;
    let mut dice = Dice::new(20_260_123);
    let mut tenants = Vec::new();
    for name in ["one", "two", "three"] {
        let tenant = Tenant::of(&service, name).await;
        let customer = format!("cus_{name}");
        let link = [
            "organizations",
            "link-customer",
            &tenant.organization.to_string(),
            "--stripe-customer",
            &customer,
        ];
        let ran = crate::support::program::run_on(&service.db, &link).await;
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        tenants.push((tenant, customer));
    }
    for n in 0..45 {
        let (tenant, customer) = &tenants[dice.below(tenants.len())];
        happen(&service, tenant, customer, &mut dice, n).await;
    }
    service.settle().await;
    until_count(&service, "outbound_changes", 0).await;
    let_retries_be_due(&service).await;
    until_count(&service, "outbound_deliveries WHERE status = 'pending'", 0).await;

    let mut folded = BTreeMap::<(String, String), Value>::new();
    let mut types = BTreeMap::<String, usize>::new();
    let mut numbers = BTreeMap::<String, Vec<i64>>::new();
    for taken in receiver.all() {
        let event = taken.event();
        let text = |name: &str| event[name].as_str().unwrap().to_owned();
        let before = folded.insert((text("subject"), text("sequence")), event.clone());
        assert!(
            before.is_none_or(|before| before == event),
            "one number, one event"
        );
        *types.entry(text("type")).or_default() += 1;
        numbers
            .entry(text("subject"))
            .or_default()
            .push(text("sequence").parse().unwrap());
    }
    for (tenant, _) in &tenants {
        let subject = tenant.organization.to_string();
        let mine = folded.iter().filter(|((whose, _), _)| *whose == subject);
        let states: Vec<&Value> = mine
            .map(|(_, event)| event)
            .filter(|event| event["type"] == "organization.state_changed")
            .map(|event| &event["data"])
            .collect();
        let versions: Vec<i64> = states
            .iter()
            .map(|state| state["stateVersion"].as_i64().unwrap())
            .collect();
        assert!(versions.is_sorted(), "{versions:?}");
        let last = (*states.last().unwrap()).clone();
        assert_eq!(last, state(&service, tenant.organization).await);
        let of_one = &numbers[&subject];
        assert!(of_one.is_sorted(), "in order: {of_one:?}");
        let mut once = of_one.clone();
        once.dedup();
        let all: Vec<i64> = (1..).take(once.len()).collect();
        assert_eq!(once, all, "without gaps");
    }
    for expected in ["subscription.created", "plan.changed", "invoice.paid"] {
        assert!(types.contains_key(expected), "{expected}: {types:?}");
    }
    let unknown = json!(
        types
            .keys()
            .filter(|name| { valuecanvas_billing::outbox::EventType::parse(name).is_none() })
            .collect::<Vec<_>>()
    );
    assert_eq!(unknown, json!([]));
}
