//! What `doctor` and the metrics say of subscriptions and usage that are not as
//! they should be.

use std::time::Duration;

use serde_json::Value;

use crate::subscriptions::world::{VISA, World};
use crate::support::program::{Ran, program_on, run};
use crate::support::service::Options;
use crate::support::{TestDatabase, TestService};

async fn doctor(world: &World) -> Ran {
    let mut command = program_on(&world.service.db, &["doctor", "--json"]);
    tokio::task::spawn_blocking(move || run(&mut command))
        .await
        .unwrap()
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
        "refund",
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
    ] {
        let series = format!("billing_findings{{kind=\"{kind}\"}}");
        let mut tries = 0;
        while world.service.metric(&series).await != Some(1) {
            tries += 1;
            assert!(tries < 1_000, "{series} never became 1");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn unclaimed_events_are_counted_and_many_of_them_are_told_of() {
    let db = TestDatabase::new().await;
    let found = |n: usize| {
        let mut command = program_on(&db, &["doctor", "--json"]);
        let verdict = if n > 100_000 { "warning" } else { "ok" };
        tokio::task::spawn_blocking(move || {
            let check = check(&run(&mut command), "unclaimed events");
            assert_eq!(check["verdict"], verdict, "{check:#}");
            assert!(
                check["detail"]
                    .as_str()
                    .unwrap()
                    .starts_with(&n.to_string())
            );
        })
    };
    found(0).await.unwrap();
    for (from, to) in [(1, 1), (2, 100_001)] {
        db.execute(&format!(
            "INSERT INTO webhook_unclaimed_events (bucket, stripe_event_id, waiting_for)
             SELECT 1, 'evt_' || n, 'cus_nobody' FROM generate_series({from}, {to}) n"
        ))
        .await;
        found(to).await.unwrap();
    }
}
