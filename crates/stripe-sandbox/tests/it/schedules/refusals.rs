//! What is refused for a schedule, and beside one.

use super::{RENEWAL, scheduled};
use crate::support::{DAY, START, World, text};

#[tokio::test]
async fn what_a_schedule_decides_cannot_be_changed_beside_it() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let it = scheduled(&world, &price, "flexible").await;
    let path = format!("/v1/subscriptions/{}", it.subscription);
    let id = text(&it.schedule(&world).await, "id");
    let words = format!(
        "The subscription is managed by the subscription schedule `{id}`, and updating any cancelation behavior directly is not allowed. Please update the schedule instead."
    );
    let later = RENEWAL.to_string();
    for field in [("cancel_at_period_end", "true"), ("cancel_at", &*later)] {
        let error = world.post(&path, &[field]).await.error(400);
        assert_eq!(error["message"], words.as_str());
        let asked = format!("subscription_details[{}]", field.0);
        let preview = [
            ("subscription", it.subscription.as_str()),
            (&*asked, field.1),
        ];
        let error = world
            .post("/v1/invoices/create_preview", &preview)
            .await
            .error(400);
        assert_eq!(error["message"], words.as_str());
    }
    let error = world
        .post(&path, &[("billing_cycle_anchor", "now")])
        .await
        .error(400);
    assert_eq!(error["code"], "sandbox_unsupported", "{path}");
    let allowed = [("metadata[k]", "v"), ("description", "d")];
    world.post(&path, &allowed).await.ok();
    world.post(&format!("{}/release", it.path), &[]).await.ok();
    world
        .post(&path, &[("billing_cycle_anchor", "now")])
        .await
        .ok();
}

#[tokio::test]
async fn invalid_schedules_are_refused() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let it = scheduled(&world, &price, "flexible").await;
    let all = "/v1/subscription_schedules";
    let from = ("from_subscription", it.subscription.as_str());
    let error = world.post(all, &[from]).await.error(400);
    let message = error["message"].as_str().unwrap_or_default();
    assert!(
        message.starts_with(
            "You cannot migrate a subscription that is already attached to a schedule: `sub_sched_"
        ),
        "{message}"
    );
    let error = world
        .post(all, &[from, ("metadata[k]", "v")])
        .await
        .error(400);
    assert_eq!(
        error["message"],
        "You cannot set `metadata` if `from_subscription` is set."
    );
    let error = world
        .post(all, &[("customer", it.customer.as_str())])
        .await
        .error(400);
    assert_eq!(error["code"], "sandbox_unsupported");

    let error = world
        .get("/v1/subscription_schedules/sub_sched_none", &[])
        .await
        .error(404);
    assert_eq!(error["param"], "schedule");
    let listed = world
        .get(all, &[("customer", it.customer.as_str())])
        .await
        .ok();
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(1));
    let none = [
        ("customer", it.customer.as_str()),
        ("released_at[gte]", "1"),
    ];
    let listed = world.get(all, &none).await.ok();
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(0));
}

#[tokio::test]
async fn invalid_phases_are_refused() {
    let world = World::new().await;
    let price = world.price(1_000).await;
    let it = scheduled(&world, &price, "flexible").await;
    world.advance(&it.clock, START + DAY).await;
    let at = |days: i64| (START + days * DAY).to_string();
    let (start, early, end, late) = (at(0), at(-1), at(28), at(40));
    let items = ("phases[0][items][0][price]", price.as_str());
    let next = ("phases[1][items][0][price]", price.as_str());
    let starts = ("phases[0][start_date]", start.as_str());
    let ends = ("phases[0][end_date]", end.as_str());
    for (fields, param) in [
        (vec![items, ends], "phases"),
        (
            vec![items, ("phases[0][start_date]", &*early), ends],
            "phases[0][start_date]",
        ),
        (
            vec![items, starts, ends, next, ("phases[1][start_date]", &*late)],
            "phases[1][start_date]",
        ),
        (
            vec![items, starts, ("phases[0][end_date]", &*early)],
            "phases[0][end_date]",
        ),
        (
            vec![
                items,
                starts,
                ends,
                ("phases[0][duration][interval]", "month"),
            ],
            "phases[0][duration]",
        ),
        (vec![starts, ends], "phases[0][items]"),
        (
            vec![items, starts, ends, ("phases[0][currency]", "eur")],
            "phases[0][currency]",
        ),
        (
            vec![("phases[0][items][0][price]", "price_none"), starts, ends],
            "phases[0][items][0][price]",
        ),
    ] {
        let error = world.post(&it.path, &fields).await.error(400);
        assert_eq!(error["param"], param, "{fields:?}");
        assert_ne!(error["code"], "sandbox_unsupported", "{fields:?}");
    }
    for unsupported in [
        ("phases[0][trial_end]", late.as_str()),
        ("phases[0][default_tax_rates][0]", "t"),
        ("default_settings[description]", "d"),
        ("end_behavior", "renew"),
    ] {
        let fields = [items, starts, ends, unsupported];
        let error = world.post(&it.path, &fields).await.error(400);
        assert_eq!(error["code"], "sandbox_unsupported", "{unsupported:?}");
    }
}
