//! What fails waits, in nobody's way, and is given up in time.

use serde_json::{Value, json};

use super::workbench::{Workbench, each_applied_once, failed_payment, subscribed};
use crate::support::events::{event, invoice};

/// No handler can read it.
fn unreadable(id: &str, customer: &str) -> Value {
    let mut event = subscribed(id, customer);
    event["data"]["object"]["current_period_start"] = json!("yesterday");
    event["data"]["object"]["trial_end"] = json!("yesterday");
    event
}

#[tokio::test]
async fn poison_of_one_organization_delays_no_other() {
    let bench = Workbench::new().await;
    bench.db.organization("cus_2").await;
    // What the database refuses comes out only when a batch is written.
    bench
        .db
        .execute("ALTER TABLE billing_alerts ADD CHECK (resource_id NOT LIKE 'in_9%') NOT VALID")
        .await;
    let mut events: Vec<Value> = (1_000..1_200).map(|n| failed_payment(n, "cus_1")).collect();
    for n in 0..5 {
        events.insert(n * 40, failed_payment(9_000 + n, "cus_2"));
        events.insert(n * 40, unreadable(&format!("evt_unreadable_{n}"), "cus_2"));
    }
    bench.store(&events).await;
    let tally = bench.processor.process_due(None).await.unwrap();
    assert_eq!((tally.succeeded, tally.failed), (200, 10));
    each_applied_once(&bench.db, 200).await;
    assert_eq!(
        bench
            .rows("SELECT count(*) AS dead, count(*) FILTER (WHERE error_message ~ 'check constraint') AS refused
                     FROM webhook_dead_letter_queue")
            .await,
        json!([{"dead": 10, "refused": 5}])
    );
}

#[tokio::test]
async fn a_dead_letter_queue_that_is_broken_stops_nobody() {
    let mut bench = Workbench::new().await;
    bench.processor.max_retries = 0;
    bench
        .db
        .execute("ALTER TABLE webhook_dead_letter_queue ADD CHECK (stripe_event_id <> 'evt_b') NOT VALID")
        .await;
    bench
        .store(&[
            unreadable("evt_a", "cus_1"),
            unreadable("evt_b", "cus_1"),
            unreadable("evt_c", "cus_1"),
            subscribed("evt_d", "cus_unknown"),
            subscribed("evt_e", "cus_1"),
        ])
        .await;
    let tally = bench.processor.process_due(None).await.unwrap();
    assert_eq!((tally.succeeded, tally.failed), (1, 4));
    assert_eq!(
        bench
            .rows("SELECT stripe_event_id AS id FROM webhook_dead_letter_queue ORDER BY 1")
            .await,
        json!([{"id": "evt_a"}, {"id": "evt_c"}, {"id": "evt_d"}])
    );
    bench
        .shows(
            "SELECT stripe_event_id AS id, retry_count, next_retry_at > now() AS later,
                    error_message ~ 'yesterday' AND error_message ~ 'dead letter queue refused it' AS says_both
               FROM webhook_events WHERE NOT processed",
            json!({"id": "evt_b", "retry_count": 1, "later": true, "says_both": true}),
        )
        .await;
    bench
        .db
        .execute("ALTER TABLE webhook_dead_letter_queue DROP CONSTRAINT webhook_dead_letter_queue_stripe_event_id_check")
        .await;
    bench.let_retries_be_due().await;
    bench.work().await;
    assert_eq!(bench.db.count("webhook_dead_letter_queue").await, 4);
}

#[tokio::test]
async fn without_a_dead_letter_table_the_others_go_on() {
    let mut bench = Workbench::new().await;
    bench.processor.max_retries = 0;
    bench
        .store(&[
            subscribed("evt_a", "cus_unknown"),
            subscribed("evt_b", "cus_unknown"),
        ])
        .await;
    bench
        .db
        .execute("REVOKE ALL ON webhook_dead_letter_queue FROM billing_worker")
        .await;
    bench.work().await;
    assert_eq!(
        bench
            .rows("SELECT retry_count, next_retry_at > now() AS later FROM webhook_events")
            .await,
        json!([{"retry_count": 1, "later": true}, {"retry_count": 1, "later": true}])
    );
}

#[tokio::test]
async fn each_failed_attempt_doubles_the_delay_until_the_last_is_a_dead_letter() {
    let mut bench = Workbench::without_customers().await;
    bench.processor.max_retries = 14;
    bench.store(&[subscribed("evt_1", "cus_late")]).await;
    let longest = [
        1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600,
    ];
    for (n, longest) in longest.into_iter().enumerate() {
        // The delay is counted from the database's clock.
        let before = "CREATE TABLE IF NOT EXISTS clock (before timestamptz);
                      DELETE FROM clock; INSERT INTO clock VALUES (clock_timestamp())";
        bench.db.execute(before).await;
        assert_eq!(bench.work().await.failed, 1);
        bench
            .shows(
                &format!(
                    "SELECT retry_count, error_message IS NOT NULL AS says_why,
                            jsonb_array_length(attempts) AS attempts,
                            next_retry_at >= before + interval '{longest} s' / 2
                              AND next_retry_at <= clock_timestamp() + interval '{longest} s'
                              AS in_time
                       FROM webhook_events, clock"
                ),
                json!({"retry_count": n + 1, "says_why": true, "attempts": n + 1, "in_time": true}),
            )
            .await;
        bench.let_retries_be_due().await;
    }
    bench.work().await;
    bench
        .shows(
            "SELECT retry_count, jsonb_array_length(attempts) AS attempts,
                    (SELECT count(*) FROM webhook_events) AS left FROM webhook_dead_letter_queue",
            json!({"retry_count": 14, "attempts": 15, "left": 0}),
        )
        .await;
}

#[tokio::test]
async fn no_retries_means_one_attempt() {
    let mut bench = Workbench::without_customers().await;
    bench.processor.max_retries = 0;
    bench.store(&[subscribed("evt_1", "cus_late")]).await;
    bench.work().await;
    bench
        .shows(
            "SELECT retry_count, jsonb_array_length(attempts) AS attempts FROM webhook_dead_letter_queue",
            json!({"retry_count": 0, "attempts": 1}),
        )
        .await;
}

#[tokio::test]
async fn a_row_whose_key_another_has_is_a_dead_letter_at_once() {
    let bench = Workbench::new().await;
    bench
        .db
        .execute("CREATE UNIQUE INDEX one_number ON billing_invoices (organization_id, number)")
        .await;
    let numbered = |id: &str| {
        let object = invoice(&format!("in_{id}"), "cus_1", "sub_1", "open");
        event(&format!("evt_{id}"), "invoice.finalized", 100, object)
    };
    bench.process(&[numbered("1")]).await;
    bench.store(&[numbered("2")]).await;
    assert_eq!(bench.work().await.failed, 1);
    bench
        .shows(
            "SELECT stripe_event_id AS id, retry_count, error_message LIKE '%one_number%' AS says_why
               FROM webhook_dead_letter_queue",
            json!({"id": "evt_2", "retry_count": 0, "says_why": true}),
        )
        .await;
}
