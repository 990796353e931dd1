//! Promotion codes: what they reduce, how long, and when they do not hold.

use reqwest::Method;
use serde_json::{Value, json};

use super::world::{
    Answer, DAY, PREVIEW, START, SUBSCRIPTION, Stripe, UPCOMING, VISA, World, seconds, text,
};
use crate::support::service::Options;

/// A coupon with these terms, in the stand-in.
pub async fn coupon(stripe: &Stripe, terms: &[(&str, &str)]) -> String {
    text(&stripe.post("/v1/coupons", terms).await, "id")
}

/// A code for a coupon, with these restrictions.
pub async fn code(stripe: &Stripe, code: &str, coupon: &str, more: &[(&str, &str)]) -> Value {
    let mut fields = vec![
        ("promotion[type]", "coupon"),
        ("promotion[coupon]", coupon),
        ("code", code),
    ];
    fields.extend(more);
    stripe.post("/v1/promotion_codes", &fields).await
}

/// A code for a coupon with these terms.
async fn offer(stripe: &Stripe, name: &str, terms: &[(&str, &str)]) -> Value {
    let coupon = coupon(stripe, terms).await;
    code(stripe, name, &coupon, &[]).await
}

const QUARTER: [(&str, &str); 3] = [
    ("percent_off", "25"),
    ("duration", "once"),
    ("name", "Spring"),
];
const TENTH: [(&str, &str); 3] = [
    ("percent_off", "10"),
    ("duration", "repeating"),
    ("duration_in_months", "3"),
];

impl World {
    pub async fn preview_with(&self, tier: &str, code: &str) -> Answer {
        let body = json!({"planTier": tier, "promotionCode": code});
        self.call(Method::POST, PREVIEW, Some(body)).await
    }

    async fn create_with(&self, tier: &str, code: &str) -> Answer {
        let body = json!({"planTier": tier, "promotionCode": code});
        self.call(Method::POST, SUBSCRIPTION, Some(body)).await
    }

    async fn change_with(&self, tier: &str, code: &str) -> Answer {
        let body = json!({"planTier": tier, "promotionCode": code});
        self.call(Method::PUT, SUBSCRIPTION, Some(body)).await
    }

    async fn upcoming(&self) -> Value {
        self.call(Method::GET, UPCOMING, None).await.ok()
    }
}

/// What Stripe has invoiced a customer in all.
pub async fn invoiced(world: &World, customer: &str) -> i64 {
    let invoices = world.stripe.invoices(customer).await;
    let totals = invoices.iter().map(|one| one["total"].as_i64().unwrap());
    totals.sum()
}

#[track_caller]
fn invalid(answer: &Answer, why: &str) {
    assert_eq!(
        answer.problem(),
        (422, "promotion_code_invalid"),
        "{answer:?}"
    );
    let detail = answer.body["detail"].as_str().unwrap();
    assert!(detail.contains(why), "{detail}");
}

#[tokio::test]
async fn a_code_reduces_what_is_previewed_and_then_charged() {
    let (world, clock, customer) = World::on_clock(START).await;
    offer(&world.stripe, "SPRING25", &QUARTER).await;
    let preview = world.preview_with("standard", " spring25 ").await.ok();
    assert_eq!(preview["source"], "stripe");
    assert_eq!(preview["promotionCode"], "spring25");
    assert_eq!(preview["dueNowAmountMinor"], 7_425);
    assert_eq!(
        preview["totals"],
        json!({"subtotalAmount": 9_900, "discountAmount": 2_475, "taxAmount": 0,
               "includedTaxAmount": 0, "totalAmount": 7_425})
    );
    // It is used up by the first invoice.
    assert_eq!(preview["nextInvoiceAmountMinor"], 9_900);
    assert_eq!(preview["nextInvoiceTotals"]["discountAmount"], 0);
    assert_eq!(preview["lines"][0]["amount"], 9_900);
    assert_eq!(preview["lines"][0]["discountAmount"], 2_475);
    world.change_as(&preview).await.ok();
    assert_eq!(invoiced(&world, &customer).await, 7_425);
    world.settle().await;
    assert_eq!(world.current().await["discounts"], json!([]));
    let invoices = world
        .call(Method::GET, "/api/billing/invoices", None)
        .await
        .ok();
    assert_eq!(invoices["data"][0]["discountAmount"], 2_475);
    let id = text(&invoices["data"][0], "id");
    let path = format!("/api/billing/invoices/{id}");
    let invoice = world.call(Method::GET, &path, None).await.ok();
    assert_eq!(invoice["lines"][0]["discountAmount"], 2_475);

    let renews = seconds(&preview["nextInvoiceDate"]);
    world.stripe.advance(&clock, renews + 7_200).await;
    assert_eq!(invoiced(&world, &customer).await, 7_425 + 9_900);
}

#[tokio::test]
async fn a_discount_is_shown_with_its_terms_and_its_end() {
    let (world, _, _) = World::on_clock(START).await;
    let promotion = offer(&world.stripe, "TENTH", &TENTH).await;
    let made = world.create_with("standard", "tenth").await;
    assert_eq!(made.status, 201);
    let made = made.ok();
    let shown = &made["discounts"][0];
    assert_eq!(made["discounts"].as_array().unwrap().len(), 1);
    for (field, value) in [
        ("scope", json!("subscription")),
        ("stripeCouponId", promotion["promotion"]["coupon"].clone()),
        ("promotionCode", json!("TENTH")),
        ("percentOff", json!("10")),
        ("amountOff", Value::Null),
        ("duration", json!("repeating")),
        ("durationInMonths", json!(3)),
        ("startsAt", json!("2026-01-31T10:00:00Z")),
        ("endsAt", json!("2026-04-30T10:00:00Z")),
    ] {
        assert_eq!(shown[field], value, "{field} of {shown:#}");
    }
    // Events confirm it, and say no less.
    world.settle().await;
    assert_eq!(world.current().await["discounts"], made["discounts"]);
    let upcoming = world.upcoming().await;
    assert_eq!(upcoming["discountAmount"], 990);
    assert_eq!(upcoming["totalAmount"], 8_910);
}

#[tokio::test]
async fn a_running_subscription_redeems_codes_one_beside_the_other() {
    let (world, clock, customer) = World::on_clock(START).await;
    offer(&world.stripe, "TENTH", &TENTH).await;
    let five = [
        ("amount_off", "500"),
        ("currency", "usd"),
        ("duration", "forever"),
    ];
    offer(&world.stripe, "FIVE", &five).await;
    world.create("standard").await.ok();
    world.settle().await;
    let preview = world.preview_with("standard", "TENTH").await.ok();
    assert_eq!(preview["dueNowAmountMinor"], 0);
    assert_eq!(preview["nextInvoiceAmountMinor"], 8_910);
    assert_eq!(preview["lines"], json!([]));
    world.change_as(&preview).await.ok();
    let both = world.change_with("standard", "five").await.ok();
    let codes: Vec<&Value> = both["discounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|discount| &discount["promotionCode"])
        .collect();
    assert_eq!(codes, ["TENTH", "FIVE"]);
    assert_eq!(both["discounts"][1]["amountOff"], 500);
    assert_eq!(both["planTier"], "standard");
    invalid(&world.change_with("standard", "FIVE").await, "already");
    assert_eq!(invoiced(&world, &customer).await, 9_900);
    world.settle().await;
    let audit = world.audit().await;
    let redeemed = audit
        .iter()
        .filter(|entry| *entry == "promotion_code_redeemed user");
    assert_eq!(redeemed.count(), 2, "{audit:?}");
    let renews = seconds(&preview["nextInvoiceDate"]);
    world.stripe.advance(&clock, renews + 7_200).await;
    assert_eq!(invoiced(&world, &customer).await, 9_900 + 8_410);
}

#[tokio::test]
async fn a_change_of_plan_redeems_a_code() {
    let (world, clock, customer) = World::on_clock(START).await;
    offer(&world.stripe, "TENTH", &TENTH).await;
    world.create("standard").await.ok();
    world.stripe.advance(&clock, START + 10 * DAY).await;
    world.settle().await;
    let preview = world.preview_with("enterprise", "TENTH").await.ok();
    assert_eq!(preview["nextInvoiceAmountMinor"], 44_910);
    let before = invoiced(&world, &customer).await;
    world.change_as(&preview).await.ok();
    assert_eq!(
        invoiced(&world, &customer).await - before,
        preview["dueNowAmountMinor"]
    );
    assert_eq!(world.current().await["planTier"], "enterprise");
    let renews = seconds(&preview["nextInvoiceDate"]);
    let before = invoiced(&world, &customer).await;
    world.stripe.advance(&clock, renews + 7_200).await;
    assert_eq!(invoiced(&world, &customer).await - before, 44_910);
}

#[tokio::test]
async fn whom_stripe_does_not_know_yet_sees_the_price_with_the_code() {
    let world = World::start().await;
    offer(&world.stripe, "SPRING25", &QUARTER).await;
    let preview = world.preview_with("standard", "SPRING25").await.ok();
    assert_eq!(preview["source"], "stripe");
    assert_eq!(preview["dueNowAmountMinor"], 7_425);
    assert!(world.stripe.list("/v1/customers", &[]).await.is_empty());
    // There is no card yet, so that nothing is charged and nothing redeemed.
    let answer = world.change_as(&preview).await;
    assert_eq!(answer.problem(), (402, "payment_method_required"));
    let codes = world.stripe.list("/v1/promotion_codes", &[]).await;
    assert_eq!(codes[0]["times_redeemed"], 0);
}

/// Every code that cannot be redeemed, and what is said of it.
async fn refused_codes(stripe: &Stripe) -> Vec<(String, &'static str)> {
    let quarter = coupon(stripe, &QUARTER).await;
    let once = [("max_redemptions", "1")];
    code(stripe, "LAST", &quarter, &once).await;
    let euro = [("amount_off", "500"), ("currency", "eur")];
    offer(stripe, "EURO", &euro).await;
    let stranger = stripe.customer(VISA, None).await;
    code(stripe, "THEIRS", &quarter, &[("customer", &stranger)]).await;
    let floor = [
        ("restrictions[minimum_amount]", "10000"),
        ("restrictions[minimum_amount_currency]", "usd"),
    ];
    code(stripe, "LARGE", &quarter, &floor).await;
    let first = [("restrictions[first_time_transaction]", "true")];
    code(stripe, "FIRST", &quarter, &first).await;
    let off = code(stripe, "OFF", &quarter, &[]).await;
    let path = format!("/v1/promotion_codes/{}", text(&off, "id"));
    stripe.post(&path, &[("active", "false")]).await;
    let soon = (jiff::Timestamp::now().as_second() + 1).to_string();
    code(stripe, "OVER", &quarter, &[("expires_at", &soon)]).await;
    tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    // Somebody else has the last one.
    let price = text(&stripe.price("standard", "9900").await, "id");
    let last = stripe
        .list("/v1/promotion_codes", &[("code", "LAST")])
        .await;
    let fields = [
        ("customer", &*stranger),
        ("items[0][price]", &*price),
        ("discounts[0][promotion_code]", &*text(&last[0], "id")),
    ];
    stripe.post("/v1/subscriptions", &fields).await;
    let too_long = "A".repeat(501);
    [
        ("", "empty"),
        ("  ", "empty"),
        (&too_long, "at most 500"),
        ("SPRING 25", "only letters"),
        ("NOBODY", "there is no promotion code \"NOBODY\""),
        ("LAST", "used up"),
        ("EURO", "`eur`"),
        ("THEIRS", "another customer"),
        ("LARGE", "minimum amount"),
        ("OFF", "not active"),
        ("OVER", "expired on"),
    ]
    .map(|(code, why)| (code.to_owned(), why))
    .to_vec()
}

#[tokio::test]
async fn a_code_that_does_not_hold_changes_nothing_and_says_why() {
    let world = World::start().await;
    let refused = refused_codes(&world.stripe).await;
    let customers = world.stripe.list("/v1/customers", &[]).await.len();
    for (code, why) in &refused {
        invalid(&world.preview_with("standard", code).await, why);
        invalid(&world.create_with("standard", code).await, why);
        invalid(&world.change_with("standard", code).await, why);
    }
    let after = world.stripe.list("/v1/customers", &[]).await.len();
    assert_eq!(after, customers, "nobody was made a customer");
    let requests = world.service.db.count("billing_stripe_requests").await;
    assert_eq!(requests, 0);

    let customer = world.customer(VISA).await;
    world.create("standard").await.ok();
    world.settle().await;
    let before = world.stripe.subscriptions(&customer).await;
    for (code, why) in refused.iter().map(|(code, why)| (code.as_str(), *why)) {
        // What is bought is more now.
        if code != "LARGE" {
            invalid(&world.preview_with("enterprise", code).await, why);
            invalid(&world.change_with("enterprise", code).await, why);
        }
        invalid(&world.change_with("standard", code).await, why);
    }
    invalid(&world.change_with("standard", "FIRST").await, "prior");
    invalid(
        &world.change_with("free", "FIRST").await,
        "nothing is charged",
    );
    assert_eq!(world.stripe.subscriptions(&customer).await, before);
    assert_eq!(world.current().await["discounts"], json!([]));
}

#[tokio::test]
async fn a_preview_binds_its_code() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    offer(&world.stripe, "SPRING25", &QUARTER).await;
    offer(&world.stripe, "TENTH", &TENTH).await;
    let change = async |preview: &Value, code: Option<&str>| {
        let mut body = json!({"planTier": "standard", "previewToken": preview["previewToken"]});
        if let Some(code) = code {
            body["promotionCode"] = json!(code);
        }
        world.call(Method::PUT, SUBSCRIPTION, Some(body)).await
    };
    let plain = world.preview("standard").await.ok();
    assert_eq!(plain["promotionCode"], Value::Null);
    let stale = change(&plain, Some("SPRING25")).await;
    assert_eq!(stale.problem(), (409, "preview_stale"));
    let with = world.preview_with("standard", "SPRING25").await.ok();
    let stale = change(&with, Some("TENTH")).await;
    assert_eq!(stale.problem(), (409, "preview_stale"));
    // It holds no longer.
    let codes = world
        .stripe
        .list("/v1/promotion_codes", &[("code", "SPRING25")])
        .await;
    let path = format!("/v1/promotion_codes/{}", text(&codes[0], "id"));
    world.stripe.post(&path, &[("active", "false")]).await;
    invalid(&change(&with, None).await, "not active");
    world.stripe.post(&path, &[("active", "true")]).await;
    change(&with, Some("spring25")).await.ok();
    assert_eq!(invoiced(&world, &customer).await, 7_425);
}

#[tokio::test]
async fn a_first_subscription_redeems_the_code_of_its_preview() {
    let world = World::start().await;
    let customer = world.customer(VISA).await;
    offer(&world.stripe, "SPRING25", &QUARTER).await;
    offer(&world.stripe, "TENTH", &TENTH).await;
    let with = world.preview_with("standard", "SPRING25").await.ok();
    let subscribe = async |code: Option<&str>| {
        let mut body = json!({"planTier": "standard", "previewToken": with["previewToken"]});
        if let Some(code) = code {
            body["promotionCode"] = json!(code);
        }
        world.call(Method::POST, SUBSCRIPTION, Some(body)).await
    };
    let stale = subscribe(Some("TENTH")).await;
    assert_eq!(stale.problem(), (409, "preview_stale"));
    assert_eq!(world.stripe.subscriptions(&customer).await.len(), 0);
    subscribe(None).await.ok();
    assert_eq!(with["dueNowAmountMinor"], 7_425);
    assert_eq!(invoiced(&world, &customer).await, 7_425);
}

#[tokio::test]
async fn without_stripe_no_code_is_priced() {
    let options = Options {
        stripe_api: None,
        ..Options::default()
    };
    let service = crate::support::TestService::with(options).await;
    let organization = service.organization("Northwind").await;
    let role = valuecanvas_billing::tenancy::auth::Role::Owner;
    let token = service.token(organization, role).await;
    let body = json!({"planTier": "standard", "promotionCode": "SPRING25"});
    let request = service.post(PREVIEW).bearer_auth(token).json(&body);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 409);
    let problem: Value = response.json().await.unwrap();
    assert_eq!(problem["code"], "preview_unavailable");
}

#[tokio::test]
async fn a_discount_of_the_customer_is_shown_and_counted() {
    let (world, _, customer) = World::on_clock(START).await;
    let tenth = coupon(
        &world.stripe,
        &[("percent_off", "10"), ("duration", "forever")],
    )
    .await;
    world.create("standard").await.ok();
    world.settle().await;
    world.stripe.reduce(&customer, &tenth).await;
    world.settle().await;
    world.terms_are_known().await;
    let shown = world.current().await;
    assert_eq!(shown["discounts"][0]["scope"], "customer");
    assert_eq!(shown["discounts"][0]["percentOff"], "10");
    assert_eq!(world.upcoming().await["totalAmount"], 8_910);
    let preview = world.preview("enterprise").await.ok();
    assert_eq!(preview["nextInvoiceAmountMinor"], 44_910);
}

impl Stripe {
    /// Gives a customer a discount, as it was set before basil.
    pub async fn reduce(&self, customer: &str, coupon: &str) {
        let url = format!("{}/v1/customers/{customer}", self.sandbox.url());
        let client = valuecanvas_billing::http_client::direct_client().unwrap();
        let request = client
            .post(url)
            .bearer_auth(super::world::KEY)
            .header("stripe-version", "2023-10-16")
            .form(&[("coupon", coupon)]);
        assert!(request.send().await.unwrap().status().is_success());
    }
}

impl World {
    /// Waits until no coupon is waiting to be asked for.
    pub async fn terms_are_known(&self) {
        for _ in 0..1_000 {
            let due = "billing_discounts WHERE terms_due_at IS NOT NULL";
            if self.service.db.count(due).await == 0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("the terms of a coupon stayed unknown");
    }
}
