//! Telling Stripe of usage: whole units, each once.

use jiff::Timestamp;
use serde_json::{Value, json};
use valuecanvas_billing::catalogue::OverLimit;
use valuecanvas_billing::maintenance;
use valuecanvas_billing::metering::reports::Report;

use super::billed::Billed;
use super::tenant::{EVENTS, Tenant};
use crate::subscriptions::world::{UPCOMING, text};
use crate::support::program::{Ran, program_with_stripe, run_beside, run_on};

fn books(report: &Report, metric: &str) -> Value {
    let books = report.metrics.iter().find(|books| books.metric == metric);
    serde_json::to_value(books.unwrap()).unwrap()
}

#[tokio::test]
async fn usage_is_told_whole_once_and_the_books_agree() {
    let billed = Billed::start().await;
    billed.record("a", "llm_tokens", "1000000.6").await;
    billed.record("b", "llm_tokens", "0.3").await;
    billed.record("c", "storage_gb", "120").await;
    let now = Timestamp::now();
    let first = billed.report(now).await;
    assert_eq!((first.sent, first.failed), (2, 0));
    assert_eq!(
        books(&first, "llm_tokens"),
        json!({"metric": "llm_tokens", "counted": 1_000_000, "reported": 1_000_000, "pending": 0})
    );
    // Again at once: what came since, and nothing twice.
    assert_eq!(billed.report(now).await.sent, 0);
    billed.record("d", "llm_tokens", "0.2").await;
    billed.record("e", "storage_gb", "110").await;
    let second = billed.report(now).await;
    assert_eq!((second.sent, second.failed), (2, 0));
    assert_eq!(books(&second, "llm_tokens")["pending"], 0);
    assert_eq!(billed.in_stripe("llm_tokens").await, json!(1_000_001));
    assert_eq!(billed.in_stripe("storage_gb").await, json!(110));
}

#[tokio::test]
async fn periods_that_begin_in_one_hour_are_told_apart() {
    let billed = Billed::start().await;
    billed.record("a", "llm_tokens", "5").await;
    let now = Timestamp::now();
    billed.report(now).await;
    // Another period that began in the same hour.
    let db = &billed.service().db;
    db.execute(
        "INSERT INTO usage_totals (organization_id, metric, period_start, period_end, total)
         SELECT organization_id, metric, period_start - interval '1 second', period_start, 7
           FROM usage_totals WHERE metric = 'llm_tokens'",
    )
    .await;
    db.execute("UPDATE billing_subscriptions SET stripe_created_at = now() - interval '1 hour'")
        .await;
    billed.report(now).await;
    let names = db
        .value("SELECT count(DISTINCT identifier) FROM usage_reports")
        .await;
    let longest = db
        .value("SELECT max(length(identifier)) <= 100 FROM usage_reports")
        .await;
    assert_eq!((names.as_str(), longest.as_str()), ("2", "true"));
}

#[tokio::test]
async fn stripe_bills_what_is_over_an_operators_quota() {
    let billed = Billed::start().await;
    let (tenant, service) = (&billed.tenant, billed.service());
    billed.record("a", "agent_executions", "10000").await;
    let overage = async |expected: Option<i64>, rate: Option<&str>| {
        billed.report(Timestamp::now()).await;
        let usage = tenant.usage(service, "agent_executions").await;
        assert_eq!(usage["overageAmount"], json!(expected), "{usage}");
        let quotas = tenant.get(service, "/api/billing/quotas").await.ok();
        let quotas = quotas["data"].as_array().unwrap();
        let quota = quotas
            .iter()
            .find(|quota| quota["metric"] == "agent_executions");
        assert_eq!(quota.unwrap()["overageRate"], json!(rate));
        assert_eq!(usage["overageRate"], json!(rate));
        let upcoming = tenant.get(service, UPCOMING).await.ok();
        assert_eq!(upcoming["totalAmount"], 9_900 + expected.unwrap_or(0));
    };
    overage(Some(50_000), Some("0.1")).await;
    for (limit, kind, expected) in [
        ("20000", None, Some(0)),
        ("9000", None, Some(10_000)),
        ("4000", None, Some(60_000)),
        ("unlimited", None, None),
        ("6000", Some(OverLimit::Overage), Some(40_000)),
        ("6000", Some(OverLimit::Hard), None),
        ("plan", None, Some(50_000)),
    ] {
        tenant
            .set_quota(service, "agent_executions", limit, kind)
            .await;
        overage(expected, expected.map(|_| "0.1")).await;
    }
}

#[tokio::test]
async fn what_no_item_bills_is_found() {
    let billed = Billed::without_subscription(None).await;
    // The fee alone, as made in Stripe's dashboard.
    let prices = billed.world.stripe.list("/v1/prices", &[]).await;
    let fee = prices
        .iter()
        .find(|price| price["lookup_key"] == "valuecanvas_standard_monthly");
    let fee = fee.unwrap()["id"].as_str().unwrap();
    let fields = [("customer", &*billed.customer), ("items[0][price]", fee)];
    billed.world.stripe.post("/v1/subscriptions", &fields).await;
    billed.world.settle().await;
    billed.record("a", "api_calls", "100000").await;
    assert!(billed.report(Timestamp::now()).await.unbilled.is_empty());
    billed.record("b", "api_calls", "400000.5").await;
    let report = billed.report(Timestamp::now()).await;
    let found = serde_json::to_value(&report.unbilled).unwrap();
    assert_eq!(
        (&found[0]["metric"], &found[0]["units"]),
        (&json!("api_calls"), &json!(400_000))
    );
    assert_eq!(found[0]["reason"], "no_metered_item");
    let metric = "usage_unbilled_total{reason=\"no_metered_item\"}";
    assert!(billed.service().metric(metric).await >= Some(1));
}

#[tokio::test]
async fn a_report_whose_answer_was_lost_is_told_once() {
    let billed = Billed::start().await;
    billed.record("a", "llm_tokens", "500").await;
    let now = Timestamp::now();
    billed.report(now).await;
    // As after a crash between Stripe and the mark.
    billed
        .service()
        .db
        .execute("UPDATE usage_reports SET sent_at = NULL")
        .await;
    let again = billed.report(now).await;
    assert_eq!((again.sent, again.failed), (1, 0));
    assert_eq!(billed.in_stripe("llm_tokens").await, json!(500));
    // Whose fate is older than Stripe's memory, is an operator's to look at.
    billed
        .service()
        .db
        .execute(
            "UPDATE usage_reports SET sent_at = NULL, attempted_at = now() - interval '25 hours'",
        )
        .await;
    let doubtful = billed.report(now).await;
    assert_eq!((doubtful.sent, doubtful.doubtful), (0, 1));
}

#[tokio::test]
async fn two_runs_at_once_tell_of_it_once() {
    let billed = Billed::start().await;
    billed.record("a", "llm_tokens", "77").await;
    let now = Timestamp::now();
    let (one, two) = tokio::join!(billed.report(now), billed.report(now));
    assert_eq!(one.failed + two.failed, 0);
    assert_eq!(billed.in_stripe("llm_tokens").await, json!(77));
    let sum = "SELECT sum(units) FROM usage_reports";
    assert_eq!(billed.service().db.value(sum).await, "77");
}

#[tokio::test]
async fn overage_is_in_the_upcoming_invoice() {
    let billed = Billed::start().await;
    billed.record("a", "agent_executions", "5003").await;
    billed.report(Timestamp::now()).await;
    let usage = billed
        .tenant
        .usage(billed.service(), "agent_executions")
        .await;
    assert_eq!(
        (&usage["overage"], &usage["overageAmount"]),
        (&json!(3), &json!(30))
    );
    let upcoming = billed.tenant.get(billed.service(), UPCOMING).await.ok();
    assert_eq!(upcoming["overages"][0]["overageAmount"], 30);
    assert_eq!(upcoming["totalAmount"], 9_930);
}

#[tokio::test]
async fn who_is_not_billed_is_not_reported() {
    let billed = Billed::start().await;
    let free = Tenant::of(billed.service(), "Free").await;
    let body = json!({"id": "a", "metric": "llm_tokens", "quantity": 5});
    free.post(billed.service(), EVENTS, &body).await.ok();
    let report = billed.report(Timestamp::now()).await;
    assert_eq!((report.sent, report.metrics.len()), (0, 0));
}

async fn report_by_command(billed: &Billed) -> Ran {
    let command = program_with_stripe(
        &billed.service().db,
        &billed.world.stripe.sandbox.url(),
        &["usage", "report"],
    );
    run_beside(command).await
}

#[tokio::test]
async fn a_run_that_could_not_tell_all_is_a_failed_run() {
    let billed = Billed::start().await;
    billed.record("a", "llm_tokens", "500").await;
    let db = &billed.service().db;
    // What Stripe refuses, and what it may take twice.
    for (fault, last) in [(true, "false"), (false, "true")] {
        if fault {
            db.execute("UPDATE billing_customers SET stripe_customer_id = 'cus_unknown'")
                .await;
            db.execute("UPDATE billing_subscriptions SET stripe_customer_id = 'cus_unknown'")
                .await;
        } else {
            let customer = &billed.customer;
            for table in [
                "billing_customers",
                "billing_subscriptions",
                "usage_reports",
            ] {
                db.execute(&format!(
                    "UPDATE {table} SET stripe_customer_id = '{customer}'"
                ))
                .await;
            }
        }
        let ran = report_by_command(&billed).await;
        assert_eq!(ran.status, i32::from(fault), "{}{}", ran.stdout, ran.stderr);
        assert_eq!(db.value(LAST_RUN).await, last);
    }
    db.execute(
        "UPDATE usage_reports SET sent_at = NULL, attempted_at = now() - interval '25 hours'",
    )
    .await;
    assert_eq!(report_by_command(&billed).await.status, 1);
    assert_eq!(db.value(LAST_RUN).await, "false");

    let failing = "billing_scheduled_job_failing{task=\"usage-report\"}";
    maintenance::measure(&db.service_pool()).await.unwrap();
    assert_eq!(billed.service().metric(failing).await, Some(1));
    let doctor = run_on(db, &["doctor", "--json"]).await;
    let checks = doctor.json();
    let check = |name: &str| {
        let mut checks = checks.as_array().unwrap().iter();
        checks.find(|check| check["name"] == name).unwrap().clone()
    };
    assert_eq!(check("usage-report")["verdict"], "warning", "{checks:#}");
    let unsent = check("usage-reports-sent");
    assert_ne!(unsent["verdict"], "ok", "{checks:#}");
    assert!(text(&unsent, "fix").contains("runbook"), "{unsent:#}");
}

const LAST_RUN: &str = "SELECT succeeded FROM billing_job_runs WHERE job = 'usage-report'
                         ORDER BY finished_at DESC LIMIT 1";

/// A failure that is certain says nothing of an attempt before it.
#[tokio::test]
async fn a_doubtful_report_stays_doubtful_whatever_fails_next() {
    let billed = Billed::start().await;
    let db = &billed.service().db;
    billed.record("a", "llm_tokens", "5").await;
    let attempted = "SELECT attempted_at IS NOT NULL FROM usage_reports";
    let fault = async |name: &str| {
        let fields = [
            ("fault", name),
            ("every", "1"),
            ("path", "/v1/billing/meter_events"),
        ];
        billed.world.stripe.clear_faults().await;
        billed.world.stripe.fault(&fields).await;
        let report = billed.report(Timestamp::now()).await;
        assert_eq!((report.sent, report.failed), (0, 1), "{name}");
    };
    fault("rate_limit").await;
    assert_eq!(
        db.value(attempted).await,
        "false",
        "Stripe has not counted it"
    );
    fault("drop_after_acting").await;
    let first = "SELECT attempted_at FROM usage_reports";
    let first_at = db.value(first).await;
    fault("rate_limit").await;
    assert_eq!(db.value(first).await, first_at);
    // Stripe has forgotten the identifier since.
    db.execute("UPDATE usage_reports SET attempted_at = now() - interval '25 hours'")
        .await;
    billed.world.stripe.clear_faults().await;
    let report = billed.report(Timestamp::now()).await;
    assert_eq!((report.sent, report.doubtful), (0, 1));
    assert_eq!(billed.in_stripe("llm_tokens").await, json!(5));
}

/// Recorded in time, and sent when the invoice was made already.
#[tokio::test]
async fn a_report_that_stripe_gets_after_the_invoice_is_found_as_unbilled() {
    let billed = Billed::start().await;
    let db = &billed.service().db;
    billed.record("a", "agent_executions", "6000").await;
    let fields = [
        ("fault", "rate_limit"),
        ("every", "1"),
        ("path", "/v1/billing/meter_events"),
    ];
    billed.world.stripe.fault(&fields).await;
    assert_eq!(billed.report(Timestamp::now()).await.failed, 1);
    billed.world.stripe.clear_faults().await;
    // Its period is over, and invoiced an hour later.
    let over = "UPDATE usage_totals SET closed_at = now() - interval '1 second'
                 WHERE metric = 'agent_executions'";
    db.execute(over).await;
    let report = billed.report(Timestamp::now()).await;
    assert_eq!(report.sent, 1);
    let found = report.unbilled.first().expect("it is on no invoice");
    assert_eq!(found.units.0, 1_000.into());
    assert_eq!(found.reason.as_str(), "told_too_late");
}

/// What an operator promised beside a price is no free use without one.
#[tokio::test]
async fn an_overage_override_counts_for_nothing_without_a_rate() {
    let billed = Billed::start().await;
    let (tenant, service) = (&billed.tenant, billed.service());
    tenant
        .set_quota(service, "agent_executions", "50", Some(OverLimit::Overage))
        .await;
    let over = tenant.consume(service, "agent_executions", 60).await.ok();
    assert_eq!(over["allowed"], true);
    billed.world.cancel(true).await.ok();
    billed.world.settle().await;
    let quotas = tenant.get(service, "/api/billing/quotas").await.ok();
    let quotas = quotas["data"].as_array().unwrap();
    let quota = quotas
        .iter()
        .find(|quota| quota["metric"] == "agent_executions")
        .unwrap();
    assert_eq!(quota["quota"], 50);
    assert_ne!(quota["overLimit"], "overage", "{quota}");
    let question = json!({"metric": "agent_executions", "quantity": 10_000});
    let asked = tenant.post(service, super::tenant::CHECK, &question).await;
    let plan = "SELECT over_limit FROM usage_quotas WHERE metric = 'agent_executions'";
    let kind = service.db.value(plan).await;
    assert_eq!(quota["overLimit"], json!(kind));
    if kind == "hard" {
        assert_eq!(asked.problem(), (402, "QUOTA_EXCEEDED"));
    }
}
