//! Automatic tax: shown before, charged after, and refused where nobody could tell
//! how much.

use std::io::Write as _;

use reqwest::Method;
use serde_json::{Value, json};

use super::promotion_codes::{code, coupon, invoiced};
use super::world::{DAY, START, Stripe, UPCOMING, VISA, World, seconds, text};
use crate::support::service::Options;

/// The catalogue that ships with the program, with automatic tax.
pub fn taxed_plans() -> tempfile::NamedTempFile {
    let plans = std::fs::read_to_string("config/plans.toml").unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(file, "{plans}\n[tax]\nautomatic = true\n").unwrap();
    file
}

async fn taxed_world(file: &tempfile::NamedTempFile) -> World {
    let options = Options {
        plans_file: Some(file.path().to_owned()),
        ..Options::default()
    };
    World::with(Stripe::start().await, options).await
}

impl World {
    /// Gives a customer an address, and waits until that is known.
    async fn moves_to(&self, customer: &str, address: &[(&str, &str)]) {
        let path = format!("/v1/customers/{customer}");
        self.stripe.post(&path, address).await;
        self.settle().await;
    }
}

#[tokio::test]
async fn tax_is_previewed_and_charged() {
    let file = taxed_plans();
    let world = taxed_world(&file).await;
    let clock = world.stripe.clock(START).await;
    let customer = world.stripe.customer(VISA, Some(&clock)).await;
    world.adopt(&customer).await;
    world
        .moves_to(&customer, &[("address[country]", "DE")])
        .await;
    let preview = world.preview("standard").await.ok();
    assert_eq!(preview["source"], "stripe");
    assert_eq!(
        preview["totals"],
        json!({"subtotalAmount": 9_900, "discountAmount": 0, "taxAmount": 1_881,
               "includedTaxAmount": 0, "totalAmount": 11_781})
    );
    assert_eq!(preview["lines"][0]["taxAmount"], 1_881);
    assert_eq!(preview["nextInvoiceAmountMinor"], 11_781);
    world.change_as(&preview).await.ok();
    assert_eq!(invoiced(&world, &customer).await, 11_781);
    world.settle().await;
    let path = format!(
        "/api/billing/invoices/{}",
        text(&world.stripe.invoices(&customer).await[0], "id")
    );
    let invoice = world.call(Method::GET, &path, None).await.ok();
    assert_eq!(
        (&invoice["taxAmount"], &invoice["includedTaxAmount"]),
        (&json!(1_881), &json!(0))
    );
    assert_eq!(invoice["lines"][0]["taxAmount"], 1_881);
    let upcoming = world.call(Method::GET, UPCOMING, None).await.ok();
    assert_eq!(upcoming["totalAmount"], 11_781);
    // A change of plan is taxed as well, and a code comes before the tax.
    world.stripe.advance(&clock, START + 9 * DAY).await;
    let half = coupon(
        &world.stripe,
        &[("percent_off", "50"), ("duration", "forever")],
    )
    .await;
    code(&world.stripe, "HALF", &half, &[]).await;
    let preview = world.preview_with("enterprise", "HALF").await.ok();
    let before = invoiced(&world, &customer).await;
    world.change_as(&preview).await.ok();
    assert_eq!(
        invoiced(&world, &customer).await - before,
        preview["dueNowAmountMinor"]
    );
    assert_eq!(preview["nextInvoiceAmountMinor"], 29_691);
    let before = invoiced(&world, &customer).await;
    let renews = seconds(&preview["nextInvoiceDate"]);
    world.stripe.advance(&clock, renews + 7_200).await;
    assert_eq!(invoiced(&world, &customer).await - before, 29_691);
}

#[tokio::test]
async fn tax_that_a_price_includes_changes_no_total() {
    let file = taxed_plans();
    let world = taxed_world(&file).await;
    let fields = [
        ("currency", "usd"),
        ("unit_amount", "9900"),
        ("recurring[interval]", "month"),
        ("product_data[name]", "Standard"),
        ("lookup_key", "valuecanvas_standard_monthly"),
        ("transfer_lookup_key", "true"),
        ("tax_behavior", "inclusive"),
    ];
    world.stripe.post("/v1/prices", &fields).await;
    let customer = world.customer(VISA).await;
    world
        .moves_to(&customer, &[("address[country]", "FR")])
        .await;
    let preview = world.preview("standard").await.ok();
    assert_eq!(
        preview["totals"],
        json!({"subtotalAmount": 9_900, "discountAmount": 0, "taxAmount": 1_650,
               "includedTaxAmount": 1_650, "totalAmount": 9_900})
    );
    world.change_as(&preview).await.ok();
    assert_eq!(invoiced(&world, &customer).await, 9_900);
}

/// The calls that would change something, and previews.
async fn nothing_was_made(world: &World, customer: &str) {
    assert!(world.stripe.subscriptions(customer).await.is_empty());
    let requests = world.service.db.count("billing_stripe_requests").await;
    assert_eq!(requests, 0);
}

#[tokio::test]
async fn who_cannot_be_taxed_is_told_before_anything_is_made() {
    let file = taxed_plans();
    let world = taxed_world(&file).await;
    let refused = async |world: &World| {
        for answer in [
            world.preview("standard").await,
            world.create("standard").await,
            world.change("standard").await,
        ] {
            assert_eq!(answer.problem(), (422, "address_required"), "{answer:?}");
            let detail = answer.body["detail"].as_str().unwrap();
            assert!(detail.contains("country"), "{detail}");
        }
    };
    // Nobody is a customer yet, and nobody becomes one.
    refused(&world).await;
    assert!(world.stripe.list("/v1/customers", &[]).await.is_empty());
    // A customer that no event has shown, without an address.
    let customer = world.customer(VISA).await;
    refused(&world).await;
    nothing_was_made(&world, &customer).await;
    // Now it is known, and Stripe is not even asked.
    world
        .stripe
        .fault(&[("fault", "server_error"), ("path", "/v1/*"), ("every", "1")])
        .await;
    refused(&world).await;
    world.stripe.clear_faults().await;
    let nowhere: [&[(&str, &str)]; 3] = [
        &[("address[city]", "Berlin")],
        &[("address[country]", "US"), ("address[state]", "NY")],
        &[("address[country]", "CA")],
    ];
    for address in nowhere {
        world.moves_to(&customer, address).await;
        refused(&world).await;
    }
    nothing_was_made(&world, &customer).await;
    // Of two events of one second, either may be taken for the later one.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let somewhere = [
        ("address[country]", "US"),
        ("address[state]", "NY"),
        ("address[postal_code]", "10001"),
    ];
    world.moves_to(&customer, &somewhere).await;
    world.create("standard").await.ok();
    assert_eq!(invoiced(&world, &customer).await, 10_296);
    let row = "SELECT tax_country || ' ' || tax_located FROM billing_customers";
    assert_eq!(world.service.db.value(row).await, "US true");
}

#[tokio::test]
async fn a_customer_that_no_event_has_shown_is_read_once() {
    let file = taxed_plans();
    let world = taxed_world(&file).await;
    let fields = [
        ("payment_method", VISA),
        ("invoice_settings[default_payment_method]", VISA),
        ("address[country]", "GB"),
    ];
    let customer = text(&world.stripe.post("/v1/customers", &fields).await, "id");
    world.adopt(&customer).await;
    let preview = world.preview("standard").await.ok();
    assert_eq!(preview["dueNowAmountMinor"], 11_880);
    world.change_as(&preview).await.ok();
    assert_eq!(invoiced(&world, &customer).await, 11_880);
}

#[tokio::test]
async fn what_runs_already_is_not_taxed_by_the_file() {
    let file = taxed_plans();
    let world = taxed_world(&file).await;
    let customer = world.customer(VISA).await;
    let prices = [("lookup_keys[]", "valuecanvas_standard_monthly")];
    let price = text(&world.stripe.list("/v1/prices", &prices).await[0], "id");
    let fields = [("customer", &*customer), ("items[0][price]", &*price)];
    world.stripe.post("/v1/subscriptions", &fields).await;
    world.settle().await;
    let preview = world.preview("enterprise").await.ok();
    assert_eq!(preview["totals"]["taxAmount"], 0);
    assert_eq!(preview["nextInvoiceAmountMinor"], 49_900);
    let view: Value = world.change("enterprise").await.ok();
    assert_eq!(view["planTier"], "enterprise");
}
