//! `plans migrate --at renewal`.

use serde_json::Value;

use crate::catalogue::shop::Shop;
use crate::support::program::{Ran, program_on, run};

const RAISED: (&str, &str) = ("amount = 9_900", "amount = 10_900");

pub async fn migrate(shop: &Shop, arguments: &[&str]) -> Ran {
    let of_plan = ["plans", "migrate", "--plan", "standard", "--to", "2"];
    let arguments = [&of_plan[..], arguments, &["--json"]].concat();
    let mut command = program_on(&shop.world.service.db, &arguments);
    command
        .env("STRIPE_SECRET_KEY", "sk_test_secret")
        .env("STRIPE_WEBHOOK_SECRET", "whsec_secret")
        .env("STRIPE_API_BASE", shop.world.stripe.sandbox.url())
        .env("PLANS_FILE", shop.path());
    tokio::task::spawn_blocking(move || run(&mut command))
        .await
        .unwrap()
}

#[tokio::test]
async fn subscribers_move_with_their_next_period_after_a_dry_run_and_only_once() {
    let mut shop = Shop::open(&[]).await;
    let clock = shop.world.stripe.clock(super::START).await;
    let customer = shop.world.newcomer(&clock).await;
    shop.world.create("standard").await.ok();
    shop.world.settle().await;
    shop.change(&[RAISED]).await;

    let dry = migrate(&shop, &["--at", "renewal", "--dry-run"]).await;
    assert_eq!(dry.status, 0, "{}", dry.stderr);
    let shown = dry.json()[0].clone();
    assert_eq!((&shown["from"], &shown["to"]), (&1.into(), &2.into()));
    assert_eq!(shown["dueNowAmount"], 0);
    assert_eq!(shown["nextInvoiceAmount"], 10_900);
    assert_eq!(super::seconds(&shown["effectiveAt"]), super::RENEWAL);
    assert_eq!(shop.world.current().await["pendingChange"], Value::Null);

    let ran = migrate(&shop, &["--at", "renewal", "--rate", "100"]).await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let pending = shop.world.current().await["pendingChange"].clone();
    assert_eq!(pending["planTier"], "standard");
    assert_eq!(pending["planVersion"], 2);
    shop.world.settle().await;
    assert_eq!(shop.world.current().await["pendingChange"], pending);
    // Who is about to move is not moved again.
    let again = migrate(&shop, &["--at", "renewal"]).await;
    assert_eq!(again.json(), Value::Array(vec![]));
    let version = "SELECT plan_version FROM organizations WHERE id = $org";
    assert_eq!(shop.value(version).await, "1");

    shop.world
        .stripe
        .advance(&clock, super::RENEWAL + 7_200)
        .await;
    shop.world.settle().await;
    assert_eq!(shop.value(version).await, "2");
    let invoices = shop.world.stripe.invoices(&customer).await;
    assert_eq!(invoices[1]["amount_paid"], shown["nextInvoiceAmount"]);
    assert_eq!(shop.world.current().await["pendingChange"], Value::Null);
    assert_eq!(migrate(&shop, &[]).await.json(), Value::Array(vec![]));
}

#[tokio::test]
async fn what_a_customer_has_chosen_stays_and_a_version_at_once_leaves_it_pending() {
    let mut shop = Shop::open(&[]).await;
    shop.subscriber("standard").await;
    shop.change(&[RAISED]).await;
    let chosen = shop.world.change_when("enterprise", "period_end").await;
    let chosen = chosen.ok()["pendingChange"].clone();
    let ran = migrate(&shop, &["--at", "renewal"]).await;
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let problem = super::text(&ran.json()[0], "problem");
    assert!(problem.contains("\"enterprise\" is pending"), "{problem}");
    assert_eq!(shop.world.current().await["pendingChange"], chosen);

    let ran = migrate(&shop, &[]).await;
    assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
    shop.world.settle().await;
    let current = shop.world.current().await;
    assert_eq!(current["planTier"], "standard");
    assert_eq!(current["pendingChange"], chosen);
}

#[tokio::test]
async fn a_run_waits_where_stripe_takes_no_more_calls() {
    let mut shop = Shop::open(&[]).await;
    for _ in 0..5 {
        shop.subscriber("standard").await;
    }
    shop.change(&[RAISED]).await;
    let fault = [
        ("fault", "rate_limit"),
        ("every", "3"),
        ("retry_after", "0"),
    ];
    shop.world.stripe.fault(&fault).await;
    let ran = migrate(&shop, &["--at", "renewal", "--rate", "200"]).await;
    shop.world.stripe.clear_faults().await;
    assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.json().as_array().map(Vec::len), Some(5));
    assert!(ran.stderr.contains("5 of 5"), "{}", ran.stderr);
    let pending = "billing_subscriptions WHERE stripe_schedule_id IS NOT NULL";
    assert_eq!(shop.world.service.db.count(pending).await, 5);
}
