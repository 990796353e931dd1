//! What does not map, and why.

use reqwest::Method;
use uuid::Uuid;

use super::{Account, reasons};
use crate::subscriptions::world::{START, VISA, text};

fn pair(reason: &str, customer: &str) -> (String, String) {
    (reason.to_owned(), customer.to_owned())
}

#[tokio::test]
async fn each_customer_that_is_not_imported_is_named_with_its_reason() {
    let account = Account::open().await;
    let stripe = &account.world.stripe;
    let nobody = account.customer(None).await;
    let unknown = account.customer(Some(Uuid::now_v7())).await;
    let (organization, first) = account.named().await;
    let second = account.customer(Some(organization)).await;
    let clock = stripe.clock(START).await;
    let timed = stripe.customer(VISA, Some(&clock)).await;
    let gone = account.customer(None).await;
    let path = format!("/v1/customers/{gone}");
    stripe.send(Method::DELETE, &path, &[]).await;
    let map = tempfile(&format!(
        "customer,organization\n{gone},{0}\ncus_never,{0}\n",
        account.world.organization
    ));

    let ran = account.import(&["--dry-run", "--map", &map]).await;
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    let mut expected = vec![
        pair("no_organization", &nobody),
        pair("no_organization", &unknown),
        pair("two_customers", &first),
        pair("two_customers", &second),
        pair("deleted_customer", &gone),
        pair("missing_customer", "cus_never"),
        pair("test_clock", &timed),
    ];
    let mut found = reasons(&ran.json());
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    assert_eq!(ran.json()["customers"]["notImported"], 4);

    // Nobody who is not named is taken for somebody.
    let ran = account.import(&["--map", &map]).await;
    assert_eq!(ran.status, 1);
    assert_eq!(account.count("billing_customers").await, 0);
    // The one that a file names is the organization's; the other's metadata are not believed.
    let map = tempfile(&format!("customer,organization\n{first},{organization}\n"));
    let ran = account.import(&["--map", &map]).await;
    assert_eq!(ran.status, 1, "{}", ran.stdout);
    let owner = format!(
        "SELECT string_agg(stripe_customer_id, ',') FROM billing_customers
          WHERE organization_id = '{organization}'"
    );
    assert_eq!(account.value(&owner).await, first);
    assert!(reasons(&ran.json()).contains(&pair("two_customers", &second)));
}

#[tokio::test]
async fn two_subscriptions_and_unknown_prices_are_told_and_imported() {
    let account = Account::open().await;
    let (_, double) = account.named().await;
    account.subscribe(&double, &[]).await;
    account.subscribe(&double, &[]).await;
    let (_, odd) = account.named().await;
    let fields = [
        ("currency", "usd"),
        ("unit_amount", "500"),
        ("recurring[interval]", "month"),
        ("product_data[name]", "Relic"),
    ];
    let price = text(
        &account.world.stripe.post("/v1/prices", &fields).await,
        "id",
    );
    let fields = [("customer", &*odd), ("items[0][price]", &price)];
    account
        .world
        .stripe
        .post("/v1/subscriptions", &fields)
        .await;

    let report = account.imported(&[]).await;
    let expected = [
        pair("two_subscriptions", &double),
        pair("unknown_price", &odd),
    ];
    assert_eq!(reasons(&report), expected);
    let detail = &report["findings"][1]["detail"];
    assert!(detail.as_str().unwrap().contains(&price), "{detail}");
    assert_eq!(report["done"]["subscriptions"]["written"], 3);

    // The same in words, for people.
    let ran = account.run(&["import", "stripe", "--dry-run"]).await;
    assert_eq!(ran.status, 0);
    for said in [
        "unknown_price: 1 finding",
        &price,
        "2 customers in Stripe",
        "nothing was changed",
    ] {
        assert!(ran.stdout.contains(said), "{said}: {}", ran.stdout);
    }
}

/// A file with this text.
pub fn tempfile(text: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = path.join(format!("{}.csv", Uuid::now_v7()));
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}
