//! Add-ons as the catalogue changes, and as Stripe and operators see them.

use serde_json::{Value, json};
use valuecanvas_billing::catalogue::{self, Action};
use valuecanvas_billing::stripe::client::Client;

use super::{of, selling, with};
use crate::catalogue::shop::Shop;
use crate::subscriptions::later::migrations::migrate;
use crate::support::program::{Ran, program_with_stripe, run_beside};

const TOKENS: &str = "amount = 2_000, lookup_key";

/// What a sync would do.
async fn steps(shop: &Shop) -> Vec<(String, Action)> {
    let api = shop.world.stripe.api();
    let client = Client::new(api.base, api.key, api.patience).unwrap();
    let synced = catalogue::sync(&client, &shop.catalogue(), true)
        .await
        .unwrap();
    let steps = synced.steps.into_iter();
    let changes = steps.filter(|step| step.action != Action::Unchanged);
    changes.map(|step| (step.name, step.action)).collect()
}

#[tokio::test]
async fn an_addon_keeps_the_price_it_was_bought_at_and_adds_what_the_file_says() {
    let mut shop = selling(&[]).await;
    assert_eq!(steps(&shop).await, []);
    let customer = shop.customer().await;
    shop.subscribe(with(json!(["extra_tokens"]))).await.ok();
    shop.world.settle().await;
    shop.edit(&[
        (TOKENS, "amount = 2_500, lookup_key"),
        ("llm_tokens = 500_000", "llm_tokens = 600_000"),
    ]);
    assert_eq!(
        steps(&shop).await,
        [("extra_tokens_month".to_owned(), Action::Replace)]
    );
    shop.sync().await;
    assert_eq!(steps(&shop).await, []);
    // The service goes on selling the former price until it is started with the file.
    let shown = shop
        .previewed(with(json!([of("extra_tokens", 2)])))
        .await
        .ok();
    assert_eq!(
        shown["nextInvoiceAmountMinor"],
        9_900 + 2 * 2_000,
        "{shown:#}"
    );
    let newcomer = shop.customer().await;
    shop.subscribe(with(json!(["extra_tokens"]))).await.ok();
    shop.world.settle().await;
    assert_eq!(shop.invoice(&newcomer).await["total"], 9_900 + 2_000);
    shop.restart().await;
    shop.has_limit("llm_tokens", 1_600_000).await;
    // Who has some buys more of them at that price.
    shop.put(with(json!([of("extra_tokens", 3)]))).await.ok();
    shop.world.settle().await;
    let amounts = async |customer: &str| {
        let subscription = shop.world.running(customer).await;
        let items = subscription["items"]["data"].as_array().unwrap().iter();
        let items = items.filter(|item| item["price"]["recurring"]["usage_type"] == "licensed");
        let mut amounts: Vec<(i64, i64)> = items
            .map(|item| {
                let of = |value: &Value| value.as_i64().unwrap();
                (of(&item["price"]["unit_amount"]), of(&item["quantity"]))
            })
            .collect();
        amounts.sort_unstable();
        amounts
    };
    assert_eq!(amounts(&newcomer).await, [(2_000, 3), (9_900, 1)]);
    assert_eq!(shop.limit_of("llm_tokens").await, 2_800_000);
    assert_eq!(amounts(&customer).await, [(2_000, 1), (9_900, 1)]);
    let last = shop.customer().await;
    shop.subscribe(with(json!(["extra_tokens"]))).await.ok();
    shop.world.settle().await;
    assert_eq!(shop.invoice(&last).await["total"], 9_900 + 2_500);
    assert_eq!(shop.addons().await, json!([of("extra_tokens", 1)]));
}

#[tokio::test]
async fn a_retired_addon_serves_on_and_one_that_is_held_cannot_be_left_out() {
    let mut shop = selling(&[]).await;
    shop.customer().await;
    shop.subscribe(with(json!([of("extra_tokens", 2)])))
        .await
        .ok();
    shop.world.settle().await;
    let listed = shop.get("/api/billing/plans").await;
    let ids = |listed: &Value, n: usize| {
        let addons = listed["data"][n]["addons"].as_array().unwrap().iter();
        addons.map(|one| one["id"].clone()).collect::<Value>()
    };
    assert_eq!(ids(&listed, 0), json!([]));
    assert_eq!(
        ids(&listed, 1),
        json!(["extra_tokens", "care", "endless_calls"])
    );
    assert_eq!(ids(&listed, 2), json!(["extra_tokens", "endless_calls"]));
    assert_eq!(
        listed["data"][1]["addons"][0],
        json!({
            "id": "extra_tokens", "name": "Extra tokens",
            "prices": [{"priceAmount": 2_000, "currency": "usd", "interval": "month"},
                       {"priceAmount": 20_000, "currency": "usd", "interval": "year"}],
            "quotas": [{"metric": "llm_tokens", "quota": 500_000},
                       {"metric": "storage_gb", "quota": 50}],
            "features": {"projects": 5}, "onPlanChange": "keep", "maxQuantity": 10,
        })
    );

    shop.change(&[("max_quantity = 10", "max_quantity = 10\nretired = true")])
        .await;
    assert_eq!(shop.limit_of("llm_tokens").await, 2_000_000);
    let more = shop.put(with(json!([of("extra_tokens", 3)]))).await;
    assert_eq!(more.problem(), (409, "addon_retired"), "{more:?}");
    shop.put(with(json!([of("extra_tokens", 1), of("care", 1)])))
        .await
        .ok();
    shop.world.settle().await;
    assert_eq!(
        shop.addons().await,
        json!([of("care", 1), of("extra_tokens", 1)])
    );
    let listed = shop.get("/api/billing/plans").await;
    assert_eq!(ids(&listed, 1), json!(["care", "endless_calls"]));

    // Taken out of the file, it stops the service from starting.
    let text = std::fs::read_to_string(shop.path()).unwrap();
    let (before, rest) = text
        .split_once("[[addons]]\nid = \"extra_tokens\"")
        .unwrap();
    let (_, after) = rest.split_once("[[addons]]").unwrap();
    std::fs::write(shop.path(), format!("{before}[[addons]]{after}")).unwrap();
    let error = shop.refused_start().await.to_string();
    assert!(
        error.contains("lacks add-ons") && error.contains("extra_tokens: 1 organization: Newcomer"),
        "{error}"
    );
    assert!(error.contains("retired = true"), "{error}");
}

#[tokio::test]
async fn a_migration_to_another_version_keeps_the_addons() {
    let mut shop = selling(&[]).await;
    let customer = shop.customer().await;
    shop.subscribe(with(json!([of("extra_tokens", 2)])))
        .await
        .ok();
    shop.world.settle().await;
    shop.change(&[("amount = 9_900", "amount = 10_900")]).await;
    assert_eq!(shop.limit_of("llm_tokens").await, 2_000_000);
    let ran = migrate(&shop, &["--at", "now", "--yes"]).await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    shop.world.settle().await;
    assert_eq!(shop.addons().await, json!([of("extra_tokens", 2)]));
    assert_eq!(shop.limit_of("llm_tokens").await, 2_000_000);
    assert_eq!(
        shop.paid_items(&customer).await,
        [
            ("extra_tokens_month".to_owned(), 2),
            ("valuecanvas_standard_monthly".to_owned(), 1)
        ]
    );
}

/// A command of `plans`, with the shop's file.
async fn plans(shop: &Shop, arguments: &[&str]) -> Ran {
    let arguments = [&["plans"], arguments].concat();
    let stripe = shop.world.stripe.sandbox.url();
    let mut command = program_with_stripe(&shop.world.service.db, &stripe, &arguments);
    command.env("PLANS_FILE", shop.path());
    run_beside(command).await
}

#[tokio::test]
async fn operators_see_what_is_sold_and_what_the_file_would_change() {
    let mut shop = selling(&[]).await;
    shop.customer().await;
    shop.subscribe(with(json!([of("extra_tokens", 2)])))
        .await
        .ok();
    shop.world.settle().await;
    let listed = plans(&shop, &["list"]).await;
    assert_eq!(listed.status, 0, "{}", listed.stderr);
    for shown in [
        "ADD-ON",
        "20.00 USD a month",
        "+500000",
        "extra_tokens_year",
        "all that are paid",
    ] {
        assert!(listed.stdout.contains(shown), "{shown}: {}", listed.stdout);
    }
    let listed = plans(&shop, &["list", "--json"]).await.json();
    assert_eq!(listed[0]["addons"], json!([]));
    assert_eq!(listed[1]["addons"][1]["id"], "care");
    assert_eq!(listed[1]["addons"][1]["onPlanChange"], "drop");

    let unchanged = plans(&shop, &["diff", "--json"]).await.json();
    let of_addon = |diffs: &Value, id: &str| {
        let mut diffs = diffs.as_array().unwrap().iter();
        diffs.find(|one| one["addonId"] == id).cloned().unwrap()
    };
    assert_eq!(
        of_addon(&unchanged, "extra_tokens"),
        json!({"addonId": "extra_tokens", "outcome": "unchanged", "changes": [],
               "needsSync": false, "organizations": 1})
    );
    shop.edit(&[
        (TOKENS, "amount = 2_500, lookup_key"),
        ("llm_tokens = 500_000", "llm_tokens = 600_000"),
        ("id = \"care\"", "id = \"nursing\""),
    ]);
    let diff = plans(&shop, &["diff", "--json"]).await.json();
    assert_eq!(
        of_addon(&diff, "extra_tokens"),
        json!({
            "addonId": "extra_tokens", "outcome": "changed", "needsSync": true, "organizations": 1,
            "changes": [
                {"term": "price in usd by the month", "from": "20.00 USD a month", "to": "25.00 USD a month"},
                {"term": "adds llm_tokens", "from": "500000", "to": "600000"},
            ],
        })
    );
    assert_eq!(of_addon(&diff, "nursing")["outcome"], "new");
    let said = plans(&shop, &["diff"]).await.stdout;
    assert!(
        said.contains("add-on extra_tokens changes\n  price in usd by the month: 20.00 USD"),
        "{said}"
    );
    assert!(said.contains("1 organization: get what it adds"), "{said}");
    // Gone from the file while somebody has it: nothing is synced.
    shop.edit(&[("id = \"extra_tokens\"", "id = \"more_tokens\"")]);
    let refused = plans(&shop, &["sync"]).await;
    assert_eq!(refused.status, 2, "{}", refused.stdout);
    assert!(
        refused.stderr.contains("lacks add-ons") && refused.stderr.contains("extra_tokens"),
        "{}",
        refused.stderr
    );
    let diff = plans(&shop, &["diff"]).await.stdout;
    assert!(
        diff.contains("add-on extra_tokens is gone from the file\n  1 organization still has it"),
        "{diff}"
    );
}
