//! Promotion codes with what else a change may be: other seats, intervals and currencies,
//! a change when the period ends, usage that is charged, and another version.

use reqwest::Method;
use serde_json::{Value, json};

use super::shop::Shop;
use crate::subscriptions::later::migrations::migrate;
use crate::subscriptions::later::{PENDING, RENEWAL};
use crate::subscriptions::promotion_codes::{code, coupon, invoiced};
use crate::subscriptions::world::{Answer, DAY, START, UPCOMING, seconds};

const PRICE: &str = "price = { amount = 9_900, currency = \"usd\", interval = \"month\", lookup_key = \"valuecanvas_standard_monthly\" }\n";
const PRICES: &str = "prices = [
  { interval = \"month\", currency = \"usd\", amount = 9_900, lookup_key = \"valuecanvas_standard_monthly\" },
  { interval = \"year\", currency = \"usd\", amount = 99_000, lookup_key = \"standard_usd_year\" },
]
";
const EUROS: &str = "prices = [
  { interval = \"month\", currency = \"eur\", amount = 8_900, lookup_key = \"standard_eur_month\" },
  { interval = \"year\", currency = \"eur\", amount = 90_000, lookup_key = \"standard_eur_year\" },
]
";
const QUOTA: &str =
    "user_seats = { quota = 25, over_limit = \"overage\", overage_rate = \"5.00\" }\n";
const TRIAL: &str = "trial_days_max = 30\n";
/// Three come with the fee, and each further one has a price of its own.
const IN_DOLLARS: &str = "trial_days_max = 30\n\n[plans.seats]\nmetric = \"user_seats\"\nincluded = 3\n\
                          mode = \"licensed\"\nprice = [{ interval = \"month\", amount = 1_500 }, \
                          { interval = \"year\", amount = 15_000 }]\n";
const IN_EUROS: &str = "trial_days_max = 30\n\n[plans.seats]\nmetric = \"user_seats\"\nincluded = 3\n\
                        mode = \"licensed\"\nprice = [{ interval = \"month\", amount = 1_300 }, \
                        { interval = \"year\", amount = 13_000 }]\n";
/// 35,000 over the 5,000 of the standard plan, at 0.10.
const OVER: i64 = 350_000;

const TENTH: [(&str, &str); 2] = [("percent_off", "10"), ("duration", "forever")];
const QUARTER: [(&str, &str); 2] = [("percent_off", "25"), ("duration", "once")];

impl Shop {
    /// A code for a coupon with these terms.
    async fn offer(&self, name: &str, terms: &[(&str, &str)]) {
        let coupon = coupon(&self.world.stripe, terms).await;
        code(&self.world.stripe, name, &coupon, &[]).await;
    }

    /// Makes the change that was previewed. Returns what it invoiced.
    async fn as_previewed(&self, preview: &Value, customer: &str) -> i64 {
        let before = invoiced(&self.world, customer).await;
        self.world.change_as(preview).await.ok();
        self.world.settle().await;
        self.world.settled_in_the_background().await;
        invoiced(&self.world, customer).await - before
    }

    /// What is invoiced until the time that a preview names, and at it.
    async fn next_invoice(&self, preview: &Value, customer: &str, clock: &str) -> i64 {
        let before = invoiced(&self.world, customer).await;
        let at = seconds(&preview["nextInvoiceDate"]) + 7_200;
        self.world.stripe.advance(clock, at).await;
        self.world.settle().await;
        invoiced(&self.world, customer).await - before
    }

    async fn redeemed(&self, name: &str) -> i64 {
        let fields = [("code", name)];
        let codes = self.world.stripe.list("/v1/promotion_codes", &fields).await;
        codes[0]["times_redeemed"].as_i64().unwrap()
    }

    async fn discounts(&self) -> Vec<Value> {
        let current = self.world.current().await;
        let discounts = current["discounts"].as_array().unwrap();
        discounts
            .iter()
            .map(|discount| discount["promotionCode"].clone())
            .collect()
    }
}

fn minor(preview: &Value, name: &str) -> i64 {
    preview[name].as_i64().unwrap()
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
async fn a_code_reduces_fee_and_seats_in_the_customers_currency() {
    let by_year = "name = \"Standard\"\nallowance_period = \"billing\"";
    let mut rates = vec![(PRICE, EUROS), (QUOTA, ""), (TRIAL, IN_EUROS)];
    rates.push(("name = \"Standard\"", by_year));
    for (rate, both) in [
        ("\"0.00001\"", "{ eur = \"0.00001\" }"),
        ("\"0.10\"", "{ eur = \"0.09\" }"),
        ("\"0.001\"", "{ eur = \"0.002\" }"),
        ("\"0.50\"", "{ eur = \"0.45\" }"),
    ] {
        rates.push((rate, both));
    }
    let mut shop = Shop::open(&rates).await;
    shop.offer("TENTH", &TENTH).await;
    shop.offer("QUARTER", &QUARTER).await;
    let dollars = [
        ("amount_off", "500"),
        ("currency", "usd"),
        ("duration", "once"),
    ];
    shop.offer("DOLLARS", &dollars).await;
    let euros = [
        ("amount_off", "500"),
        ("currency", "eur"),
        ("duration", "once"),
    ];
    shop.offer("EUROS", &euros).await;
    let (customer, clock) = shop.customer_at(START).await;
    let wish = |code: &str| {
        json!({"planTier": "standard", "interval": "year", "currency": "eur", "quantity": 5,
               "promotionCode": code})
    };
    for answer in [
        shop.previewed(wish("DOLLARS")).await,
        shop.subscribe(wish("DOLLARS")).await,
    ] {
        invalid(&answer, "`usd`");
    }
    let preview = shop.previewed(wish("EUROS")).await.ok();
    assert_eq!(minor(&preview, "dueNowAmountMinor"), 116_000 - 500);
    assert_eq!(minor(&preview, "nextInvoiceAmountMinor"), 116_000);
    let preview = shop.previewed(wish("TENTH")).await.ok();
    assert_eq!(minor(&preview, "dueNowAmountMinor"), 104_400);
    assert_eq!(shop.as_previewed(&preview, &customer).await, 104_400);
    assert_eq!(shop.discounts().await, ["TENTH"]);

    // More seats with another code: at once for the rest of the year, both off.
    shop.world.stripe.advance(&clock, START + 73 * DAY).await;
    shop.world.settle().await;
    let wish = json!({"planTier": "standard", "quantity": 9, "promotionCode": "quarter"});
    let preview = shop.previewed(wish).await.ok();
    let due = minor(&preview, "dueNowAmountMinor");
    assert!(due > 0, "{preview:#}");
    assert_eq!(shop.as_previewed(&preview, &customer).await, due);
    assert_eq!(shop.world.current().await["quantity"], 9);
    let next = minor(&preview, "nextInvoiceAmountMinor");
    assert_eq!(shop.next_invoice(&preview, &customer, &clock).await, next);
}

#[tokio::test]
async fn a_code_at_the_periods_end_is_redeemed_by_the_change() {
    let mut shop = Shop::open(&[(PRICE, PRICES), (QUOTA, ""), (TRIAL, IN_DOLLARS)]).await;
    shop.offer("TENTH", &TENTH).await;
    shop.offer("QUARTER", &QUARTER).await;
    let (customer, clock) = shop.customer_at(START).await;
    let first = json!({"planTier": "standard", "interval": "month", "quantity": 5,
                       "promotionCode": "TENTH"});
    shop.subscribe(first).await.ok();
    shop.world.stripe.advance(&clock, START + 7 * DAY).await;
    shop.world.settle().await;
    let paid = invoiced(&shop.world, &customer).await;
    assert_eq!(paid, 11_610);
    for wish in [
        // Other seats, and another interval: a year of 99,000 and two seats more.
        json!({"planTier": "standard", "quantity": 4, "when": "period_end",
               "promotionCode": "QUARTER"}),
        json!({"planTier": "standard", "interval": "year", "when": "period_end",
               "promotionCode": "QUARTER"}),
    ] {
        let preview = shop.previewed(wish.clone()).await.ok();
        assert_eq!(preview["source"], "stripe");
        let full = match wish["interval"].is_null() {
            true => 11_400,
            false => 129_000,
        };
        // A tenth off, and a quarter of what is left.
        let expected = full * 9 / 10 * 3 / 4;
        assert_eq!(
            minor(&preview, "nextInvoiceAmountMinor"),
            expected,
            "{preview:#}"
        );
        assert_eq!(minor(&preview, "dueNowAmountMinor"), 0);
        assert_eq!(shop.as_previewed(&preview, &customer).await, 0);
        assert_eq!(shop.discounts().await, ["TENTH"]);
        assert_eq!(shop.redeemed("QUARTER").await, 0);
        let called_off = shop.world.call(Method::DELETE, PENDING, None).await.ok();
        assert_eq!(called_off["pendingChange"], Value::Null);
        shop.world.settle().await;
        shop.world.settled_in_the_background().await;
        assert_eq!(shop.discounts().await, ["TENTH"]);
        assert_eq!(shop.redeemed("QUARTER").await, 0);
    }
    let wish = json!({"planTier": "standard", "interval": "year", "when": "period_end",
                      "promotionCode": "QUARTER"});
    let preview = shop.previewed(wish).await.ok();
    shop.as_previewed(&preview, &customer).await;
    let upcoming = shop.world.call(Method::GET, UPCOMING, None).await.ok();
    assert_eq!(
        upcoming["totalAmount"], preview["nextInvoiceAmountMinor"],
        "{upcoming:#}"
    );
    assert_eq!(seconds(&preview["nextInvoiceDate"]), RENEWAL);
    let charged = shop.next_invoice(&preview, &customer, &clock).await;
    assert_eq!(charged, minor(&preview, "nextInvoiceAmountMinor"));
    assert_eq!(shop.redeemed("QUARTER").await, 1);
    // One for a single invoice is used up; the other stays.
    assert_eq!(shop.discounts().await, ["TENTH"]);
    assert_eq!(shop.world.current().await["interval"], "year");
}

#[tokio::test]
async fn a_code_comes_with_a_change_that_is_pending_and_not_beside_it() {
    let mut shop = Shop::open(&[]).await;
    shop.offer("TENTH", &TENTH).await;
    let (customer, clock) = shop.customer_at(START).await;
    shop.world.create("enterprise").await.ok();
    shop.world.settle().await;
    shop.world.stripe.advance(&clock, START + 7 * DAY).await;
    shop.world.settle().await;
    let later = |code: Option<&str>| {
        let mut wish = json!({"planTier": "standard", "when": "period_end"});
        if let Some(code) = code {
            wish["promotionCode"] = json!(code);
        }
        wish
    };
    // A code that does not hold leaves nothing behind.
    let answer = shop.put(later(Some("NOBODY"))).await;
    invalid(&answer, "there is no promotion code");
    shop.put(later(None)).await.ok();
    shop.world.settle().await;
    shop.world.settled_in_the_background().await;
    for wish in [
        json!({"planTier": "enterprise", "promotionCode": "TENTH"}),
        json!({"planTier": "standard", "when": "now", "promotionCode": "TENTH"}),
    ] {
        for answer in [
            shop.previewed(wish.clone()).await,
            shop.put(wish.clone()).await,
        ] {
            assert_eq!(answer.problem(), (409, "change_pending"), "{answer:?}");
            let detail = answer.body["detail"].as_str().unwrap();
            assert!(detail.contains("promotion code"), "{detail}");
        }
    }
    // Stripe says what is to come only once the schedule is told.
    let answer = shop.previewed(later(Some("TENTH"))).await;
    assert_eq!(answer.problem(), (409, "preview_unavailable"));
    shop.put(later(Some("TENTH"))).await.ok();
    shop.world.settle().await;
    shop.world.settled_in_the_background().await;
    let upcoming = shop.world.call(Method::GET, UPCOMING, None).await.ok();
    assert_eq!(upcoming["totalAmount"], 8_910, "{upcoming:#}");
    let before = invoiced(&shop.world, &customer).await;
    shop.world.stripe.advance(&clock, RENEWAL + 7_200).await;
    shop.world.settle().await;
    assert_eq!(invoiced(&shop.world, &customer).await - before, 8_910);
    // The event only names the discount, so that Stripe is asked for its code.
    shop.world.settled_in_the_background().await;
    assert_eq!(shop.discounts().await, ["TENTH"]);
    let requests = "billing_stripe_requests WHERE state = 'open'";
    assert_eq!(shop.world.service.db.count(requests).await, 0);
}

#[tokio::test]
async fn a_code_that_stripe_refuses_at_the_periods_end_leaves_no_schedule() {
    let mut shop = Shop::open(&[]).await;
    let tenth = coupon(&shop.world.stripe, &TENTH).await;
    let floor = [
        ("restrictions[minimum_amount]", "90000"),
        ("restrictions[minimum_amount_currency]", "usd"),
    ];
    code(&shop.world.stripe, "LARGE", &tenth, &floor).await;
    let (customer, _) = shop.customer_at(START).await;
    shop.world.create("enterprise").await.ok();
    shop.world.settle().await;
    let wish = json!({"planTier": "standard", "when": "period_end", "promotionCode": "LARGE"});
    for answer in [shop.previewed(wish.clone()).await, shop.put(wish).await] {
        invalid(&answer, "minimum amount");
    }
    assert_eq!(shop.world.running(&customer).await["schedule"], Value::Null);
    assert_eq!(shop.world.current().await["pendingChange"], Value::Null);
    shop.world.cancel(false).await.ok();
}

#[tokio::test]
async fn usage_that_a_change_charges_is_reduced_as_well() {
    for usage in ["charge", "prorate"] {
        let settled = format!("usage = \"{usage}\"");
        let mut shop = Shop::open(&[("usage = \"charge\"", &settled)]).await;
        shop.offer("TENTH", &TENTH).await;
        let customer = shop.subscriber("standard").await;
        shop.uses("agent_executions", "40000").await;
        let wish = json!({"planTier": "enterprise", "promotionCode": "TENTH"});
        let preview = shop.previewed(wish).await.ok();
        let lines = preview["lines"].as_array().unwrap();
        let charge = lines.iter().find(|line| line["proration"] == false);
        match usage {
            "charge" => {
                let line = charge.unwrap_or_else(|| panic!("{preview:#}"));
                assert_eq!(
                    (&line["amount"], &line["discountAmount"]),
                    (&json!(OVER), &json!(OVER / 10))
                );
            }
            _ => assert_eq!(charge, None, "{preview:#}"),
        }
        let due = minor(&preview, "dueNowAmountMinor");
        assert_eq!(shop.as_previewed(&preview, &customer).await, due, "{usage}");
        assert_eq!(minor(&preview, "nextInvoiceAmountMinor"), 44_910);
        // At the changed plan's terms, nothing is over.
        shop.report().await;
        let upcoming = shop.world.call(Method::GET, UPCOMING, None).await.ok();
        assert_eq!(upcoming["totalAmount"], 44_910, "{usage} {upcoming:#}");
    }
}

#[tokio::test]
async fn a_discount_goes_along_to_another_version() {
    let mut shop = Shop::open(&[]).await;
    shop.offer("TENTH", &TENTH).await;
    let (customer, clock) = shop.customer_at(START).await;
    let first = json!({"planTier": "standard", "promotionCode": "TENTH"});
    shop.subscribe(first).await.ok();
    shop.world.stripe.advance(&clock, START + 7 * DAY).await;
    shop.world.settle().await;
    shop.change(&[("amount = 9_900", "amount = 10_900")]).await;
    for (arguments, next) in [(&["--at", "renewal"][..], 9_810), (&[], 9_810)] {
        let dry = [arguments, &["--dry-run"]].concat();
        let shown = migrate(&shop, &dry).await.json()[0].clone();
        assert_eq!(shown["problem"], Value::Null, "{shown:#}");
        assert_eq!(shown["nextInvoiceAmount"], next, "{shown:#}");
        if !arguments.is_empty() {
            continue;
        }
        let before = invoiced(&shop.world, &customer).await;
        let ran = migrate(&shop, arguments).await;
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        shop.world.settle().await;
        shop.world.settled_in_the_background().await;
        let charged = invoiced(&shop.world, &customer).await - before;
        assert_eq!(shown["dueNowAmount"], charged, "{shown:#}");
        let before = invoiced(&shop.world, &customer).await;
        shop.world.stripe.advance(&clock, RENEWAL + 7_200).await;
        shop.world.settle().await;
        assert_eq!(invoiced(&shop.world, &customer).await - before, next);
    }
    assert_eq!(shop.discounts().await, ["TENTH"]);
}

#[tokio::test]
async fn no_code_is_redeemed_beside_a_migration() {
    let mut shop = Shop::open(&[]).await;
    shop.offer("TENTH", &TENTH).await;
    shop.subscriber("standard").await;
    shop.change(&[("amount = 9_900", "amount = 10_900")]).await;
    let ran = migrate(&shop, &["--at", "renewal"]).await;
    assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
    for wish in [
        json!({"planTier": "standard", "promotionCode": "TENTH"}),
        json!({"planTier": "enterprise", "when": "now", "promotionCode": "TENTH"}),
    ] {
        for answer in [
            shop.previewed(wish.clone()).await,
            shop.put(wish.clone()).await,
        ] {
            assert_eq!(answer.problem(), (409, "migration_pending"), "{answer:?}");
        }
    }
    assert_eq!(shop.redeemed("TENTH").await, 0);
}

#[tokio::test]
async fn only_stripe_says_what_a_code_takes_off() {
    let mut shop = Shop::open(&[]).await;
    shop.customer().await;
    shop.offer("TENTH", &TENTH).await;
    for (member, value) in [
        ("percentOff", json!("50")),
        ("coupon", json!("free")),
        ("discounts", json!([])),
    ] {
        let mut wish = json!({"planTier": "standard", "promotionCode": "TENTH"});
        wish[member] = value;
        for answer in [
            shop.previewed(wish.clone()).await,
            shop.subscribe(wish.clone()).await,
            shop.put(wish.clone()).await,
        ] {
            assert_eq!(answer.problem(), (400, "unknown_field"), "{answer:?}");
            let detail = answer.body["detail"].as_str().unwrap();
            assert!(detail.contains(member), "{detail}");
        }
    }
    for wrong in [json!(10), json!(["TENTH"]), json!({"code": "TENTH"})] {
        let wish = json!({"planTier": "standard", "promotionCode": wrong});
        let answer = shop.subscribe(wish).await;
        assert_eq!(answer.problem(), (400, "invalid_request"), "{answer:?}");
    }
}
