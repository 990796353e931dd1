//! `plans migrate --at renewal`.

use serde_json::{Value, json};

use crate::catalogue::shop::Shop;
use crate::support::program::{Ran, program_with_stripe, run_beside};

const RAISED: (&str, &str) = ("amount = 9_900", "amount = 10_900");
/// Standard, by the seat.
const SEATS: [(&str, &str); 2] = [
    (
        "user_seats = { quota = 25, over_limit = \"overage\", overage_rate = \"5.00\" }\n",
        "",
    ),
    (
        "trial_days_max = 30\n",
        "trial_days_max = 30\n\n[plans.seats]\nmetric = \"user_seats\"\nmode = \"licensed\"\n",
    ),
];

fn seats(quantity: u32, when: &str) -> Value {
    json!({"planTier": "standard", "quantity": quantity, "when": when})
}

pub async fn migrate(shop: &Shop, arguments: &[&str]) -> Ran {
    let of_plan = ["plans", "migrate", "--plan", "standard", "--to", "2"];
    let arguments = [&of_plan[..], arguments, &["--json"]].concat();
    let mut command = program_with_stripe(
        &shop.world.service.db,
        &shop.world.stripe.sandbox.url(),
        &arguments,
    );
    command.env("PLANS_FILE", shop.path());
    run_beside(command).await
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

#[tokio::test]
async fn a_customer_lets_no_migration_off_with_seats_or_otherwise() {
    let mut shop = Shop::open(&SEATS).await;
    let (customer, clock) = shop.customer_at(super::START).await;
    let first = json!({"planTier": "standard", "quantity": 5});
    shop.subscribe(first).await.ok();
    shop.world.settle().await;
    shop.change(&[RAISED]).await;
    let ran = migrate(&shop, &["--at", "renewal"]).await;
    assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
    for quantity in [3, 5, 4] {
        let changed = shop.put(seats(quantity, "period_end")).await.ok();
        let pending = &changed["pendingChange"];
        assert_eq!(
            (&pending["planVersion"], &pending["quantity"]),
            (&json!(2), &json!(quantity)),
            "{changed:#}"
        );
        assert_eq!(changed["quantity"], 5);
    }
    let pending = shop.world.current().await["pendingChange"].clone();
    let answer = shop.world.call_off().await;
    assert_eq!(answer.problem(), (409, "migration_pending"), "{answer:?}");
    shop.world.settle().await;
    shop.world.settled_in_the_background().await;
    assert_eq!(shop.world.current().await["pendingChange"], pending);

    let renewal = super::RENEWAL + 7_200;
    shop.world.stripe.advance(&clock, renewal).await;
    shop.world.settle().await;
    assert_eq!(
        shop.invoice(&customer).await["amount_paid"],
        4 * 10_900,
        "the price that was raised, for the seats that were chosen"
    );
    let version = "SELECT plan_version FROM organizations WHERE id = $org";
    assert_eq!(shop.value(version).await, "2");
}

#[tokio::test]
async fn a_version_with_the_same_prices_is_pending_and_survives_a_change_of_seats() {
    let mut shop = Shop::open(&SEATS).await;
    let (_, clock) = shop.customer_at(super::START).await;
    let first = json!({"planTier": "standard", "quantity": 5});
    shop.subscribe(first).await.ok();
    shop.world.settle().await;
    shop.change(&[("storage_gb = { quota = 100,", "storage_gb = { quota = 150,")])
        .await;
    let ran = migrate(&shop, &["--at", "renewal"]).await;
    assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
    let pending = shop.world.current().await["pendingChange"].clone();
    assert_eq!(pending["planVersion"], 2);
    let changed = shop.put(seats(6, "now")).await.ok();
    let pending = &changed["pendingChange"];
    assert_eq!(
        (&pending["planVersion"], &pending["quantity"]),
        (&json!(2), &json!(6)),
        "{changed:#}"
    );
    shop.world.settle().await;
    let renewal = super::RENEWAL + 7_200;
    shop.world.stripe.advance(&clock, renewal).await;
    shop.world.settle().await;
    let held = "SELECT plan_version || ' ' || plan_seats FROM organizations WHERE id = $org";
    assert_eq!(shop.value(held).await, "2 6");
    assert_eq!(shop.world.current().await["pendingChange"], Value::Null);
}

#[tokio::test]
async fn nobody_is_moved_to_another_interval() {
    let month = "price = { amount = 9_900, currency = \"usd\", interval = \"month\", lookup_key = \"valuecanvas_standard_monthly\" }\n";
    let of_month = "  { interval = \"month\", currency = \"usd\", amount = 9_900, lookup_key = \"valuecanvas_standard_monthly\" },\n";
    let of_year = "  { interval = \"year\", currency = \"usd\", amount = 99_000, lookup_key = \"standard_usd_year\" },\n";
    let both = format!("prices = [\n{of_month}{of_year}]\n");
    let mut shop = Shop::open(&[(month, both.as_str())]).await;
    shop.customer().await;
    let yearly = json!({"planTier": "standard", "interval": "year"});
    shop.subscribe(yearly).await.ok();
    shop.world.settle().await;
    shop.change(&[(of_year, ""), RAISED]).await;
    for arguments in [&["--at", "renewal"][..], &[]] {
        let ran = migrate(&shop, arguments).await;
        assert_eq!(ran.status, 1, "{}{}", ran.stdout, ran.stderr);
        let problem = super::text(&ran.json()[0], "problem");
        assert!(
            problem.contains("no price by the year") && problem.contains("109.00"),
            "{problem}"
        );
    }
    let current = shop.world.current().await;
    assert_eq!(current["interval"], "year");
    assert_eq!(current["pendingChange"], Value::Null);
}
