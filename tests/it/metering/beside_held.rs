//! What runs for all organizations goes on beside one that is held, and says that it
//! failed.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use sqlx::{AssertSqlSafe, Postgres, Transaction};
use valuecanvas_billing::metering::reports::Report;
use valuecanvas_billing::tenancy::auth::{Permission, Role};

use super::billed::Billed;
use super::tenant::Tenant;
use crate::subscriptions::world::VISA;
use crate::support::service::Options;
use crate::support::{TestDatabase, TestService};

/// A session that has locked these rows and goes on.
async fn holding(db: &TestDatabase, rows: &str) -> Transaction<'static, Postgres> {
    let mut tx = db.pool.begin().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("SELECT 1 FROM {rows} FOR UPDATE")))
        .execute(&mut *tx)
        .await
        .unwrap();
    tx
}

async fn until(service: &TestService, nothing_left_of: &str) {
    for _ in 0..1_000 {
        if service.db.count(nothing_left_of).await == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("there is still one of {nothing_left_of}");
}

async fn until_failing(service: &TestService, part: &str) {
    let series = format!("background_part_failing{{part=\"{part}\"}}");
    for _ in 0..1_000 {
        if service.metric(&series).await == Some(1) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the {part} never failed");
}

/// Another subscriber, beside the one that `billed` has had.
async fn second_subscriber(billed: &mut Billed) -> Tenant {
    let customer = billed.world.stripe.customer(VISA, None).await;
    let service = &billed.world.service;
    let organization = service.organization("Second").await;
    let key = service.api_key(organization, &Permission::ALL).await;
    billed.world.token = service.token(organization, Role::Owner).await;
    billed.world.organization = organization;
    billed.world.adopt(&customer).await;
    billed.world.create("standard").await.ok();
    billed.world.settle().await;
    Tenant { organization, key }
}

#[tokio::test]
async fn a_held_organization_keeps_no_others_usage_from_stripe() {
    let mut billed = Billed::start().await;
    billed.record("a", "llm_tokens", "500").await;
    let held = billed.tenant.organization;
    let other = second_subscriber(&mut billed).await;
    other.consume(billed.service(), "llm_tokens", 7).await.ok();
    let results = |report: &Report| (report.sent, report.failed, report.is_complete());
    let db = billed.service().db.clone();

    // While its usage is recorded, and while it is told.
    let quotas = format!("usage_quotas WHERE organization_id = '{held}'");
    let reports = format!("usage_reports WHERE organization_id = '{held}'");
    for rows in [quotas, reports] {
        let holder = holding(&db, &rows).await;
        let report = billed.report(Timestamp::now()).await;
        assert_eq!(results(&report), (1, 1, false), "{rows}");
        holder.rollback().await.unwrap();
        let report = billed.report(Timestamp::now()).await;
        assert_eq!(results(&report), (1, 0, true), "{rows}");
        db.execute("UPDATE usage_reports SET sent_at = NULL").await;
    }
}

#[tokio::test]
async fn a_held_organization_keeps_no_others_reservation() {
    let service = TestService::intake_only().await;
    let held = Tenant::of(&service, "Held").await;
    let other = Tenant::of(&service, "Other").await;
    for tenant in [&held, &other] {
        tenant.consume(&service, "agent_executions", 1).await.ok();
    }
    // The held one has a whole batch of them, and older ones.
    service
        .db
        .execute(&format!(
            "INSERT INTO usage_reservations (organization_id, id, metric, period_start, quantity,
                                             reserved_at, expires_at)
             SELECT organization_id, gen_random_uuid(), metric, period_start, 1,
                    now() - interval '2 h',
                    now() - CASE WHEN organization_id = '{0}' THEN interval '1 h' ELSE interval '1 s' END
               FROM usage_totals, generate_series(1, 600) n
              WHERE organization_id = '{0}' OR n = 1;
             UPDATE usage_totals SET reserved = 600",
            held.organization
        ))
        .await;
    let quotas = format!(
        "usage_quotas WHERE organization_id = '{}'",
        held.organization
    );
    let holder = holding(&service.db, &quotas).await;
    let _sweeping = TestService::beside_with(&service, Options::default()).await;
    let of = |tenant: &Tenant| {
        let organization = tenant.organization;
        format!("usage_reservations WHERE organization_id = '{organization}'")
    };
    until(&service, &of(&other)).await;
    until_failing(&service, "reservation_sweeper").await;
    assert_eq!(service.db.count(&of(&held)).await, 600);
    holder.rollback().await.unwrap();
}

#[tokio::test]
async fn a_held_organization_keeps_no_others_forgotten_level() {
    // One of the two comes first.
    for held in 0..2 {
        let service = TestService::intake_only().await;
        let tenants = [
            Tenant::of(&service, "One").await,
            Tenant::of(&service, "Other").await,
        ];
        for tenant in &tenants {
            tenant.consume(&service, "storage_gb", 1).await.ok();
        }
        service
            .db
            .execute(
                "UPDATE usage_totals SET period_start = date_trunc('second', now()) - interval '40 days',
                        period_end = now() - interval '3 hours', last_at = now() - interval '5 hours';
                 UPDATE usage_events SET period_start = date_trunc('second', now()) - interval '40 days';
                 INSERT INTO usage_pending_levels (organization_id, metric, period_start, event_id,
                                                   occurred_at, quantity)
                 SELECT organization_id, metric, period_start, 'last', now() - interval '4 hours', 42
                   FROM usage_totals",
            )
            .await;
        let of = |n: usize| {
            let organization = tenants[n].organization;
            format!("WHERE organization_id = '{organization}'")
        };
        let holder = holding(&service.db, &format!("usage_quotas {}", of(held))).await;
        let _sweeping = TestService::beside_with(&service, Options::default()).await;
        until(&service, &format!("usage_pending_levels {}", of(1 - held))).await;
        // Only the first service of a process shows its metrics.
        if held == 0 {
            until_failing(&service, "levels_dated_ahead").await;
        }
        holder.rollback().await.unwrap();
    }
}

/// Who has no price for a metric in Stripe, over a period's end.
#[tokio::test]
async fn what_no_item_bills_is_found_after_its_period_too() {
    let at = Timestamp::now().as_second() - 5 * 3_600;
    let billed = Billed::without_subscription(Some(at)).await;
    // Free usage is no finding, whatever is bought afterwards.
    billed.record("free", "api_calls", "700000").await;
    billed.catch_up().await;
    let prices = billed.world.stripe.list("/v1/prices", &[]).await;
    let fee = |tier: &str| {
        let key = format!("valuecanvas_{tier}_monthly");
        let fee = prices.iter().find(|price| price["lookup_key"] == *key);
        fee.unwrap()["id"].as_str().unwrap().to_owned()
    };
    let standard = fee("standard");
    let fields = [
        ("customer", &*billed.customer),
        ("items[0][price]", &standard),
    ];
    billed.world.stripe.post("/v1/subscriptions", &fields).await;
    billed.world.settle().await;
    billed.catch_up().await;
    let found = async || {
        let report = billed.report(Timestamp::now()).await;
        let found = report.unbilled.iter();
        let found = found.map(|one| (one.reason.as_str(), one.units.0.normalize().to_string()));
        found.collect::<Vec<_>>()
    };
    assert_eq!(found().await, []);
    billed.record("a", "api_calls", "500000").await;
    let lost = [("no_metered_item", "400000".to_owned())];
    assert_eq!(found().await, lost);

    // The period is cut off.
    billed.catch_up().await;
    billed
        .in_dashboard(&[("billing_cycle_anchor", "now")])
        .await;
    billed.world.settle().await;
    billed.world.settled_in_the_background().await;
    let usage = billed.tenant.usage(billed.service(), "api_calls").await;
    assert_eq!(usage["usage"], json!(0));
    assert_eq!(found().await, lost);

    // The next one has terms by which nothing was lost, and is cut off by its end.
    billed.catch_up().await;
    let item = billed.subscription().await["items"]["data"][0]["id"].clone();
    let enterprise = fee("enterprise");
    let fields = [
        ("items[0][id]", item.as_str().unwrap()),
        ("items[0][price]", &enterprise),
    ];
    billed.in_dashboard(&fields).await;
    billed.world.settle().await;
    billed.world.settled_in_the_background().await;
    assert_eq!(billed.world.plan().await.0, "enterprise");
    assert_eq!(found().await, lost);
    billed
        .tenant
        .set_quota(billed.service(), "api_calls", "unlimited", None)
        .await;
    assert_eq!(found().await, lost);
    billed.catch_up().await;
    billed.world.cancel(true).await.ok();
    billed.world.settle().await;
    assert_eq!(billed.world.plan().await.0, "free");
    assert_eq!(found().await, lost);

    // Until Stripe takes no usage of that time any more.
    billed
        .service()
        .db
        .execute(
            "UPDATE usage_totals SET period_start = period_start - interval '35 days',
                    period_end = period_end - interval '35 days',
                    terms_kept_at = terms_kept_at - interval '35 days'",
        )
        .await;
    assert_eq!(found().await, []);
}

/// The subscription itself is cut off: its terms are gone with it.
#[tokio::test]
async fn what_no_item_billed_of_a_subscription_that_ended_is_found() {
    let at = Timestamp::now().as_second() - 5 * 3_600;
    let billed = Billed::without_subscription(Some(at)).await;
    let prices = billed.world.stripe.list("/v1/prices", &[]).await;
    let fee = prices
        .iter()
        .find(|price| price["lookup_key"] == "valuecanvas_standard_monthly");
    let fee = fee.unwrap()["id"].as_str().unwrap();
    let fields = [("customer", &*billed.customer), ("items[0][price]", fee)];
    billed.world.stripe.post("/v1/subscriptions", &fields).await;
    billed.catch_up().await;
    billed.world.settle().await;
    billed.record("a", "api_calls", "500000").await;
    billed.catch_up().await;
    billed.world.cancel(true).await.ok();
    billed.world.settle().await;
    assert_eq!(billed.world.plan().await.0, "free");
    let report = billed.report(Timestamp::now()).await;
    let found = serde_json::to_value(&report.unbilled).unwrap();
    assert_eq!(found.as_array().unwrap().len(), 1, "{found:#}");
    assert_eq!(
        [&found[0]["reason"], &found[0]["units"]],
        [&json!("no_metered_item"), &json!(400_000)]
    );
}
