//! Delivering a history as badly as it can happen.

use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;
use valuecanvas_billing::db::WorkerTx;
use valuecanvas_billing::projection::{self, Emptied};
use valuecanvas_billing::webhooks::dead_letters::replay;
use valuecanvas_billing::webhooks::leases;

use crate::support::dice::Dice;
use crate::webhooks::workbench::{PASS_TIME, Workbench};

/// The tables whose loss makes handlers fail.
const BREAKABLE: [&str; 10] = [
    "billing_subscriptions",
    "billing_subscription_items",
    "billing_invoices",
    "billing_charges",
    "billing_disputes",
    "billing_refunds",
    "billing_invoice_payments",
    "webhook_unclaimed_events",
    "billing_alerts",
    "billing_applied_events",
];

/// Delivers `events` in some order, some of them twice, to workers that fail,
/// crash and lose their leases; in the end each is processed.
pub async fn deliver(bench: &Workbench, events: &[Value], seed: u64) {
    let mut dice = Dice::new(seed);
    let mut deliveries = events.to_vec();
    for event in events {
        if dice.one_in(5) {
            deliveries.push(event.clone());
        }
    }
    dice.shuffle(&mut deliveries);
    let mut rest = &deliveries[..];
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(rest.len().min(1 + dice.below(12)));
        rest = later;
        bench.store(batch).await;
        match dice.below(8) {
            0 => {}
            1 => with_a_table_gone(bench, dice.pick(&BREAKABLE)).await,
            2 => die_after_the_claim(bench).await,
            3 => die_at_some_moment(bench, &mut dice).await,
            4 | 5 => {
                let (beside, later) = rest.split_at(rest.len().min(dice.below(8)));
                rest = later;
                work_together(bench, beside).await;
            }
            6 => {
                let event = dice.pick(&batch.iter().collect::<Vec<_>>());
                let id = event["id"].as_str().unwrap();
                // One whose customer is unknown yet fails, and is left alone.
                replay::replay(&bench.processor, id).await.unwrap();
            }
            _ => {
                bench.processor.process_due(None).await.unwrap();
            }
        }
        if dice.one_in(3) {
            pass_time(bench).await;
        }
        if dice.one_in(3) {
            forget_payloads(bench).await;
        }
    }
    finish(bench).await;
}

/// Processes until nothing is left.
pub async fn finish(bench: &Workbench) {
    for _ in 0..50 {
        pass_time(bench).await;
        bench.processor.bring_back().await.unwrap();
        bench.work().await;
        if bench.db.count("webhook_events WHERE NOT processed").await == 0 {
            assert_eq!(bench.db.count("webhook_dead_letter_queue").await, 0);
            return;
        }
    }
    let left =
        "SELECT stripe_event_id, event_type, error_message FROM webhook_events WHERE NOT processed";
    panic!("events stay unprocessed: {:#}", bench.rows(left).await);
}

async fn pass_time(bench: &Workbench) {
    bench.db.execute(PASS_TIME).await;
}

/// Payloads of events that had their effect are removed.
async fn forget_payloads(bench: &Workbench) {
    let mut tx = WorkerTx::begin(&bench.processor.pool).await.unwrap();
    sqlx::query(
        "UPDATE webhook_events SET received_at = now() - interval '1 year'
          WHERE processed AND outcome IN ('applied', 'superseded')",
    )
    .execute(tx.conn())
    .await
    .unwrap();
    let old = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(24);
    projection::remove_payloads(tx.conn(), Emptied::Processed, old, 1_000)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

async fn with_a_table_gone(bench: &Workbench, table: &str) {
    let rename = |from: &str, to: &str| format!("ALTER TABLE {from} RENAME TO {to}");
    bench.db.execute(&rename(table, "gone")).await;
    bench.processor.process_due(None).await.unwrap();
    bench.db.execute(&rename("gone", table)).await;
}

async fn die_after_the_claim(bench: &Workbench) {
    let mut tx = WorkerTx::begin(&bench.processor.pool).await.unwrap();
    leases::claim(
        tx.conn(),
        Uuid::now_v7(),
        None,
        leases::BatchLimit {
            events: 100,
            bytes: i64::MAX,
        },
    )
    .await
    .unwrap();
    tx.commit().await.unwrap();
}

/// Within the claim, the handlers, the commit or after it.
async fn die_at_some_moment(bench: &Workbench, dice: &mut Dice) {
    let moment = Duration::from_micros(dice.number() % 30_000);
    let _ = tokio::time::timeout(moment, bench.processor.process_due(None)).await;
}

/// Several workers at once, one of which loses its leases to another, while
/// more events come in.
async fn work_together(bench: &Workbench, beside: &[Value]) {
    let work = || async { bench.processor.process_due(None).await.unwrap() };
    let disturb = async {
        bench.store(beside).await;
        tokio::join!(work(), async {
            tokio::time::sleep(Duration::from_millis(3)).await;
            pass_time(bench).await;
            work().await;
        })
    };
    tokio::join!(work(), disturb);
}
