//! Usage of a customer that was deleted in Stripe before it was told: it is lost,
//! and found once.

use jiff::Timestamp;
use reqwest::Method;
use serde_json::Value;

use super::billed::Billed;
use crate::support::program::{Ran, program_with_stripe, run_beside, run_on};

async fn command(billed: &Billed, args: &[&str]) -> Ran {
    let command = program_with_stripe(
        &billed.service().db,
        &billed.world.stripe.sandbox.url(),
        args,
    );
    run_beside(command).await
}

fn check<'a>(checks: &'a Value, name: &str) -> &'a Value {
    let mut checks = checks.as_array().unwrap().iter();
    checks.find(|check| check["name"] == name).unwrap()
}

#[tokio::test]
async fn usage_of_a_customer_that_was_deleted_is_found_once_and_fails_no_later_run() {
    for heard in [false, true] {
        let at = Timestamp::now().as_second() - 5 * 3_600;
        let billed = Billed::without_subscription(Some(at)).await;
        billed.world.create("standard").await.ok();
        billed.world.settle().await;
        billed.record("a", "api_calls", "300000").await;
        billed.record("b", "storage_gb", "3").await;
        billed.catch_up().await;
        if !heard {
            billed.world.deliver_nothing().await;
        }
        let path = format!("/v1/customers/{}", billed.customer);
        billed.world.stripe.send(Method::DELETE, &path, &[]).await;
        billed.world.settle().await;
        let refused = "usage_reports_total{result=\"refused\"}";
        let before = billed.service().metric(refused).await;
        let first = billed.report(Timestamp::now()).await;
        assert_eq!((first.sent, first.failed, first.refused), (0, 0, 2));
        // What was lost, for whom, and how much: the storage is within its quota.
        let found: Vec<(&str, i64, &str)> = first
            .unbilled
            .iter()
            .map(|found| {
                assert_eq!(found.organization_id, billed.tenant.organization);
                let units = i64::try_from(found.units.0).unwrap();
                (&*found.metric, units, found.reason.as_str())
            })
            .collect();
        assert_eq!(found, [("api_calls", 200_000, "customer_deleted")]);
        let second = billed.report(Timestamp::now()).await;
        assert_eq!((second.sent, second.failed, second.refused), (0, 0, 0));
        assert_eq!(second.unbilled.len(), 1);
        let books = second.metrics.iter().map(|books| books.pending.0);
        assert!(books.into_iter().all(|pending| pending.is_zero()));
        let ran = command(&billed, &["usage", "report"]).await;
        assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
        assert!(ran.stdout.contains("customer_deleted"), "{}", ran.stdout);

        let doctor = run_on(&billed.service().db, &["doctor", "--json"]).await;
        let checks = doctor.json();
        assert_eq!(check(&checks, "usage-reports-sent")["verdict"], "ok");
        let lost = check(&checks, "unbilled-usage");
        assert_eq!(lost["verdict"], "warning", "{lost:#}");
        let organization = billed.tenant.organization.to_string();
        assert!(lost.to_string().contains(&organization), "{lost:#}");
        let after = billed.service().metric(refused).await;
        assert_eq!(after, before.map(|before| before + 2));
        let drift = command(&billed, &["subscriptions", "reconcile"]).await;
        let said = "the customer was deleted in Stripe before the usage was reported";
        assert!(drift.stdout.contains(said), "{}", drift.stdout);
    }
}

#[tokio::test]
async fn usage_of_a_customer_that_this_key_does_not_know_stays_to_be_told() {
    let billed = Billed::start().await;
    billed.record("a", "api_calls", "300000").await;
    let db = &billed.service().db;
    // As with the key of another account: nobody was deleted.
    let change = "UPDATE billing_subscriptions SET stripe_customer_id = 'cus_elsewhere'";
    db.execute(change).await;
    for _ in 0..2 {
        let report = billed.report(Timestamp::now()).await;
        assert_eq!((report.failed, report.refused), (1, 0));
    }
    let sql = format!(
        "UPDATE usage_reports SET stripe_customer_id = '{}'",
        billed.customer
    );
    db.execute(&sql).await;
    assert_eq!(billed.report(Timestamp::now()).await.sent, 1);
}
