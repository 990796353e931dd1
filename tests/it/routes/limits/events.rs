//! Values at and beyond the limits, in events and in subscriptions.

use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::tenancy::auth::Permission;

use super::{Chance, MARK, probes};
use crate::metering::tenant::Tenant;
use crate::support::TestService;
use crate::support::dice::Dice;
use crate::support::events::{event, invoice, sign, subscription};

/// Where the values of an object stand.
fn leaves(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                leaves(member, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                leaves(item, &format!("{at}/{n}"), found);
            }
        }
        _ => found.push(at.to_owned()),
    }
}

#[tokio::test]
async fn whatever_an_event_says_is_taken_or_refused_by_us() {
    let service = TestService::start().await;
    service.db.organization("cus_1").await;
    let mut chance = Chance(Dice::new(20));
    for n in 0..probes() / 4 {
        let (kind, object) = if chance.0.one_in(2) {
            let id = format!("sub_{n}");
            let object = subscription(&id, "cus_1", "active", "standard");
            ("customer.subscription.updated", object)
        } else {
            let object = invoice(&format!("in_{n}"), "cus_1", "sub_1", "open");
            ("invoice.updated", object)
        };
        let mut event = event(&format!("evt_{n}"), kind, 1_770_000_000, object);
        let mut places = Vec::new();
        leaves(&event["data"]["object"], "/data/object", &mut places);
        // Another customer's would wait for it.
        places.retain(|place| !place.ends_with("/customer"));
        let place = places[chance.0.below(places.len())].clone();
        *event.pointer_mut(&place).unwrap() = json!(MARK);
        let odd = chance.value();
        let body = event.to_string().replace(&format!("\"{MARK}\""), &odd);
        let signature = sign(body.as_bytes());
        let answer = service.deliver_raw(body, &signature).await;
        assert_eq!(answer.status(), 200, "{place} {odd}");
    }
    service.settle().await;
    let refused = "SELECT coalesce(string_agg(error_message, E'\\n'), '') FROM (
                     SELECT error_message FROM webhook_events WHERE NOT processed
                     UNION ALL SELECT error_message FROM webhook_dead_letter_queue) failed
                    WHERE error_message LIKE '%database%'";
    assert_eq!(service.db.value(refused).await, "");
    // Whoever's subscription it is, others are counted.
    let other = Tenant::of(&service, "Other").await;
    other.consume(&service, "api_calls", 1).await.ok();
}

/// A subscription whose period is none keeps nobody else from being counted.
#[tokio::test]
async fn an_account_that_cannot_be_read_spoils_no_other() {
    let service = TestService::intake_only().await;
    let lane = |of: Uuid| of.as_u128() % 4;
    let broken = Tenant::of(&service, "Broken").await;
    let mut other = Tenant::of(&service, "Other").await;
    while lane(other.organization) != lane(broken.organization) {
        other = Tenant::of(&service, "Other").await;
    }
    service
        .db
        .execute(&format!(
            "INSERT INTO billing_subscriptions (organization_id, stripe_subscription_id,
               stripe_customer_id, status, stripe_status, livemode, plan_tier,
               current_period_start, current_period_end, last_event_at, last_event_rank,
               last_event_id, tied_event_ids)
             VALUES ('{}', 'sub_1', 'cus_1', 'active', 'active', false, 'free', now(), now(),
                     now(), 0, 'evt', ARRAY['evt'])",
            broken.organization
        ))
        .await;
    let key = service
        .api_key(broken.organization, &[Permission::UsageWrite])
        .await;
    let broken = Tenant { key, ..broken };
    for _ in 0..10 {
        let (wrong, right) = tokio::join!(
            broken.consume(&service, "api_calls", 1),
            other.consume(&service, "api_calls", 1)
        );
        assert_eq!(wrong.problem(), (503, "period_unknown"));
        assert_eq!(right.status, 200, "{right:?}");
    }
    assert_eq!(other.total(&service, "api_calls").await, "10");
}
