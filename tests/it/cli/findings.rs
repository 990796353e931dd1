//! What `doctor` and the metrics say of subscriptions and usage that are not as
//! they should be.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use valuecanvas_billing::tenancy::auth::Permission;

use crate::metering::tenant::Tenant;
use crate::subscriptions::world::{VISA, World};
use crate::support::events::{event, subscription};
use crate::support::program::{Ran, run_on};
use crate::support::service::Options;
use crate::support::{TestDatabase, TestService};

async fn doctor(world: &World) -> Ran {
    run_on(&world.service.db, &["doctor", "--json"]).await
}

fn check(ran: &Ran, name: &str) -> Value {
    let checks = ran.json();
    let mut checks = checks.as_array().unwrap().iter();
    let check = checks.find(|check| check["name"] == name);
    check
        .unwrap_or_else(|| panic!("{name}: {}", ran.stdout))
        .clone()
}

/// What is wrong, by its check; the damage; what is named; and what to do.
const DAMAGES: &[(&str, &str, &str, &str)] = &[
    (
        "double subscriptions",
        "INSERT INTO billing_subscriptions (organization_id, stripe_subscription_id,
           stripe_customer_id, status, stripe_status, plan_tier, livemode, last_event_at,
           last_event_rank, last_event_id, tied_event_ids)
         SELECT organization_id, 'sub_double', stripe_customer_id, 'active', 'active', plan_tier,
                false, now(), 0, 'evt', ARRAY['evt'] FROM billing_subscriptions",
        "sub_double",
        "end-doubles",
    ),
    (
        "unknown prices",
        "UPDATE billing_subscriptions SET plan_tier = NULL WHERE stripe_subscription_id = 'sub_double'",
        "sub_double",
        "stripe_price_ids",
    ),
    (
        "deleted customers",
        "UPDATE billing_customers SET deleted_at = now()",
        "cus_",
        "reconcile --apply",
    ),
    (
        "vanished plans",
        "UPDATE organizations SET plan_tier = 'bronze'",
        "bronze: 1 organization: ",
        "PLANS_FILE",
    ),
    (
        "unknown schedules",
        "UPDATE billing_subscriptions SET stripe_schedule_id = 'sub_sched_unknown'
          WHERE stripe_subscription_id <> 'sub_double'",
        "sub_sched_unknown",
        "subscription_schedule.*",
    ),
    (
        "double metered items",
        "INSERT INTO billing_subscription_items (organization_id, stripe_subscription_id,
           stripe_subscription_item_id, plan_tier, metric)
         SELECT organization_id, stripe_subscription_id, item, 'standard', 'api_calls'
           FROM billing_subscriptions, unnest('{si_one,si_other}'::text[]) item
          WHERE stripe_subscription_id <> 'sub_double'",
        "api_calls by si_one and si_other",
        "remove all but one",
    ),
    (
        "abandoned requests",
        "INSERT INTO billing_stripe_requests (organization_id, id, subject, operation, params,
           context, state, finished_at, abandoned_at, recovery_error)
         SELECT id, gen_random_uuid(), 'subscription', 'update', '{}', '{}', 'failed', now(), now(),
                'no such price' FROM organizations",
        "no such price",
        "reconcile --apply",
    ),
];

#[tokio::test]
async fn each_finding_about_subscriptions_is_named_with_its_fix() {
    let world = World::start().await;
    world.customer(VISA).await;
    world.create("standard").await.ok();
    world.settle().await;
    let whole = doctor(&world).await;
    for (name, ..) in DAMAGES {
        assert_eq!(check(&whole, name)["verdict"], "ok", "{name}");
    }
    for (name, damage, named, fix) in DAMAGES {
        world.service.db.execute(damage).await;
        let ran = doctor(&world).await;
        let found = check(&ran, name);
        assert_eq!(
            (ran.status, &found["verdict"]),
            (1, &"failed".into()),
            "{found:#}"
        );
        let (detail, says) = (found["detail"].as_str(), found["fix"].as_str());
        assert!(detail.unwrap().contains(named), "{found:#}");
        assert!(says.unwrap().contains(fix), "{found:#}");
    }
}

#[tokio::test]
async fn the_findings_are_measured() {
    let world = World::start().await;
    world.customer(VISA).await;
    world.create("standard").await.ok();
    world.settle().await;
    // With a vanished plan no replica starts.
    let damages = DAMAGES
        .iter()
        .filter(|(name, ..)| *name != "vanished plans");
    for (_, damage, ..) in damages {
        world.service.db.execute(damage).await;
    }
    // Another replica looks as it starts.
    let options = Options {
        stripe_api: Some(world.stripe.api()),
        ..Options::default()
    };
    // It shares this process's metrics, which the first service shows.
    let _replica = TestService::beside_with(&world.service, options).await;
    for kind in [
        "double_subscriptions",
        "unknown_prices",
        "deleted_customers",
        "double_metered_items",
    ] {
        until(&world.service, kind, 1).await;
    }
}

/// Webhooks and usage need no key, and neither do findings.
#[tokio::test]
async fn the_findings_are_measured_without_a_key() {
    let service = TestService::start().await;
    let organization = service.db.organization("cus_1").await;
    let now = Timestamp::now().as_second();
    let mut object = subscription("sub_1", "cus_1", "active", "standard");
    object["created"] = json!(now - 86_400);
    object["schedule"] = json!("sub_sched_unknown");
    let item = &mut object["items"]["data"][0];
    item["current_period_start"] = json!(now - 86_400);
    item["current_period_end"] = json!(now + 29 * 86_400);
    let mut double = object.clone();
    double["id"] = json!("sub_2");
    double["items"]["data"][0]["id"] = json!("si_2");
    for (id, object) in [("evt_1", object), ("evt_2", double)] {
        let event = event(id, "customer.subscription.created", 100, object);
        service.deliver(&event).await;
    }
    service.settle().await;
    let key = service.api_key(organization, &Permission::ALL).await;
    let tenant = Tenant { organization, key };
    // 400,000 over the quota, and a fee alone.
    tenant.consume(&service, "api_calls", 500_000).await.ok();
    let _replica = TestService::beside_with(&service, Options::default()).await;
    for (kind, found) in [
        ("double_subscriptions", 1),
        ("unknown_schedules", 2),
        ("unbilled_usage", 1),
    ] {
        until(&service, kind, found).await;
    }
}

async fn until(service: &TestService, kind: &str, found: i64) {
    let series = format!("billing_findings{{kind=\"{kind}\"}}");
    for _ in 0..1_000 {
        if service.metric(&series).await == Some(found) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{series} never became {found}");
}

#[tokio::test]
async fn unclaimed_events_are_counted_and_many_of_them_are_told_of() {
    let db = TestDatabase::new().await;
    let found = |n: usize| {
        let verdict = if n > 100_000 { "warning" } else { "ok" };
        let examined = run_on(&db, &["doctor", "--json"]);
        async move {
            let check = check(&examined.await, "unclaimed events");
            assert_eq!(check["verdict"], verdict, "{check:#}");
            assert!(
                check["detail"]
                    .as_str()
                    .unwrap()
                    .starts_with(&n.to_string())
            );
        }
    };
    found(0).await;
    for (from, to) in [(1, 1), (2, 100_001)] {
        db.execute(&format!(
            "INSERT INTO webhook_unclaimed_events (bucket, stripe_event_id, waiting_for)
             SELECT 1, 'evt_' || n, 'cus_nobody' FROM generate_series({from}, {to}) n"
        ))
        .await;
        found(to).await;
    }
}
