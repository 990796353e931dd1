//! `plans versions`, `plans diff` and `plans migrate`, as an operator types them.

use serde_json::Value;

use crate::catalogue::shop::Shop;
use crate::subscriptions::world::START;
use crate::support::program::{Ran, program_with_stripe, run_beside};

const RAISED: (&str, &str) = ("amount = 9_900", "amount = 10_900");
const RAISED_RATE: (&str, &str) = ("overage_rate = \"0.001\"", "overage_rate = \"0.002\"");

async fn plans(shop: &Shop, arguments: &[&str]) -> Ran {
    let arguments = [&["plans"], arguments, &["--json"]].concat();
    let mut command = program_with_stripe(
        &shop.world.service.db,
        &shop.world.stripe.sandbox.url(),
        &arguments,
    );
    command.env("PLANS_FILE", shop.path());
    run_beside(command).await
}

#[tokio::test]
async fn a_raised_price_is_shown_before_and_moved_to_after_a_dry_run() {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("standard").await;
    shop.edit(&[RAISED, RAISED_RATE]);

    let diff = plans(&shop, &["diff"]).await.json();
    let standard = &diff[1];
    assert_eq!(standard["planTier"], "standard");
    assert_eq!(standard["outcome"], "newVersion");
    assert_eq!(standard["needsSync"], true);
    let terms: Vec<&str> = standard["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["term"].as_str().unwrap())
        .collect();
    assert_eq!(terms, ["fee", "api_calls overage rate"]);
    assert_eq!(standard["subscribers"][0]["effect"], "kept");
    assert_eq!(standard["subscribers"][0]["feeDifferenceAmount"], 1_000);
    assert_eq!(diff[0]["outcome"], "unchanged");

    shop.sync().await;
    shop.restart().await;
    let versions = plans(&shop, &["versions"]).await.json();
    let standard: Vec<&Value> = versions
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["planTier"] == "standard")
        .collect();
    assert_eq!(standard.len(), 2);
    assert_eq!(
        (&standard[0]["subscriptions"], &standard[0]["inFile"]),
        (&1.into(), &false.into())
    );
    assert_eq!(
        (&standard[1]["subscriptions"], &standard[1]["inFile"]),
        (&0.into(), &true.into())
    );

    shop.uses("api_calls", "200000").await;
    let migrate = ["migrate", "--plan", "standard", "--to", "2"];
    let dry = plans(&shop, &[&migrate[..], &["--dry-run"]].concat()).await;
    assert_eq!(dry.status, 0, "{}", dry.stderr);
    let shown = dry.json()[0].clone();
    assert_eq!((&shown["from"], &shown["to"]), (&1.into(), &2.into()));
    assert_eq!(shown["nextInvoiceAmount"], 10_900);
    // The fee's difference, and 100,000 calls over the quota at the rate of before.
    assert_eq!(shown["dueNowAmount"], 11_000);
    let version = "SELECT plan_version FROM organizations WHERE id = $org";
    assert_eq!(shop.value(version).await, "1");
    assert_eq!(shop.world.stripe.invoices(&customer).await.len(), 1);

    let moved = plans(&shop, &migrate).await;
    assert_eq!(moved.status, 0, "{}", moved.stderr);
    shop.world.settle().await;
    assert_eq!(shop.value(version).await, "2");
    let invoices = shop.world.stripe.invoices(&customer).await;
    assert_eq!(invoices[1]["amount_paid"], shown["dueNowAmount"]);
    shop.report().await;
    assert_eq!(shop.overage().await, 0);
    shop.uses("api_calls", "50000").await;
    shop.report().await;
    assert_eq!(shop.overage().await, 10_000);
    assert_eq!(shop.metered_lines(&customer).await, 10_000);
    let audit = "SELECT count(*) FROM billing_audit_log
                  WHERE action = 'plan_version_changed' AND organization_id = $org";
    assert_eq!(shop.value(audit).await, "1");
    // Who has moved is not moved again.
    assert_eq!(plans(&shop, &migrate).await.json(), Value::Array(vec![]));
}

#[tokio::test]
async fn who_is_about_to_end_stays_and_says_so() {
    let mut shop = Shop::open(&[]).await;
    shop.subscriber("standard").await;
    shop.world.cancel(false).await.ok();
    shop.world.settle().await;
    shop.change(&[RAISED]).await;
    let ran = plans(&shop, &["migrate", "--plan", "standard", "--to", "2"]).await;
    assert_eq!(ran.status, 1);
    let problem = ran.json()[0]["problem"].as_str().unwrap().to_owned();
    assert!(problem.contains("ends on"), "{problem}");
}

#[tokio::test]
async fn a_plan_or_version_that_is_not_there_is_named() {
    let shop = Shop::open(&[]).await;
    for (arguments, problem) in [
        (
            ["--plan", "gold", "--to", "1"],
            "there is no plan \"gold\"; the plans are free, standard, enterprise",
        ),
        (
            ["--plan", "standard", "--to", "7"],
            "\"standard\" has no version 7",
        ),
    ] {
        let ran = plans(&shop, &[&["migrate"], &arguments[..]].concat()).await;
        assert_eq!(ran.status, 2, "{}", ran.stdout);
        assert!(ran.stderr.contains(problem), "{}", ran.stderr);
    }
}

#[tokio::test]
async fn a_second_subscription_stays_and_is_named() {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("standard").await;
    let first = shop.world.stripe.subscriptions(&customer).await.remove(0);
    let fee = first["items"]["data"].as_array().unwrap().iter();
    let mut fee = fee.filter(|item| item["price"]["recurring"]["usage_type"] == "licensed");
    let fee = fee.next().unwrap()["price"]["id"].as_str().unwrap();
    let fields = [("customer", customer.as_str()), ("items[0][price]", fee)];
    shop.world.stripe.post("/v1/subscriptions", &fields).await;
    shop.world.settle().await;
    shop.change(&[RAISED]).await;

    let ran = plans(&shop, &["migrate", "--plan", "standard", "--to", "2"]).await;
    assert_eq!(ran.status, 1);
    let ran = ran.json();
    let (stayed, moved): (Vec<&Value>, Vec<&Value>) =
        (ran.as_array().unwrap().iter()).partition(|one| one["problem"].is_string());
    assert_eq!((stayed.len(), moved.len()), (1, 1), "{ran:#}");
    let problem = stayed[0]["problem"].as_str().unwrap();
    let counts = moved[0]["subscriptionId"].as_str().unwrap();
    assert!(
        problem.contains(counts) && problem.contains("reconcile"),
        "{problem}"
    );
}

#[tokio::test]
async fn a_dry_run_records_nothing() {
    let mut shop = Shop::open(&[]).await;
    shop.subscriber("standard").await;
    shop.change(&[RAISED]).await;
    let versions = "SELECT string_agg(v::text, ';' ORDER BY plan_tier, version)
                      FROM plan_versions v";
    let before = shop.value(versions).await;
    shop.edit(&[(
        "quota = 100, over_limit = \"grace\"",
        "quota = 150, over_limit = \"grace\"",
    )]);
    let migrate = ["migrate", "--plan", "standard", "--to", "2", "--dry-run"];
    let ran = plans(&shop, &migrate).await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(ran.json()[0]["dueNowAmount"], 1_000);
    assert_eq!(shop.value(versions).await, before);
}

#[tokio::test]
async fn a_run_that_fails_tells_who_has_moved_before() {
    let mut shop = Shop::open(&[]).await;
    let clock = shop.world.stripe.clock(START).await;
    shop.world.newcomer(&clock).await;
    shop.world.create("standard").await.ok();
    shop.subscriber("standard").await;
    shop.change(&[RAISED]).await;
    let path = format!("/v1/test_helpers/test_clocks/{clock}");
    let fault = [
        ("fault", "server_error"),
        ("path", path.as_str()),
        ("every", "1"),
    ];
    shop.world.stripe.fault(&fault).await;
    let ran = plans(&shop, &["migrate", "--plan", "standard", "--to", "2"]).await;
    assert_eq!(ran.status, 3, "{}", ran.stdout);
    let moved = ran.json();
    assert_eq!(moved.as_array().map(Vec::len), Some(1), "{moved:#}");
    assert_eq!(moved[0]["problem"], Value::Null);
    assert!(ran.stderr.contains("Stripe"), "{}", ran.stderr);
    // The next run takes it up.
    shop.world.stripe.clear_faults().await;
    let ran = plans(&shop, &["migrate", "--plan", "standard", "--to", "2"]).await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert_eq!(ran.json().as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn what_stripe_has_not_said_is_not_said_to_stay() {
    let mut shop = Shop::open(&[]).await;
    shop.subscriber("standard").await;
    shop.change(&[RAISED]).await;
    let fault = [
        ("fault", "drop"),
        ("path", "/v1/subscriptions/*"),
        ("every", "1"),
    ];
    shop.world.stripe.fault(&fault).await;
    let ran = plans(&shop, &["migrate", "--plan", "standard", "--to", "2"]).await;
    assert_eq!(ran.status, 1, "{}", ran.stdout);
    let one = ran.json()[0].clone();
    assert_eq!(one["inDoubt"], true, "{one:#}");
    let problem = one["problem"].as_str().unwrap();
    assert!(problem.starts_with("not known yet"), "{problem}");
}

#[tokio::test]
async fn a_plan_that_is_gone_from_the_file_and_not_from_organizations_is_named_with_the_way_out() {
    let mut shop = Shop::open(&[]).await;
    shop.subscriber("standard").await;
    shop.edit(&[("tier = \"standard\"", "tier = \"regular\"")]);
    let diff = plans(&shop, &["diff"]).await;
    let gone = diff.json();
    let gone = gone
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["planTier"] == "standard")
        .unwrap();
    assert_eq!(
        (&gone["outcome"], &gone["organizations"]),
        (&"gone".into(), &1.into()),
        "{gone}"
    );
}
