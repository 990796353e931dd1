//! What is mailed, to whom, and once.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::server::{
    ACTION, FAILED, MailServer, hurried, of_invoice, options, organization, searched, sending,
    switched_on, until, until_metric,
};
use crate::metering::tenant::Tenant;
use crate::support::events::{event, invoice, subscription};
use crate::support::program::run_on;
use crate::support::{TestDatabase, TestService};
use valuecanvas_billing::tenancy::auth::Permission;

/// Mails have been on for long, so that this month's cards are told of.
async fn long_since(db: &TestDatabase) {
    db.execute("UPDATE mail_switch SET switched_on_at = now() - interval '90 days'")
        .await;
}

fn in_days(days: i64) -> Timestamp {
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    now + SignedDuration::from_hours(24 * days)
}

/// A trial that began a while ago.
fn trial(id: &str, customer: &str, ends_at: Timestamp) -> Value {
    let mut object = subscription(id, customer, "trialing", "standard");
    object["trial_start"] = json!(in_days(-20).as_second());
    object["trial_end"] = json!(ends_at.as_second());
    let now = Timestamp::now().as_second();
    event(
        &format!("evt_{id}"),
        "customer.subscription.created",
        now,
        object,
    )
}

/// A card that expires at the end of this month.
fn card(id: &str, customer: &str) -> Value {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    let object = json!({
        "id": id, "object": "payment_method", "type": "card", "customer": customer,
        "card": {"brand": "visa", "last4": "4242", "exp_month": today.month(),
                 "exp_year": today.year(), "funding": "credit"},
        "livemode": false, "metadata": {}, "created": 1_760_000_000, "billing_details": {},
    });
    let now = Timestamp::now().as_second();
    event(&format!("evt_{id}"), "payment_method.attached", now, object)
}

#[tokio::test]
async fn each_fact_is_mailed_once_to_the_organizations_address() {
    let server = MailServer::start();
    let service = sending(server.config()).await;
    let db = &service.db;
    long_since(db).await;
    let acme = organization(db, "cus_a", "pay@example.com").await;
    db.execute(&format!(
        "UPDATE organizations SET name = 'Rock & Roll' WHERE id = '{acme}'"
    ))
    .await;
    let ends_at = in_days(2);
    for event in [
        of_invoice(FAILED, "in_failed", "cus_a"),
        // Stripe tells of one payment twice: that it failed, and that its payer has to act.
        of_invoice(FAILED, "in_action", "cus_a"),
        of_invoice(ACTION, "in_action", "cus_a"),
        trial("sub_a", "cus_a", ends_at),
        card("pm_a", "cus_a"),
    ] {
        service.deliver(&event).await;
        // Again, as Stripe may.
        service.deliver(&event).await;
    }
    service.settle().await;
    let key = service.api_key(acme, &Permission::ALL).await;
    let tenant = Tenant {
        organization: acme,
        key,
    };
    // Standard has 100,000 of them.
    tenant.consume(&service, "api_calls", 85_000).await.ok();
    until(
        db,
        "mails WHERE kind = 'quota_warning' AND status = 'sent'",
        1,
    )
    .await;
    tenant.consume(&service, "api_calls", 20_000).await.ok();
    hurried(db, "status = 'sent'", 6).await;
    hurried(db, "status = 'withdrawn'", 1).await;
    searched(db).await;
    assert_eq!(db.count("mails").await, 7);
    let withdrawn = "SELECT kind || ' ' || error_message FROM mails WHERE status = 'withdrawn'";
    assert_eq!(
        db.value(withdrawn).await,
        "payment_failed the payer has to act, and is told so"
    );

    let mails = server.count(6).await;
    assert_eq!(mails.len(), 6, "{mails:#?}");
    let day = ends_at.strftime("%-d %B %Y").to_string();
    let subjects = [
        "Billing: your payment of 99.00 USD failed".to_owned(),
        "Billing: please confirm your payment of 99.00 USD".to_owned(),
        format!("Billing: your trial ends on {day}"),
        "Billing: your card expires at the end of this month".to_owned(),
        "Billing: 80 % of API calls used".to_owned(),
        "Billing: all of API calls used".to_owned(),
    ];
    let mut ids = Vec::new();
    for mail in &mails {
        let headers = &mail["headers"];
        assert!(
            subjects.iter().any(|one| headers["subject"] == **one),
            "{mail:#}"
        );
        assert_eq!(mail["to"], json!(["pay@example.com"]));
        assert_eq!(mail["sender"], "billing@acme.example");
        assert_eq!(headers["from"], "Acme Billing <billing@acme.example>");
        assert_eq!(headers["auto-submitted"], "auto-generated");
        assert!(mail["text"].as_str().unwrap().contains("Rock & Roll"));
        assert!(mail["html"].as_str().unwrap().contains("Rock &amp; Roll"));
        ids.push(headers["message-id"].as_str().unwrap());
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 6);
    let of = |subject: &str| {
        let found = mails.iter().find(|mail| {
            let said = mail["headers"]["subject"].as_str().unwrap();
            said.contains(subject)
        });
        found.unwrap()["text"].as_str().unwrap()
    };
    assert!(of("failed").contains("https://invoice.stripe.com/i/in_failed"));
    assert!(of("confirm").contains("https://invoice.stripe.com/i/in_action"));
    assert!(of("trial").contains("will be charged"));
    assert!(of("card").contains("ending in 4242"));
    assert!(of("80 %").contains("85,000 of 100,000"));
    let sent = "mails_total{kind=\"trial_ending\",result=\"sent\"}";
    until_metric(&service, sent, 1).await;
    let never = "mails_total{kind=\"trial_ending\",result=\"failed\"}";
    assert_eq!(service.metric(never).await, Some(0));
}

#[tokio::test]
async fn what_happened_before_mails_were_switched_on_is_told_to_nobody() {
    let server = MailServer::start();
    let mut off = TestService::start().await;
    let db = off.db.clone();
    let acme = organization(&db, "cus_a", "pay@example.com").await;
    for event in [
        of_invoice(FAILED, "in_old", "cus_a"),
        of_invoice(ACTION, "in_older", "cus_a"),
        trial("sub_a", "cus_a", in_days(2)),
        card("pm_a", "cus_a"),
    ] {
        off.deliver(&event).await;
    }
    let key = off.api_key(acme, &Permission::ALL).await;
    let tenant = Tenant {
        organization: acme,
        key,
    };
    off.settle().await;
    tenant.consume(&off, "api_calls", 100_000).await.ok();
    until(&db, "usage_alerts", 2).await;
    off.stop().await;
    // Facts of the second in which mails are switched on are told.
    db.execute("UPDATE usage_alerts SET raised_at = raised_at - interval '1 minute'")
        .await;
    let service = TestService::on(db.clone(), options(server.config())).await;
    switched_on(&db).await;
    searched(&db).await;
    // An old event that comes late is old, and the samples' organization has no customers.
    let old = Timestamp::now().as_second() - 600;
    let late = invoice("in_late", "cus_a", "sub_a", "open");
    service.deliver(&event("evt_late", FAILED, old, late)).await;
    db.execute(
        "INSERT INTO usage_alerts (organization_id, metric, period_start, threshold, id, period_end,
                                   usage, quota, raised_at, next_attempt_at)
         VALUES ('5a3b1e00-0000-7000-8000-000000000001', 'api_calls', now(), 80,
                 gen_random_uuid(), now() + interval '1 day', 8, 10, now(), now())",
    )
    .await;
    service.settle().await;
    searched(&db).await;
    assert_eq!(db.value("SELECT json_agg(m) FROM mails m").await, "");

    // What happens now is told.
    service
        .deliver(&of_invoice(ACTION, "in_new", "cus_a"))
        .await;
    server.count(1).await;

    // Nobody has searched for more than a day: mails were off, and begin anew.
    service
        .deliver(&of_invoice(FAILED, "in_newer", "cus_a"))
        .await;
    service.settle().await;
    until(&db, "mails WHERE status = 'pending'", 1).await;
    db.execute(
        "UPDATE mails SET next_attempt_at = now() + interval '1 hour' WHERE status = 'pending'",
    )
    .await;
    db.execute("UPDATE mail_switch SET searched_at = now() - interval '25 hours'")
        .await;
    until(&db, "mails WHERE status = 'withdrawn'", 1).await;
    assert_eq!(
        db.value("SELECT error_message FROM mails WHERE status = 'withdrawn'")
            .await,
        "mails were switched off"
    );
}

/// Whoever pays at that moment sees how it went, and a mail that was overtaken says nothing.
#[tokio::test]
async fn nobody_is_told_what_they_see_or_what_no_longer_holds() {
    let server = MailServer::start();
    let service = sending(server.config()).await;
    let db = &service.db;
    organization(db, "cus_a", "pay@example.com").await;
    let now = Timestamp::now().as_second();
    for reason in ["subscription_create", "subscription_update"] {
        let mut object = invoice(&format!("in_{reason}"), "cus_a", "sub_a", "open");
        object["billing_reason"] = json!(reason);
        for (kind, name) in [(FAILED, "failed"), (ACTION, "action")] {
            let id = format!("evt_{name}_{reason}");
            service
                .deliver(&event(&id, kind, now, object.clone()))
                .await;
        }
    }
    service.settle().await;
    assert_eq!(db.count("mails").await, 0);

    service
        .deliver(&of_invoice(FAILED, "in_paid", "cus_a"))
        .await;
    let paid = invoice("in_paid", "cus_a", "sub_a", "paid");
    service
        .deliver(&event("evt_paid", "invoice.paid", now + 1, paid))
        .await;
    service.settle().await;
    hurried(db, "status = 'withdrawn'", 1).await;
    let why = "SELECT error_message FROM mails";
    assert_eq!(db.value(why).await, "the invoice is paid by now");

    // Without an address there is nobody to tell, and `doctor` says so.
    let nobody = db.organization("cus_b").await;
    service.deliver(&of_invoice(ACTION, "in_b", "cus_b")).await;
    until(
        db,
        &format!("mails WHERE organization_id = '{nobody}' AND status = 'withdrawn'"),
        1,
    )
    .await;
    let ran = run_on(db, &["doctor", "--json"]).await;
    let checks = ran.json();
    let mut checks = checks.as_array().unwrap().iter();
    let found = checks.find(|check| check["name"] == "mails").unwrap();
    assert_eq!(found["verdict"], "warning", "{found}");
    let detail = found["detail"].as_str().unwrap();
    assert!(detail.contains("no e-mail address"), "{detail}");
    assert!(server.taken().is_empty());
}
