//! A customer's life with an example product in a real browser, while Stripe's webhooks are
//! held back: it is the same without them, and they change nothing when they come.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Language, STRIPE_KEY, Shop, environment, mirror};
use crate::subscriptions::world::text;
use crate::support::libraries;
use crate::support::program::run_beside;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_customer_of_the_node_product_lives_without_webhooks_and_they_change_nothing() {
    live_with(Language::Node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_customer_of_the_rust_product_lives_without_webhooks_and_they_change_nothing() {
    live_with(Language::Rust).await;
}

async fn live_with(language: Language) {
    let shop = Shop::open(language).await;
    // The first month is over, so that the second one is now.
    let now = Timestamp::now();
    let clock = shop
        .stripe
        .clock((now - SignedDuration::from_hours(33 * 24)).as_second())
        .await;
    let fields = [("test_clock", &*clock), ("email", "billing@acme.example")];
    let customer = text(&shop.stripe.post("/v1/customers", &fields).await, "id");
    let reconcile = shop.reconcile();
    let arguments: Vec<&str> = reconcile
        .get_args()
        .filter_map(|one| one.to_str())
        .collect();
    let asked = json!({
        "product": shop.address,
        "billing": shop.billing.base,
        "key": shop.key,
        "stripe": shop.stripe.sandbox.url(),
        "stripeKey": STRIPE_KEY,
        "customer": customer,
        "clock": clock,
        "renewal": now.as_second(),
        "reconcile": {
            "program": reconcile.get_program().to_str(),
            "args": arguments,
            "env": environment(&reconcile),
        },
    });
    let walk = tokio::task::spawn_blocking(move || libraries::ask("node", "product", &asked));
    let seen = walk.await.unwrap();
    let seen = seen.unwrap_or_else(|error| panic!("{error}\n{}", shop.billing.log()));
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!(shop.db.count("webhook_events").await, 0, "webhooks came");
    saw_what_was_bought(&seen);
    charged_once(&shop, &customer).await;

    // What no answer has told is found by the daily job; then the webhooks come.
    let healed = run_beside(shop.reconcile()).await;
    assert_eq!(healed.status, 0, "{}", healed.stderr);
    let before = mirror::rows(&shop.db).await;
    shop.let_webhooks_go().await;
    assert!(shop.db.count("webhook_events").await > 20);
    let after = mirror::rows(&shop.db).await;
    let differences = mirror::differences(&before, &after);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    let dead = shop.db.count("webhook_dead_letter_queue").await;
    assert_eq!(dead, 0);
}

/// What the customer's pages showed, step by step.
fn saw_what_was_bought(seen: &Value) {
    let plan = |step: &str| {
        let of = |name: &str| seen[step][name].as_str().unwrap_or("-").to_owned();
        (of("plan"), of("seats"), of("payment"))
    };
    let shows = |plan: &str, seats: &str, payment: &str| {
        (plan.to_owned(), seats.to_owned(), payment.to_owned())
    };
    assert_eq!(plan("signed up"), shows("Free", "1", "none"));
    assert_eq!(seen["summary"], "Rain fell all night. …");
    assert!(seen["a fourth summary"].is_string(), "{seen:#}");
    assert_eq!(seen["returned"], "Team");
    assert_eq!(plan("subscribed"), shows("Team", "2", "paid"));
    assert!(seen["a third seat"].is_string(), "{seen:#}");
    // Until the bank has its answer, the plan stays.
    assert_eq!(plan("asked by the bank"), shows("Team", "2", "paid"));
    assert!(seen["asked by the bank"]["pending"].is_string(), "{seen:#}");
    assert_eq!(plan("upgraded"), shows("Business", "3", "paid"));
    let due: String = seen["due"]
        .as_str()
        .unwrap()
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    assert_eq!(due.parse::<i64>().unwrap(), seen["charged"], "{seen:#}");
    assert_eq!(plan("renewal failed"), shows("Business", "3", "past_due"));
    let alerts = seen["renewal failed"]["alerts"].to_string();
    assert!(alerts.contains("payment_failed"), "{alerts}");
    assert_eq!(seen["link"], seen["opened"]);
    assert_eq!(plan("paid again"), shows("Business", "3", "paid"));
    assert_eq!(plan("canceled"), shows("Business", "3", "paid"));
    assert!(seen["canceled"]["ends"].is_string(), "{seen:#}");
    assert_eq!(seen["canceled"]["teammates"], "3");
}

/// Three invoices, each paid by one charge, and one subscription.
async fn charged_once(shop: &Shop, customer: &str) {
    let invoices = shop.stripe.invoices(customer).await;
    let statuses: Vec<&Value> = invoices.iter().map(|one| &one["status"]).collect();
    assert_eq!(statuses, ["paid"; 3], "{invoices:#?}");
    let charges = shop
        .stripe
        .list("/v1/charges", &[("customer", customer)])
        .await;
    let paid: Vec<&Value> = charges.iter().filter(|one| one["paid"] == true).collect();
    assert_eq!(paid.len(), 3, "{charges:#?}");
    let asked: i64 = invoices
        .iter()
        .filter_map(|one| one["total"].as_i64())
        .sum();
    let taken: i64 = paid.iter().filter_map(|one| one["amount"].as_i64()).sum();
    assert_eq!(asked, taken);
    assert_eq!(shop.stripe.subscriptions(customer).await.len(), 1);
}
