//! Usage over the quota is charged when its price goes, once, at the rate that it was
//! used at, whoever changes the plan.

mod in_stripe;

use rust_decimal::Decimal;
use serde_json::{Value, json};
use valuecanvas_billing::catalogue::OverLimit;

pub use in_stripe::change_in_stripe;

use super::shop::Shop;
use crate::metering::tenant::Tenant;
use crate::subscriptions::world::{DAY, PREVIEW};
use crate::support::TestService;
use crate::support::service::Options;

/// 45,000 over the 5,000 of the standard plan, at 0.10.
const OVER: i64 = 450_000;

/// What Stripe was told to charge for usage at changes, invoiced or not.
pub async fn charged(shop: &Shop, customer: &str) -> Vec<i64> {
    let fields = [("customer", customer)];
    let items = shop.world.stripe.list("/v1/invoiceitems", &fields).await;
    let usage = items.iter().filter(|item| item["proration"] == false);
    let mut amounts: Vec<i64> = usage.map(|item| item["amount"].as_i64().unwrap()).collect();
    amounts.sort_unstable();
    amounts
}

async fn overage(shop: &Shop, customer: &str) -> (i64, i64) {
    shop.report().await;
    (shop.overage().await, shop.metered_lines(customer).await)
}

fn usage_line(preview: &Value) -> Option<&Value> {
    let lines = preview["lines"].as_array().unwrap();
    lines.iter().find(|line| line["proration"] == false)
}

#[tokio::test]
async fn an_upgrade_charges_what_was_over_the_old_quota() {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("standard").await;
    shop.uses("agent_executions", "50000").await;
    assert_eq!(overage(&shop, &customer).await, (OVER, OVER));
    let preview = shop.world.preview("enterprise").await.ok();
    let line = usage_line(&preview).unwrap_or_else(|| panic!("{preview:#}"));
    assert_eq!(line["amount"], OVER);
    assert_eq!(
        line["description"],
        "45000 × Agent executions over the quota (at 0.1 USD each)"
    );
    let due = preview["dueNowAmountMinor"].as_i64().unwrap();
    assert_eq!(due, OVER + 40_000, "{preview:#}");
    assert_eq!(preview["nextInvoiceAmountMinor"], 49_900);

    shop.world.change_as(&preview).await.ok();
    shop.world.settle().await;
    let invoices = shop.world.stripe.invoices(&customer).await;
    let paid = invoices.last().unwrap();
    assert_eq!(
        (&paid["total"], &paid["status"]),
        (&json!(due), &json!("paid"))
    );
    assert_eq!(charged(&shop, &customer).await, [OVER]);

    // What was charged counts no more: 5,000 of the 50,000 are used.
    let usage = shop.usage("agent_executions").await;
    assert_eq!(
        (
            &usage["usage"],
            &usage["quota"],
            &usage["remaining"],
            &usage["overage"]
        ),
        (&json!(50_000), &json!(95_000), &json!(45_000), &json!(0))
    );
    assert_eq!(overage(&shop, &customer).await, (0, 0));
    shop.uses("agent_executions", "45010").await;
    // Ten over, at the new rate of 0.05.
    assert_eq!(overage(&shop, &customer).await, (50, 50));
}

#[tokio::test]
async fn going_back_and_forth_grants_no_quota_twice_and_charges_nothing_twice() {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("standard").await;
    shop.uses("agent_executions", "50000").await;
    shop.world.change("enterprise").await.ok();
    // An hour of the higher plan, and most of its quota.
    shop.uses("agent_executions", "40000").await;
    assert_eq!(overage(&shop, &customer).await, (0, 0));
    shop.world.change("standard").await.ok();
    shop.world.settle().await;
    // 90,000 used, 45,000 charged, 5,000 included: 40,000 at 0.10.
    assert_eq!(overage(&shop, &customer).await, (400_000, 400_000));
    shop.world.change("enterprise").await.ok();
    shop.world.settle().await;
    assert_eq!(charged(&shop, &customer).await, [400_000, OVER]);
    assert_eq!(overage(&shop, &customer).await, (0, 0));
    shop.world.change("standard").await.ok();
    shop.world.settle().await;
    assert_eq!(charged(&shop, &customer).await, [400_000, OVER]);
    assert_eq!(overage(&shop, &customer).await, (0, 0));
    shop.uses("agent_executions", "7").await;
    assert_eq!(overage(&shop, &customer).await, (70, 70));
}

#[tokio::test]
async fn levels_are_charged_like_sums() {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("standard").await;
    shop.uses("storage_gb", "300").await;
    assert_eq!(overage(&shop, &customer).await, (10_000, 10_000));
    shop.world.change("enterprise").await.ok();
    shop.world.settle().await;
    assert_eq!(charged(&shop, &customer).await, [10_000]);
    // The 200 that were paid for are there besides the plan's 1,000.
    shop.uses("storage_gb", "1210").await;
    assert_eq!(overage(&shop, &customer).await, (250, 250));
    shop.uses("storage_gb", "300").await;
    shop.world.change("standard").await.ok();
    shop.world.settle().await;
    assert_eq!(overage(&shop, &customer).await, (0, 0));
}

#[tokio::test]
async fn lost_answers_charge_once() {
    for fault in [
        "drop_after_acting",
        "server_error_after_acting",
        "timeout",
        "drop",
    ] {
        let mut shop = Shop::open(&[]).await;
        let customer = shop.subscriber("standard").await;
        shop.uses("agent_executions", "50000").await;
        let path = "/v1/subscriptions/*";
        let fields = [
            ("fault", fault),
            ("method", "POST"),
            ("path", path),
            ("next", "4"),
        ];
        shop.world.stripe.fault(&fields).await;
        shop.world.change("enterprise").await;
        shop.world.stripe.clear_faults().await;
        // The same request again finishes what was left open.
        let again = shop.world.change("enterprise").await;
        assert!(matches!(again.status, 200 | 409), "{fault} {again:?}");
        shop.world.settle().await;
        shop.world.settled_in_the_background().await;
        assert_eq!(charged(&shop, &customer).await, [OVER], "{fault}");
        assert_eq!(overage(&shop, &customer).await, (0, 0), "{fault}");
        let entered = "SELECT string_agg(charged_by || ' ' || amount, ',') FROM usage_charges";
        assert_eq!(
            shop.world.service.db.value(entered).await,
            format!("change {OVER}")
        );
    }
}

#[tokio::test]
async fn a_declined_upgrade_charges_nothing() {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("standard").await;
    shop.uses("agent_executions", "50000").await;
    shop.world
        .stripe
        .use_card(&customer, "pm_card_chargeCustomerFail")
        .await;
    let refused = shop.world.change("enterprise").await;
    assert_eq!(refused.problem(), (402, "card_declined"));
    shop.world.settle().await;
    assert_eq!(charged(&shop, &customer).await, [0_i64; 0]);
    assert_eq!(overage(&shop, &customer).await, (OVER, OVER));
}

#[tokio::test]
async fn a_preview_holds_while_usage_goes_on() {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("standard").await;
    shop.uses("agent_executions", "5100").await;
    let preview = shop.world.preview("enterprise").await.ok();
    assert_eq!(usage_line(&preview).unwrap()["amount"], 1_000);
    // From the preview on the new plan is paid for, and counts.
    shop.uses("agent_executions", "900").await;
    shop.world.change_as(&preview).await.ok();
    shop.world.settle().await;
    assert_eq!(charged(&shop, &customer).await, [1_000]);
    let usage = shop.usage("agent_executions").await;
    assert_eq!(
        (&usage["usage"], &usage["quota"]),
        (&json!(6_000), &json!(50_100))
    );
}

#[tokio::test]
async fn a_preview_is_stale_once_less_would_be_charged() {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("standard").await;
    shop.uses("agent_executions", "5100").await;
    let preview = shop.world.preview("enterprise").await.ok();
    let organization = shop.world.organization;
    let tenant = Tenant {
        organization,
        key: String::new(),
    };
    let service = &shop.world.service;
    tenant
        .set_quota(service, "agent_executions", "5050", None)
        .await;
    let stale = shop.world.change_as(&preview).await;
    assert_eq!(stale.problem(), (409, "preview_stale"));
    assert_eq!(charged(&shop, &customer).await, [0_i64; 0]);
    shop.world.change("enterprise").await.ok();
    assert_eq!(charged(&shop, &customer).await, [500]);
}

/// What becomes of an operator's quota at each change, and of what was charged.
#[tokio::test]
async fn an_operators_quota_holds_through_changes() {
    let mut shop = Shop::open(&[]).await;
    let customer = shop.subscriber("standard").await;
    let organization = shop.world.organization;
    let tenant = Tenant {
        organization,
        key: String::new(),
    };
    shop.uses("agent_executions", "9000").await;
    assert_eq!(overage(&shop, &customer).await, (40_000, 40_000));
    for (limit, kind, expected) in [
        ("8000", None, 10_000),
        ("20000", None, 0),
        ("3000", None, 60_000),
        ("3000", Some(OverLimit::Hard), 0),
        ("8000", Some(OverLimit::Overage), 10_000),
    ] {
        let service = &shop.world.service;
        tenant
            .set_quota(service, "agent_executions", limit, kind)
            .await;
        assert_eq!(
            overage(&shop, &customer).await,
            (expected, expected),
            "{limit} {kind:?}"
        );
    }
    // 1,000 over the operator's 8,000 are charged; the 8,000 stay.
    shop.world.change("enterprise").await.ok();
    shop.world.settle().await;
    assert_eq!(charged(&shop, &customer).await, [10_000]);
    assert_eq!(overage(&shop, &customer).await, (0, 0));
    shop.uses("agent_executions", "100").await;
    // At the new rate of 0.05.
    assert_eq!(overage(&shop, &customer).await, (500, 500));
    tenant
        .set_quota(&shop.world.service, "agent_executions", "plan", None)
        .await;
    assert_eq!(overage(&shop, &customer).await, (0, 0));
    shop.world.change("standard").await.ok();
    shop.world.settle().await;
    // 9,100 used, 1,000 charged, 5,000 included.
    assert_eq!(overage(&shop, &customer).await, (31_000, 31_000));
}

#[tokio::test]
async fn previews_that_are_read_together_charge_each_its_own_usage() {
    let mut shop = Shop::open(&[]).await;
    let mut asked = Vec::new();
    for over in [0_i64, 300, 45_000] {
        shop.subscriber("standard").await;
        shop.uses("agent_executions", &(5_000 + over).to_string())
            .await;
        asked.push((shop.world.token.clone(), over));
    }
    // Without a key, the local engine answers.
    let options = Options {
        workers: 0,
        plans_file: Some(shop.path()),
        ..Options::default()
    };
    let mut local = TestService::beside_with(&shop.world.service, options).await;
    let previews = asked.iter().cycle().take(60).map(|(token, over)| {
        let url = format!("{}{PREVIEW}", local.base);
        let request = local.client.post(url).bearer_auth(token);
        let request = request.json(&json!({"planTier": "enterprise"}));
        async move {
            let preview: Value = request.send().await.unwrap().json().await.unwrap();
            (preview, *over)
        }
    });
    for (preview, over) in futures_util::future::join_all(previews).await {
        assert_eq!(preview["source"], "local", "{preview:#}");
        let charged = usage_line(&preview).map(|line| line["amount"].as_i64().unwrap());
        assert_eq!(charged, (over > 0).then_some(over * 10), "{preview:#}");
    }
    local.stop().await;
}

#[tokio::test]
async fn in_flexible_billing_stripe_charges_it_by_itself() {
    for by_us in [true, false] {
        let mut shop = Shop::open(&[]).await;
        let customer = shop.customer().await;
        let prices = shop
            .world
            .stripe
            .list("/v1/prices", &[("active", "true")])
            .await;
        let mut fields = vec![
            ("customer".to_owned(), customer.clone()),
            ("billing_mode[type]".to_owned(), "flexible".to_owned()),
        ];
        let standard = prices.iter().filter(|price| {
            let key = price["lookup_key"].as_str();
            key.is_some_and(|key| key.starts_with("valuecanvas_standard_monthly"))
        });
        for (n, price) in standard.enumerate() {
            fields.push((
                format!("items[{n}][price]"),
                price["id"].as_str().unwrap().to_owned(),
            ));
        }
        let fields: Vec<(&str, &str)> = fields.iter().map(|(n, v)| (&**n, &**v)).collect();
        shop.world.stripe.post("/v1/subscriptions", &fields).await;
        shop.world.settle().await;
        shop.uses("agent_executions", "50000").await;
        // Usage of the second in which prices change may belong to either.
        shop.report().await;
        tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
        if by_us {
            let preview = shop.world.preview("enterprise").await.ok();
            assert_eq!(usage_line(&preview).unwrap()["amount"], OVER, "{preview:#}");
            assert_eq!(preview["dueNowAmountMinor"], OVER + 40_000);
            shop.world.change_as(&preview).await.ok();
        } else {
            change_in_stripe(&shop, &customer, "enterprise").await;
        }
        shop.world.settle().await;
        assert_eq!(charged(&shop, &customer).await, [OVER]);
        let entered = "SELECT string_agg(charged_by || ' ' || amount, ',') FROM usage_charges";
        assert_eq!(
            shop.world.service.db.value(entered).await,
            format!("stripe {OVER}")
        );
        assert_eq!(overage(&shop, &customer).await, (0, 0));
        shop.uses("agent_executions", "45010").await;
        assert_eq!(overage(&shop, &customer).await, (50, 50));
    }
}

#[tokio::test]
async fn quotas_can_be_prorated_instead() {
    let prorated = ("usage = \"charge\"", "usage = \"prorate\"");
    let mut shop = Shop::open(&[prorated]).await;
    let now = jiff::Timestamp::now().as_second();
    let clock = shop.world.stripe.clock(now - 10 * DAY).await;
    let customer = shop.world.newcomer(&clock).await;
    shop.world.create("standard").await.ok();
    shop.world.stripe.advance(&clock, now).await;
    shop.world.settle().await;
    shop.uses("agent_executions", "50000").await;
    let preview = shop.world.preview("enterprise").await.ok();
    assert_eq!(usage_line(&preview), None, "{preview:#}");
    shop.world.change_as(&preview).await.ok();
    shop.world.settle().await;
    assert_eq!(charged(&shop, &customer).await, [0_i64; 0]);
    // Ten days of 5,000 and the rest of 50,000, as shares of the period.
    let period = "SELECT extract(epoch FROM period_end - period_start)::bigint FROM usage_totals
                   WHERE metric = 'agent_executions'";
    let whole: i64 = shop.world.service.db.value(period).await.parse().unwrap();
    let elapsed = Decimal::from(10 * DAY) / Decimal::from(whole);
    let quota = Decimal::from(50_000) - (Decimal::from(45_000) * elapsed).round_dp(4);
    let usage = shop.usage("agent_executions").await;
    let shown: Decimal = usage["quota"].to_string().parse().unwrap();
    assert_eq!(shown, quota, "{usage}");
    let over = (Decimal::from(50_000) - quota).floor() * Decimal::from(5);
    let (ours, theirs) = overage(&shop, &customer).await;
    assert_eq!((Decimal::from(ours), ours), (over, theirs));
    // Back at once: no time has passed, and the former quota holds again.
    shop.world.change("standard").await.ok();
    shop.world.settle().await;
    let usage = shop.usage("agent_executions").await;
    assert_eq!(
        usage["quota"].to_string().parse::<Decimal>().unwrap(),
        Decimal::from(5_000)
    );
    assert_eq!(overage(&shop, &customer).await, (OVER, OVER));
}
