//! Plans with prices by interval and currency: bought, changed, previewed, metered and
//! shown as they are paid.

mod listed;

use serde_json::{Value, json};

use super::shop::Shop;
use crate::subscriptions::world::{Answer, DAY, PREVIEW, START, SUBSCRIPTION, VISA, seconds};

const PRICE: &str = "price = { amount = 9_900, currency = \"usd\", interval = \"month\", lookup_key = \"valuecanvas_standard_monthly\" }\n";
/// In the file's order, which means nothing.
const PRICES: &str = "prices = [
  { interval = \"year\", currency = \"eur\", amount = 90_000, lookup_key = \"standard_eur_year\" },
  { interval = \"month\", currency = \"eur\", amount = 8_900, lookup_key = \"standard_eur_month\" },
  { interval = \"year\", currency = \"usd\", amount = 99_000, lookup_key = \"standard_usd_year\" },
  { interval = \"month\", currency = \"usd\", amount = 9_900, lookup_key = \"valuecanvas_standard_monthly\" },
  { interval = \"month\", currency = \"jpy\", amount = 14_000, lookup_key = \"standard_jpy_month\" },
]
";
/// Rates in each currency.
const RATES: [(&str, &str); 5] = [
    (
        "\"0.00001\"",
        "{ usd = \"0.00001\", eur = \"0.00001\", jpy = \"0.002\" }",
    ),
    (
        "\"0.10\"",
        "{ usd = \"0.10\", eur = \"0.09\", jpy = \"15\" }",
    ),
    (
        "\"0.001\"",
        "{ usd = \"0.001\", eur = \"0.002\", jpy = \"0.15\" }",
    ),
    (
        "\"0.50\"",
        "{ usd = \"0.50\", eur = \"0.45\", jpy = \"75\" }",
    ),
    (
        "\"5.00\"",
        "{ usd = \"5.00\", eur = \"4.50\", jpy = \"750\" }",
    ),
];

/// Standard in three currencies; enterprise in dollars, by the month.
fn several() -> Vec<(&'static str, &'static str)> {
    let mut changes = vec![(PRICE, PRICES)];
    changes.extend(RATES);
    changes
}

async fn market() -> Shop {
    Shop::open(&several()).await
}

impl Shop {
    pub async fn subscribe(&self, body: Value) -> Answer {
        let post = reqwest::Method::POST;
        self.world.call(post, SUBSCRIPTION, Some(body)).await
    }

    pub async fn put(&self, body: Value) -> Answer {
        let put = reqwest::Method::PUT;
        self.world.call(put, SUBSCRIPTION, Some(body)).await
    }

    pub async fn previewed(&self, body: Value) -> Answer {
        let post = reqwest::Method::POST;
        self.world.call(post, PREVIEW, Some(body)).await
    }

    /// The newest invoice of a customer.
    pub async fn invoice(&self, customer: &str) -> Value {
        self.world.stripe.invoices(customer).await.pop().unwrap()
    }

    /// Another customer, who lives on a clock.
    pub async fn customer_at(&mut self, at: i64) -> (String, String) {
        let clock = self.world.stripe.clock(at).await;
        (self.world.newcomer(&clock).await, clock)
    }
}

#[tokio::test]
async fn each_price_can_be_bought_and_is_what_stripe_charges() {
    let mut shop = market().await;
    for (interval, currency, amount) in [
        ("month", "usd", 9_900),
        ("year", "usd", 99_000),
        ("month", "eur", 8_900),
        ("year", "eur", 90_000),
        ("month", "jpy", 14_000),
    ] {
        let customer = shop.customer().await;
        let request = json!({"planTier": "standard", "interval": interval, "currency": currency});
        let preview = shop.previewed(request.clone()).await.ok();
        assert_eq!(
            (
                &preview["interval"],
                &preview["currency"],
                &preview["dueNowAmountMinor"]
            ),
            (&json!(interval), &json!(currency), &json!(amount))
        );
        let made = shop.subscribe(request).await.ok();
        assert_eq!(
            (&made["interval"], &made["currency"], &made["planTier"]),
            (&json!(interval), &json!(currency), &json!("standard"))
        );
        shop.world.settle().await;
        let invoice = shop.invoice(&customer).await;
        assert_eq!(
            (&invoice["currency"], &invoice["amount_paid"]),
            (&json!(currency), &json!(amount))
        );
        // All of it is in one currency, and usage is metered by the month.
        let subscription = shop.world.stripe.subscriptions(&customer).await.remove(0);
        let items = subscription["items"]["data"].as_array().unwrap();
        assert_eq!(items.len(), 6, "{items:#?}");
        for item in items {
            let price = &item["price"];
            let metered = price["recurring"]["usage_type"] == "metered";
            let expected = if metered { "month" } else { interval };
            assert_eq!(
                (&price["currency"], &price["recurring"]["interval"]),
                (&json!(currency), &json!(expected))
            );
        }
    }
}

#[tokio::test]
async fn what_is_not_said_is_the_months_price_in_the_free_plans_currency() {
    let mut shop = market().await;
    let customer = shop.subscriber("standard").await;
    assert_eq!(shop.invoice(&customer).await["amount_paid"], 9_900);
    // By the year, still in dollars; in euro, by the month.
    for (request, currency, amount) in [
        (
            json!({"planTier": "standard", "interval": "year"}),
            "usd",
            99_000,
        ),
        (
            json!({"planTier": "standard", "currency": "EUR"}),
            "eur",
            8_900,
        ),
    ] {
        let customer = shop.customer().await;
        shop.subscribe(request).await.ok();
        let invoice = shop.invoice(&customer).await;
        assert_eq!(
            (&invoice["currency"], &invoice["amount_paid"]),
            (&json!(currency), &json!(amount))
        );
    }
}

#[tokio::test]
async fn usage_is_limited_shown_and_billed_in_the_currency_that_is_paid() {
    let mut shop = market().await;
    for (interval, currency, rate, amount) in [
        ("month", "eur", "0.002", 800),
        ("month", "jpy", "0.15", 600),
        ("month", "usd", "0.001", 400),
    ] {
        let customer = shop.customer().await;
        let request = json!({"planTier": "standard", "interval": interval, "currency": currency});
        shop.subscribe(request).await.ok();
        shop.world.settle().await;
        shop.uses("api_calls", "104000").await;
        shop.report().await;
        let usage = shop.usage("api_calls").await;
        assert_eq!(
            (&usage["overageAmount"], &usage["currency"]),
            (&json!(amount), &json!(currency)),
            "{usage:#}"
        );
        assert_eq!(shop.metered_lines(&customer).await, amount);
        let quotas = shop.get("/api/billing/quotas").await;
        let quota = quotas["data"].as_array().unwrap();
        let quota = quota.iter().find(|quota| quota["metric"] == "api_calls");
        assert_eq!(quota.unwrap()["overageRate"], rate);
    }
    // A restart assigns what was bought, not what is meant by default.
    shop.restart().await;
    let rates = "SELECT string_agg(DISTINCT currency || ' ' || trim_scale(overage_rate), ', ')
                   FROM usage_quotas WHERE metric = 'api_calls' AND plan_tier = 'standard'";
    assert_eq!(shop.value(rates).await, "eur 0.002, jpy 0.15, usd 0.001");
}

#[tokio::test]
async fn another_interval_of_the_same_plan_is_a_change_to_the_cent() {
    let mut shop = market().await;
    let (customer, clock) = shop.customer_at(START).await;
    shop.subscribe(json!({"planTier": "standard", "currency": "eur"}))
        .await
        .ok();
    shop.world.settle().await;
    let at = START + 7 * DAY;
    shop.world.stripe.advance(&clock, at).await;
    shop.world.settle().await;
    // What is the same is no change.
    for same in [
        json!({"planTier": "standard"}),
        json!({"planTier": "standard", "interval": "month", "currency": "eur"}),
    ] {
        assert_eq!(shop.previewed(same).await.problem(), (409, "same_plan"));
    }
    let preview = shop
        .previewed(json!({"planTier": "standard", "interval": "year"}))
        .await
        .ok();
    // Three quarters of the month are given back.
    assert_eq!(preview["dueNowAmountMinor"], 90_000 - 6_675, "{preview:#}");
    // The next invoice is that of the first month's usage.
    assert_eq!(
        (
            seconds(&preview["nextInvoiceDate"]),
            &preview["nextInvoiceAmountMinor"]
        ),
        (at + 28 * DAY, &json!(0))
    );
    // The token says the interval, and no other.
    let token = &preview["previewToken"];
    let other = json!({"planTier": "standard", "interval": "month", "previewToken": token});
    let refused = shop.put(other).await;
    assert!(
        matches!(refused.problem().1, "preview_stale" | "same_plan"),
        "{refused:?}"
    );
    let changed = shop
        .put(json!({"planTier": "standard", "previewToken": token}))
        .await
        .ok();
    assert_eq!(
        (&changed["interval"], &changed["currency"]),
        (&json!("year"), &json!("eur"))
    );
    let invoice = shop.invoice(&customer).await;
    assert_eq!(invoice["total"], 90_000 - 6_675);
    shop.world.settle().await;
    let interval = "SELECT DISTINCT plan_interval FROM usage_quotas WHERE organization_id = $org";
    assert_eq!(shop.value(interval).await, "year");
}

#[tokio::test]
async fn the_customers_currency_stays_whatever_is_asked_for() {
    let mut shop = market().await;
    let customer = shop.customer().await;
    shop.subscribe(json!({"planTier": "standard", "currency": "eur"}))
        .await
        .ok();
    shop.world.settle().await;
    let requests = [
        json!({"planTier": "standard", "currency": "usd"}),
        json!({"planTier": "standard", "currency": "usd", "interval": "year"}),
        // Which is sold in dollars only.
        json!({"planTier": "enterprise"}),
    ];
    for request in requests {
        for answer in [
            shop.previewed(request.clone()).await,
            shop.put(request).await,
        ] {
            assert_eq!(answer.problem(), (409, "currency_mismatch"), "{answer:?}");
            assert_eq!(answer.body["currency"], "eur");
            assert!(!answer.body["offered"].as_array().unwrap().is_empty());
        }
    }
    // Nor after the subscription has ended.
    shop.world.cancel(true).await.ok();
    shop.world.settle().await;
    let again = json!({"planTier": "standard", "currency": "usd"});
    assert_eq!(
        shop.subscribe(again).await.problem(),
        (409, "currency_mismatch")
    );
    shop.subscribe(json!({"planTier": "standard"})).await.ok();
    assert_eq!(shop.invoice(&customer).await["currency"], "eur");
}

#[tokio::test]
async fn a_customer_who_was_invoiced_elsewhere_keeps_that_currency_too() {
    let mut shop = market().await;
    let customer = shop.world.stripe.customer(VISA, None).await;
    shop.world.deliver_nothing().await;
    let key = [("lookup_keys[]", "standard_eur_month")];
    let price = shop.world.stripe.list("/v1/prices", &key).await.remove(0);
    let price = price["id"].as_str().unwrap();
    let fields = [("customer", &*customer), ("items[0][price]", price)];
    let made = shop.world.stripe.post("/v1/subscriptions", &fields).await;
    let path = format!("/v1/subscriptions/{}", made["id"].as_str().unwrap());
    let delete = reqwest::Method::DELETE;
    shop.world.stripe.send(delete, &path, &[]).await;
    shop.world.organization = shop.world.service.organization("Elsewhere").await;
    let owner = valuecanvas_billing::tenancy::auth::Role::Owner;
    shop.world.token = shop
        .world
        .service
        .token(shop.world.organization, owner)
        .await;
    shop.world.adopt(&customer).await;
    // The event was lost, so Stripe says it.
    let refused = shop
        .subscribe(json!({"planTier": "standard", "currency": "usd"}))
        .await;
    assert_eq!(refused.problem(), (409, "currency_mismatch"), "{refused:?}");
}

#[tokio::test]
async fn what_is_not_offered_says_what_is() {
    let mut shop = market().await;
    shop.customer().await;
    for (request, code) in [
        (
            json!({"planTier": "enterprise", "interval": "year"}),
            "price_not_offered",
        ),
        (
            json!({"planTier": "standard", "currency": "gbp"}),
            "price_not_offered",
        ),
        (
            json!({"planTier": "standard", "currency": "jpy", "interval": "year"}),
            "price_not_offered",
        ),
        (
            json!({"planTier": "standard", "quantity": 5}),
            "plan_without_seats",
        ),
        (
            json!({"planTier": "standard", "quantity": 0}),
            "quantity_out_of_range",
        ),
        (
            json!({"planTier": "standard", "quantity": 1_000_001}),
            "quantity_out_of_range",
        ),
    ] {
        for answer in [
            shop.previewed(request.clone()).await,
            shop.subscribe(request.clone()).await,
        ] {
            assert_eq!(answer.problem(), (422, code), "{request} {answer:?}");
            if code == "price_not_offered" {
                let offered = answer.body["offered"].as_array().unwrap();
                let detail = answer.body["detail"].as_str().unwrap();
                assert!(
                    offered
                        .iter()
                        .all(|one| detail.contains(one.as_str().unwrap()))
                );
            }
        }
    }
    for unreadable in [
        json!({"planTier": "standard", "interval": "week"}),
        json!({"planTier": "standard", "quantity": -1}),
        json!({"planTier": "standard", "quantity": 1.5}),
        json!({"planTier": "standard", "quantity": "5"}),
        json!({"planTier": "standard", "currency": 1}),
    ] {
        let answer = shop.subscribe(unreadable.clone()).await;
        assert!(
            matches!(answer.status, 400 | 422),
            "{unreadable} {answer:?}"
        );
    }
    assert_eq!(
        shop.value("SELECT count(*) FROM billing_subscriptions")
            .await,
        "0"
    );
}

#[tokio::test]
async fn a_change_of_plan_keeps_interval_and_currency_where_it_can() {
    let mut changes = several();
    changes.push((
        "price = { amount = 49_900, currency = \"usd\", interval = \"month\", lookup_key = \"valuecanvas_enterprise_monthly\" }",
        "prices = [
  { interval = \"month\", currency = \"usd\", amount = 49_900, lookup_key = \"valuecanvas_enterprise_monthly\" },
  { interval = \"year\", currency = \"usd\", amount = 499_000, lookup_key = \"enterprise_usd_year\" },
]",
    ));
    let mut shop = Shop::open(&changes).await;
    let (customer, clock) = shop.customer_at(START).await;
    shop.subscribe(json!({"planTier": "standard", "interval": "year"}))
        .await
        .ok();
    for days in [40, 73] {
        let at = START + days * DAY;
        shop.world.stripe.advance(&clock, at).await;
    }
    shop.world.settle().await;
    let preview = shop.previewed(json!({"planTier": "enterprise"})).await.ok();
    assert_eq!(preview["interval"], "year");
    // Four fifths of the year are left.
    assert_eq!(preview["dueNowAmountMinor"], (499_000 - 99_000) / 5 * 4);
    shop.world.change_as(&preview).await.ok();
    assert_eq!(shop.invoice(&customer).await["total"], 320_000);
    assert_eq!(shop.world.current().await["interval"], "year");
}
