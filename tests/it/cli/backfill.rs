//! `webhooks backfill`, against the stand-in for Stripe.

use serde_json::Value;
use valuecanvas_billing::stripe::client::Params;

use crate::stripe::Stripe;
use crate::support::TestDatabase;
use crate::support::program::{Ran, program_on, program_with_stripe, run, run_beside};

/// An account with as many events as customers, and more than a page of them.
async fn account() -> Stripe {
    let stripe = Stripe::start().await;
    let client = stripe.client();
    for n in 0..130 {
        let ada = Params::new().set("name", "Ada");
        client
            .create_customer(&ada, &format!("key-{n}"))
            .await
            .unwrap();
    }
    stripe
}

async fn backfill(db: &TestDatabase, stripe: &Stripe, arguments: &[&str]) -> Ran {
    let arguments = [&["webhooks", "backfill"], arguments].concat();
    let command = program_with_stripe(db, &stripe.sandbox.url(), &arguments);
    run_beside(command).await
}

fn counts(ran: &Ran) -> [u64; 3] {
    let Value::Object(done) = ran.json() else {
        panic!("{}", ran.stdout)
    };
    ["read", "stored", "duplicates"].map(|count| done[count].as_u64().unwrap())
}

#[tokio::test]
async fn what_was_missed_is_stored_and_what_is_there_stays() {
    let (db, stripe) = (TestDatabase::new().await, account().await);
    let ran = backfill(&db, &stripe, &["--since", "2h", "--json"]).await;
    assert_eq!(
        (ran.status, counts(&ran)),
        (0, [130, 130, 0]),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("100 events read"), "{}", ran.stderr);
    assert_eq!(db.count("webhook_events").await, 130);
    let ran = backfill(&db, &stripe, &["--since", "2h", "--json"]).await;
    assert_eq!((ran.status, counts(&ran)), (0, [130, 0, 130]));
    assert_eq!(db.count("webhook_events").await, 130);
}

#[tokio::test]
async fn one_fault_is_repeated_away_and_an_outage_is_told() {
    let (db, stripe) = (TestDatabase::new().await, account().await);
    let refused = [
        ("fault", "drop"),
        ("path", "/v1/events"),
        ("every", "2"),
        ("next", "1"),
    ];
    stripe.fault(&refused).await;
    let ran = backfill(&db, &stripe, &["--since", "2h", "--json"]).await;
    assert_eq!(
        (ran.status, counts(&ran)),
        (0, [130, 130, 0]),
        "one fault is repeated away"
    );

    let command = program_with_stripe(
        &db,
        "http://127.0.0.1:1",
        &["webhooks", "backfill", "--since", "2h"],
    );
    let ran = run_beside(command).await;
    assert_eq!(ran.status, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("cannot be reached"), "{}", ran.stderr);
}

#[tokio::test]
async fn it_goes_on_after_an_event() {
    let (db, stripe) = (TestDatabase::new().await, account().await);
    let newest = stripe.client().events(Params::new()).await.unwrap();
    let hundredth = newest.data[99].0["id"].as_str().unwrap();
    let ran = backfill(
        &db,
        &stripe,
        &["--since", "2h", "--after", hundredth, "--json"],
    )
    .await;
    assert_eq!(
        (ran.status, counts(&ran)),
        (0, [30, 30, 0]),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn an_event_that_postgresql_refuses_ends_no_backfill() {
    let (db, stripe) = (TestDatabase::new().await, account().await);
    let refused = Params::new().set("name", "Refused");
    let client = stripe.client();
    client
        .create_customer(&refused, "key-refused")
        .await
        .unwrap();
    db.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
           IF NEW.payload::text LIKE '%Refused%' THEN
             RAISE EXCEPTION 'no JSON' USING ERRCODE = '22P02';
           END IF;
           RETURN NEW;
         END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON webhook_events
           FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .await;
    let ran = backfill(&db, &stripe, &["--since", "2h", "--json"]).await;
    assert_eq!(
        (ran.status, counts(&ran)),
        (0, [131, 130, 0]),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.json()["unreadable"], 1);
    assert!(ran.stderr.contains("cannot be stored"), "{}", ran.stderr);
}

#[tokio::test]
async fn without_a_key_or_a_time_it_says_what_is_missing() {
    let db = TestDatabase::new().await;
    let ran = run(&mut program_on(
        &db,
        &["webhooks", "backfill", "--since", "2h"],
    ));
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.contains("STRIPE_SECRET_KEY"), "{}", ran.stderr);
    let ran = run(&mut program_on(
        &db,
        &["webhooks", "backfill", "--since", "2w"],
    ));
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.contains("--since"), "{}", ran.stderr);
}
