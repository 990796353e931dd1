//! Usage rides along: metered items follow the plan, and no preview counts them.

use reqwest::Method;
use serde_json::{Value, json};
use valuecanvas_billing::catalogue::{self, Catalogue};
use valuecanvas_billing::stripe::client::Client;

use super::world::{DAY, START, UPCOMING, World, seconds, text};

/// A world whose Stripe has the whole catalogue.
async fn world() -> (World, String, String) {
    let (world, clock, customer) = World::on_clock(START).await;
    sell_the_catalogue(&world).await;
    (world, clock, customer)
}

pub async fn sell_the_catalogue(world: &World) {
    for price in world.stripe.list("/v1/prices", &[]).await {
        let path = format!("/v1/prices/{}", text(&price, "id"));
        world.stripe.post(&path, &[("active", "false")]).await;
    }
    let api = world.stripe.api();
    let client = Client::new(api.base, api.key, api.patience).unwrap();
    let catalogue = Catalogue::load(None).unwrap();
    catalogue::sync(&client, &catalogue, false).await.unwrap();
}

/// The lookup keys of a subscription's prices, without what all have.
fn prices(subscription: &Value) -> Vec<String> {
    let items = subscription["items"]["data"].as_array().unwrap();
    let mut keys: Vec<String> = items
        .iter()
        .map(|item| text(&item["price"], "lookup_key").replace("valuecanvas_", ""))
        .collect();
    keys.sort();
    keys
}

async fn use_tokens(world: &World, customer: &str, tokens: &str) {
    world
        .stripe
        .post(
            "/v1/billing/meter_events",
            &[
                ("event_name", &*catalogue::meter_event_name("llm_tokens")),
                ("payload[stripe_customer_id]", customer),
                ("payload[value]", tokens),
            ],
        )
        .await;
}

#[tokio::test]
async fn metered_items_follow_the_plan() {
    let (world, _, customer) = world().await;
    let standard = [
        "standard_monthly",
        "standard_monthly_agent_executions",
        "standard_monthly_api_calls",
        "standard_monthly_llm_tokens",
        "standard_monthly_storage_gb",
        "standard_monthly_user_seats",
    ];
    world.create("standard").await.ok();
    assert_eq!(
        prices(&world.stripe.subscriptions(&customer).await[0]),
        standard
    );
    world.change("enterprise").await.ok();
    // Seats are unlimited there, and cost nothing.
    let enterprise = [
        "enterprise_monthly",
        "enterprise_monthly_agent_executions",
        "enterprise_monthly_api_calls",
        "enterprise_monthly_llm_tokens",
        "enterprise_monthly_storage_gb",
    ];
    assert_eq!(
        prices(&world.stripe.subscriptions(&customer).await[0]),
        enterprise
    );
    world.settle().await;
    assert_eq!(
        world.service.db.count("billing_subscription_items").await,
        5
    );
    world.change("standard").await.ok();
    assert_eq!(
        prices(&world.stripe.subscriptions(&customer).await[0]),
        standard
    );
}

/// Usage that others reported to Stripe, and of which we do not know.
#[tokio::test]
async fn foreign_usage_neither_changes_a_preview_nor_makes_it_stale() {
    let (world, clock, customer) = world().await;
    let created = world.create("standard").await.ok();
    world.stripe.advance(&clock, START + 10 * DAY).await;
    // Half a million over the quota: 5 dollars.
    use_tokens(&world, &customer, "1500000").await;
    let preview = world.preview("enterprise").await.ok();
    assert_eq!(
        [
            &preview["dueNowAmountMinor"],
            &preview["nextInvoiceAmountMinor"]
        ],
        [&json!(25_715), &json!(49_900)]
    );
    let ending = world.preview("free").await.ok();
    assert_eq!(ending["nextInvoiceAmountMinor"], 0);
    use_tokens(&world, &customer, "9500000").await;
    world.stripe.advance(&clock, START + 10 * DAY + 60).await;
    world.change_as(&preview).await.ok();
    // Stripe counts at the new price what is used since the change.
    use_tokens(&world, &customer, "11000000").await;
    world
        .stripe
        .advance(&clock, seconds(&created["currentPeriodEnd"]) + 7_200)
        .await;
    let renewal = world.stripe.invoices(&customer).await.pop().unwrap();
    assert_eq!(renewal["total"], 49_900 + 500);
}

#[tokio::test]
async fn the_end_at_once_charges_what_was_used() {
    let (world, clock, customer) = world().await;
    world.create("standard").await.ok();
    use_tokens(&world, &customer, "2000000").await;
    world.stripe.advance(&clock, START + DAY).await;
    world.cancel(true).await.ok();
    let last = world.stripe.invoices(&customer).await.pop().unwrap();
    assert_eq!(last["total"], 1_000);
}

#[tokio::test]
async fn the_next_invoice_has_the_usage_so_far() {
    let (world, clock, customer) = world().await;
    let upcoming = || world.call(Method::GET, UPCOMING, None);
    assert_eq!(upcoming().await.problem(), (404, "no_upcoming_invoice"));
    let created = world.create("standard").await.ok();
    world.stripe.advance(&clock, START + DAY).await;
    use_tokens(&world, &customer, "1500000").await;
    let next = upcoming().await.ok();
    assert_eq!(
        [&next["totalAmount"], &next["dueAmount"], &next["currency"]],
        [&json!(10_400), &json!(10_400), &json!("usd")]
    );
    assert_eq!(next["invoiceDate"], created["currentPeriodEnd"]);
    let amounts = next["lines"].as_array().unwrap().iter();
    let amounts: i64 = amounts.map(|line| line["amount"].as_i64().unwrap()).sum();
    assert_eq!(amounts, 10_400);
    // Usage is called what was used, and what came to nothing is left out.
    let lines = next["lines"].as_array().unwrap().iter();
    let mut lines: Vec<String> = lines.map(|line| text(line, "description")).collect();
    lines.sort();
    assert_eq!(
        lines,
        [
            "1 × Standard (at $99.00 / month)",
            "500000 × LLM tokens (Tier 2 at $0.00001 / month)",
        ]
    );
    // What ends, is charged for its usage a last time.
    world.cancel(false).await.ok();
    assert_eq!(upcoming().await.ok()["totalAmount"], 500);
    world
        .stripe
        .fault(&[("fault", "drop"), ("every", "1")])
        .await;
    assert_eq!(upcoming().await.problem(), (503, "stripe_unreachable"));
}

#[tokio::test]
async fn items_that_are_there_are_used_after_the_fee_alone_was_changed_in_the_dashboard() {
    let (world, clock, customer) = world().await;
    world.create("standard").await.ok();
    let before = prices(&world.stripe.subscriptions(&customer).await[0]);
    let enterprise = world
        .stripe
        .get(
            "/v1/prices",
            &[("lookup_keys[0]", "valuecanvas_enterprise_monthly")],
        )
        .await;
    let enterprise = text(&enterprise["data"][0], "id");
    let subscription = &world.stripe.subscriptions(&customer).await[0];
    let items = subscription["items"]["data"].as_array().unwrap();
    let fee = items
        .iter()
        .find(|item| item["price"]["lookup_key"] == "valuecanvas_standard_monthly")
        .unwrap();
    let path = format!("/v1/subscriptions/{}", text(subscription, "id"));
    world.stripe.advance(&clock, START + 3_600).await;
    let fields = [
        ("items[0][id]", &*text(fee, "id")),
        ("items[0][price]", &*enterprise),
    ];
    world.stripe.post(&path, &fields).await;
    world.settle().await;
    assert_eq!(world.plan().await.0, "enterprise");

    // Back, with the usage items that never left.
    let preview = world.preview("standard").await.ok();
    assert_eq!(preview["newPlan"], "standard");
    world.change("standard").await.ok();
    assert_eq!(
        prices(&world.stripe.subscriptions(&customer).await[0]),
        before
    );

    world.stripe.advance(&clock, START + 7_200).await;
    // A fee that somebody added beside the plan's is the one that stays.
    let id = text(&world.stripe.subscriptions(&customer).await[0], "id");
    let fields = [("subscription", &*id), ("price", &*enterprise)];
    world.stripe.post("/v1/subscription_items", &fields).await;
    world.settle().await;
    let answer = world.change("enterprise").await;
    let held = prices(&world.stripe.subscriptions(&customer).await[0]);
    assert!(
        held.contains(&"enterprise_monthly".to_owned()) || answer.problem() == (409, "same_plan"),
        "{answer:?} {held:?}"
    );
}
