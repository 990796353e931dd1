//! Several workers on one database: no event twice, none in another's way.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;
use valuecanvas_billing::db::WorkerTx;
use valuecanvas_billing::webhooks::leases::{self, Failure};
use valuecanvas_billing::webhooks::worker::{Processor, Tally};

use super::workbench::{PASS_TIME, Workbench, each_applied_once, failed_payment, subscribed};
use crate::support::TestDatabase;
use crate::support::program::run_on;
use crate::support::service::processor;

async fn work_off(processor: &Processor) -> Tally {
    let mut tally = Tally::default();
    loop {
        let batch = processor.process_due(None).await.unwrap();
        if batch.processed == 0 {
            return tally;
        }
        tally += batch;
    }
}

async fn several_workers_share(workers: usize) {
    let bench = Workbench::new().await;
    bench.db.organization("cus_2").await;
    let events: Vec<Value> = (0..900)
        .map(|n| failed_payment(n, ["cus_1", "cus_2"][n % 2]))
        .collect();
    bench.store(&events).await;
    let processors: Vec<Processor> = (0..workers).map(|_| processor(&bench.db)).collect();
    let tallies = futures_util::future::join_all(processors.iter().map(work_off)).await;
    let succeeded: u64 = tallies.iter().map(|tally| tally.succeeded).sum();
    assert_eq!(succeeded, 900);
    each_applied_once(&bench.db, 900).await;
}

#[tokio::test]
async fn two_workers_never_process_one_event_twice() {
    several_workers_share(2).await;
}

#[tokio::test]
async fn four_workers_never_process_one_event_twice() {
    several_workers_share(4).await;
}

#[tokio::test]
async fn the_retry_job_and_serve_never_work_on_the_same_event() {
    let bench = Workbench::new().await;
    let events: Vec<Value> = (0..600).map(|n| failed_payment(n, "cus_1")).collect();
    bench.store(&events).await;
    let job = run_on(&bench.db, &["webhooks", "retry", "--json"]);
    let served = async {
        let mut served = Tally::default();
        while bench.db.count("webhook_events WHERE NOT processed").await > 0 {
            served += bench.processor.process_due(None).await.unwrap();
        }
        served
    };
    let (job, served) = tokio::join!(job, served);
    assert_eq!(job.status, 0, "{}", job.stderr);
    let by_job = job.json()["succeeded"].as_u64().unwrap();
    assert_eq!(by_job + served.succeeded, 600);
    each_applied_once(&bench.db, 600).await;
}

#[tokio::test]
async fn a_worker_whose_lease_was_taken_over_commits_nothing() {
    let bench = Workbench::new().await;
    bench.store(&[failed_payment(1, "cus_1")]).await;
    // The first worker hangs in its handler, behind the organization's chain.
    let mut holder = bench.db.pool.begin().await.unwrap();
    sqlx::query("SELECT * FROM billing_audit_chain_heads FOR UPDATE")
        .execute(&mut *holder)
        .await
        .unwrap();
    let slow = processor(&bench.db);
    let other = Uuid::now_v7();
    // Meanwhile another takes the event over, and holds it.
    let taking_over = async {
        until_blocked(&bench.db).await;
        let expire = "UPDATE webhook_events SET lease_expires_at = now()";
        bench.db.execute(expire).await;
        assert_eq!(claim(&bench, other).await.len(), 1);
        holder.rollback().await.unwrap();
    };
    let (tally, ()) = tokio::join!(slow.process_due(None), taking_over);
    assert_eq!(tally.unwrap(), Tally::default());
    bench
        .shows(
            "SELECT processed, lease_id, retry_count,
                    (SELECT count(*) FROM billing_invoices) AS invoices,
                    (SELECT count(*) FROM billing_alerts) AS alerts,
                    (SELECT count(*) FROM billing_applied_events) AS applied FROM webhook_events",
            json!({"processed": false, "lease_id": other, "retry_count": 0, "invoices": 0, "alerts": 0, "applied": 0}),
        )
        .await;
    bench
        .db
        .execute("UPDATE webhook_events SET lease_expires_at = now()")
        .await;
    bench.work().await;
    each_applied_once(&bench.db, 1).await;
}

/// Returns when a worker waits for a lock.
async fn until_blocked(db: &TestDatabase) {
    let blocked =
        "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while db.count(blocked).await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_failure_is_recorded_only_by_the_holder_of_the_lease() {
    let bench = Workbench::without_customers().await;
    bench.store(&[subscribed("evt_1", "cus_late")]).await;
    let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
    let claimed = claim(&bench, first).await;
    bench
        .db
        .execute("UPDATE webhook_events SET lease_expires_at = now()")
        .await;
    claim(&bench, second).await;
    let failure = Failure {
        error: "too late".to_owned(),
        waiting_for: None,
    };
    let mut tx = WorkerTx::begin(&bench.processor.pool).await.unwrap();
    let event = &claimed[0].event;
    let retry = leases::Retry {
        event,
        failure: failure.clone(),
        delay_ms: 0,
    };
    let retried = leases::schedule_retries(tx.conn(), first, &[&retry]).await;
    assert!(retried.unwrap().is_empty());
    let moved = leases::dead_letter(tx.conn(), first, &[(event, &failure)]).await;
    assert!(moved.unwrap().is_empty());
    tx.commit().await.unwrap();
    bench
        .shows(
            "SELECT retry_count, lease_id, (SELECT count(*) FROM webhook_dead_letter_queue) AS dead
               FROM webhook_events",
            json!({"retry_count": 0, "lease_id": second, "dead": 0}),
        )
        .await;
}

async fn claim(bench: &Workbench, lease_id: Uuid) -> Vec<leases::Claimed> {
    let mut tx = WorkerTx::begin(&bench.processor.pool).await.unwrap();
    let claimed = leases::claim(
        tx.conn(),
        lease_id,
        None,
        leases::BatchLimit {
            events: 10,
            bytes: i64::MAX,
        },
    )
    .await
    .unwrap();
    tx.commit().await.unwrap();
    claimed
}

#[tokio::test]
async fn a_failure_whose_row_is_held_keeps_no_other_waiting() {
    let bench = Workbench::without_customers().await;
    bench
        .store(&[
            subscribed("evt_1", "cus_late"),
            subscribed("evt_2", "cus_late"),
        ])
        .await;
    let lease_id = Uuid::now_v7();
    let claimed = claim(&bench, lease_id).await;
    let retries: Vec<leases::Retry<'_>> = claimed
        .iter()
        .map(|one| leases::Retry {
            event: &one.event,
            failure: Failure {
                error: "nobody's".to_owned(),
                waiting_for: None,
            },
            delay_ms: 3_600_000,
        })
        .collect();
    let retries: Vec<&leases::Retry<'_>> = retries.iter().collect();
    let mut holder = WorkerTx::begin(&bench.processor.pool).await.unwrap();
    sqlx::query("SELECT FROM webhook_events WHERE stripe_event_id = 'evt_1' FOR UPDATE")
        .execute(holder.conn())
        .await
        .unwrap();
    let mut tx = WorkerTx::begin(&bench.processor.pool).await.unwrap();
    let retried = leases::schedule_retries(tx.conn(), lease_id, &retries).await;
    tx.commit().await.unwrap();
    let retried = retried.unwrap();
    let ids: Vec<&str> = retried.iter().map(|(_, id)| id.as_str()).collect();
    assert_eq!(ids, ["evt_2"]);
    holder.rollback().await.unwrap();
    let mut tx = WorkerTx::begin(&bench.processor.pool).await.unwrap();
    let retried = leases::schedule_retries(tx.conn(), lease_id, &retries).await;
    tx.commit().await.unwrap();
    let retried = retried.unwrap();
    let ids: Vec<&str> = retried.iter().map(|(_, id)| id.as_str()).collect();
    assert_eq!(ids, ["evt_1"], "evt_2 is in nobody's hands any more");
}

#[tokio::test]
async fn a_customer_that_became_known_during_the_attempt_is_not_waited_for() {
    let bench = Workbench::without_customers().await;
    bench.store(&[subscribed("evt_1", "cus_late")]).await;
    let lease_id = Uuid::now_v7();
    let claimed = claim(&bench, lease_id).await;
    bench.db.organization("cus_late").await;
    let retry = leases::Retry {
        event: &claimed[0].event,
        failure: Failure {
            error: "no organization has the Stripe customer cus_late".to_owned(),
            waiting_for: Some("cus_late".to_owned()),
        },
        delay_ms: 3_600_000,
    };
    let mut tx = WorkerTx::begin(&bench.processor.pool).await.unwrap();
    let retried = leases::schedule_retries(tx.conn(), lease_id, &[&retry]).await;
    assert_eq!(retried.unwrap().len(), 1);
    tx.commit().await.unwrap();
    assert_eq!(bench.work().await.succeeded, 1);
}

#[tokio::test]
async fn connections_that_break_lose_nothing_and_double_nothing() {
    let bench = Workbench::new().await;
    let events: Vec<Value> = (0..400).map(|n| failed_payment(n, "cus_1")).collect();
    bench.store(&events).await;
    // As a restart of the database does it, at any moment of a transaction.
    let breaking = async {
        for _ in 0..15 {
            let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                         WHERE datname = current_database() AND usename = 'billing_service'";
            bench.db.execute(kill).await;
            bench.db.execute(PASS_TIME).await;
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
    };
    let working = async {
        for _ in 0..30 {
            // What it was doing when the connection broke is unknown to it.
            let _ = bench.processor.process_due(None).await;
        }
    };
    tokio::join!(breaking, working);
    bench.db.execute(PASS_TIME).await;
    bench.work().await;
    each_applied_once(&bench.db, 400).await;
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_not_repeated() {
    let bench = Workbench::new().await;
    bench.store(&[failed_payment(1, "cus_1")]).await;
    // The commit waits, the worker dies, and then the commit succeeds.
    bench
        .db
        .execute(
            "CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER hang AFTER INSERT ON billing_alerts
               DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION hang()",
        )
        .await;
    let mut holder = bench.db.pool.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(1)")
        .execute(&mut *holder)
        .await
        .unwrap();
    let lost = processor(&bench.db);
    tokio::select! {
        _ = lost.process_due(None) => panic!("the commit waits"),
        () = until_blocked(&bench.db) => drop(lost),
    }
    holder.rollback().await.unwrap();
    while bench.db.count("webhook_events WHERE processed").await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(bench.work().await, Tally::default());
    each_applied_once(&bench.db, 1).await;
}

#[tokio::test]
async fn two_replays_at_once_have_one_effect() {
    let mut bench = Workbench::without_customers().await;
    bench.processor.max_retries = 0;
    let events: Vec<Value> = (0..20).map(|n| failed_payment(n, "cus_1")).collect();
    bench.store(&events).await;
    bench.work().await;
    assert_eq!(bench.db.count("webhook_dead_letter_queue").await, 20);
    bench.db.organization("cus_1").await;
    let ids: BTreeSet<&str> = events.iter().map(|e| e["id"].as_str().unwrap()).collect();
    for id in ids {
        let replay =
            || valuecanvas_billing::webhooks::dead_letters::replay::replay(&bench.processor, id);
        let (one, other) = tokio::join!(replay(), replay());
        for replayed in [one.unwrap(), other.unwrap()] {
            let succeeded =
                valuecanvas_billing::webhooks::dead_letters::replay::Replayed::Succeeded {
                    outcome: "applied",
                };
            assert_eq!(replayed, succeeded);
        }
    }
    each_applied_once(&bench.db, 20).await;
    assert_eq!(bench.db.count("webhook_dead_letter_queue").await, 0);
}
