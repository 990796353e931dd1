//! Mails are tried again, given up, and sent by one replica.

use rustix::process::Signal;
use serde_json::Value;

use super::server::{
    ACTION, MailServer, address, config, hurried, hurry, of_invoice, options, organization,
    sending, switched_on, until, until_metric,
};
use crate::support::program::run_on;
use crate::support::serving::{Serving, serve_on};
use crate::support::{TestDatabase, TestService};

#[tokio::test]
async fn a_mail_that_is_put_off_is_sent_and_one_that_is_refused_is_given_up() {
    let server = MailServer::start();
    let service = sending(server.config()).await;
    let db = &service.db;
    let _later = organization(db, "cus_a", "put-off@example.com").await;
    let wrong = organization(db, "cus_b", "refused@example.com").await;
    service.deliver(&of_invoice(ACTION, "in_a", "cus_a")).await;
    service.deliver(&of_invoice(ACTION, "in_b", "cus_b")).await;
    hurried(db, "status = 'sent' AND attempts = 3", 1).await;
    until(db, "mails WHERE status = 'failed' AND attempts = 1", 1).await;
    assert_eq!(server.count(1).await.len(), 1);
    let of = |result: &str| format!("mails_total{{kind=\"action_required\",result=\"{result}\"}}");
    for (result, count) in [("sent", 1), ("retried", 2), ("failed", 1), ("withdrawn", 0)] {
        until_metric(&service, &of(result), count).await;
    }
    let doctor = run_on(db, &["doctor", "--json"]).await.json();
    let mut checks = doctor.as_array().unwrap().iter();
    let found = checks.find(|check| check["name"] == "mails").unwrap();
    assert_eq!(found["verdict"], "warning", "{found}");
    assert!(
        found["detail"]
            .as_str()
            .unwrap()
            .contains("no such mailbox"),
        "{found}"
    );

    // Once the address is mended, an operator has it tried again.
    let failed = run_on(db, &["mails", "list", "--status", "failed", "--json"]).await;
    let failed = failed.json();
    let [failed] = &failed.as_array().unwrap()[..] else {
        panic!("{failed}")
    };
    assert_eq!(failed["recipient"], "refused@example.com");
    let id = failed["id"].as_str().unwrap();
    address(db, wrong, "right@example.com").await;
    let retried = run_on(db, &["mails", "retry", id]).await;
    assert_eq!(retried.stdout.trim(), "`serve` will try 1 mail again");
    assert_eq!(server.count(2).await[1]["to"][0], "right@example.com");
    until(db, "mails WHERE status = 'sent'", 2).await;
    assert_eq!(
        db.count("billing_audit_log WHERE action = 'mails_retried'")
            .await,
        1
    );
    let again = run_on(db, &["mails", "retry", id]).await;
    assert_eq!(again.status, 1, "what was sent is not sent again");
    assert!(again.stderr.contains("`mails list`"), "{}", again.stderr);

    // The mails of an organization that is erased name nobody.
    db.execute(&format!(
        "UPDATE organizations SET archived_at = now() WHERE id = '{wrong}'"
    ))
    .await;
    let erase = ["organizations", "erase", &wrong.to_string(), "--yes"];
    let erased = run_on(db, &erase).await;
    assert_eq!(erased.status, 0, "{}", erased.stderr);
    let named = format!("mails WHERE organization_id = '{wrong}' AND recipient IS NOT NULL");
    assert_eq!(db.count(&named).await, 0);
}

#[tokio::test]
async fn a_server_that_is_down_gets_its_mails_once_it_is_up() {
    // An address that no other test has.
    let host = format!(
        "127.{}.{}.7",
        rand::random_range(1..=254),
        rand::random_range(1..=254)
    );
    let service = sending(config(&host, 2525)).await;
    let db = &service.db;
    organization(db, "cus_a", "pay@example.com").await;
    for n in 0..3 {
        let id = format!("in_{n}");
        service.deliver(&of_invoice(ACTION, &id, "cus_a")).await;
    }
    hurried(db, "status = 'pending' AND attempts > 0", 3).await;
    let why = db.value("SELECT error_message FROM mails LIMIT 1").await;
    assert!(why.to_lowercase().contains("connection"), "{why}");
    let failures = "background_part_runs_total{part=\"mail_sender\",result=\"failed\"}";
    for _ in 0..3_000 {
        if service.metric(failures).await > Some(0) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(service.metric(failures).await > Some(0));
    let server = MailServer::at(&host, 2525, &[]);
    hurried(db, "status = 'sent'", 3).await;
    assert_eq!(server.count(3).await.len(), 3);
}

#[tokio::test]
async fn two_replicas_send_each_mail_once() {
    let server = MailServer::start();
    let one = sending(server.config()).await;
    let two = TestService::beside_with(&one, options(server.config())).await;
    let db = &one.db;
    organization(db, "cus_a", "pay@example.com").await;
    for n in 0..30 {
        let service = if n % 2 == 0 { &one } else { &two };
        let id = format!("in_{n}");
        service.deliver(&of_invoice(ACTION, &id, "cus_a")).await;
    }
    hurried(db, "status = 'sent' AND attempts = 1", 30).await;
    let mut ids: Vec<Value> = server
        .count(30)
        .await
        .iter()
        .map(|mail| mail["headers"]["message-id"].clone())
        .collect();
    assert_eq!(ids.len(), 30);
    ids.sort_by_key(ToString::to_string);
    ids.dedup();
    assert_eq!(ids.len(), 30);
}

#[tokio::test]
async fn killed_between_sending_and_marking_it_is_sent_again_under_the_same_id() {
    let server = MailServer::start();
    let db = TestDatabase::new().await;
    let acme = organization(&db, "cus_a", "hanging@example.com").await;
    let serving = || {
        let url = format!("smtp://{}:{}", server.host, server.port);
        let mut serve = serve_on(&db);
        serve
            .env("SMTP_URL", url)
            .env("MAIL_FROM", "billing@acme.example");
        Serving::start(&mut serve)
    };
    let first = serving();
    switched_on(&db).await;
    db.execute(&format!(
        "INSERT INTO billing_invoices (organization_id, stripe_invoice_id, status, currency,
           subtotal_amount, total_amount, amount_due, amount_paid, amount_remaining, attempt_count,
           livemode, last_event_at, last_event_rank, last_event_id, tied_event_ids)
         VALUES ('{acme}', 'in_a', 'open', 'usd', 1, 1, 1, 0, 1, 1, false, now(), 0, 'evt', '{{}}');
         INSERT INTO mails (organization_id, id, kind, fact, resource_id, happened_at)
         VALUES ('{acme}', gen_random_uuid(), 'action_required', 'in_a/1', 'in_a', now())"
    ))
    .await;
    server.count(1).await;
    first.signal(Signal::KILL);
    first.ended().await;
    assert_eq!(
        db.count("mails WHERE status = 'pending' AND attempts = 0")
            .await,
        1
    );
    address(&db, acme, "pay@example.com").await;
    // The lease of the one that died is over.
    db.execute("UPDATE mails SET lease_id = NULL").await;
    hurry(&db).await;
    let _second = serving();
    let mails = server.count(2).await;
    assert_eq!(
        mails[0]["headers"]["message-id"],
        mails[1]["headers"]["message-id"]
    );
    until(&db, "mails WHERE status = 'sent'", 1).await;
    assert_eq!(server.taken().len(), 2);
}
