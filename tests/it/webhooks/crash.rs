//! kill -9 of the service and of PostgreSQL under load, and a disk that fills
//! up: nothing that was acknowledged is lost, nothing is applied twice, and the
//! chain holds.
//!
//! `VCB_SERVICE_KILLS` and `VCB_POSTGRES_KILLS` raise the number of rounds.

mod client;
mod rig;
pub mod small_disk;

use std::collections::BTreeSet;

use client::Client;
use rig::Rig;
use small_disk::SmallDisk;

fn rounds(variable: &str, default: usize) -> usize {
    let asked = std::env::var(variable).ok();
    asked.map_or(default, |rounds| {
        rounds.parse().expect("a number of rounds")
    })
}

async fn start(directory: Option<&std::path::Path>) -> Rig {
    let rig = Rig::start(directory).await;
    for (name, customer) in [("One", "cus_1"), ("Two", "cus_2")] {
        let new = ["organizations", "create", "--name", name];
        rig.program(&[&new[..], &["--stripe-customer", customer]].concat());
    }
    rig
}

#[tokio::test]
async fn no_kill_loses_or_doubles_an_acknowledged_event() {
    let mut rig = start(None).await;
    let service_kills = rounds("VCB_SERVICE_KILLS", 3);
    let postgres_kills = rounds("VCB_POSTGRES_KILLS", 2);

    let client = Client::start(&rig.base);
    for round in 0..service_kills.max(postgres_kills) {
        client.until_acknowledged(200).await;
        if round < service_kills {
            rig.kill_service();
            rig.spawn_service();
            client.until_acknowledged(1).await;
        }
        client.until_acknowledged(100).await;
        if round < postgres_kills {
            rig.kill_postgres();
            client.until_acknowledged(1).await;
        }
    }
    all_is_there(rig, client.stop().await).await;
}

/// Once there is room again, what was refused is accepted.
#[tokio::test]
async fn a_full_disk_refuses_events_and_loses_none() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("not run: only root may mount a small file system");
        return;
    };
    let rig = start(Some(disk.path())).await;
    let client = Client::start(&rig.base);
    client.until_acknowledged(200).await;
    disk.fill();
    client.until_refused(50).await;
    disk.make_room();
    client.until_acknowledged(200).await;
    all_is_there(rig, client.stop().await).await;
}

/// Lets everything be processed, and looks.
async fn all_is_there(rig: Rig, acknowledged: BTreeSet<String>) {
    let event_log = rig.connect().await;
    event_log.settle().await;

    let stored = event_log
        .ids("SELECT stripe_event_id FROM webhook_events")
        .await;
    let dead = event_log
        .ids("SELECT stripe_event_id FROM webhook_dead_letter_queue")
        .await;
    let lost: BTreeSet<_> = acknowledged
        .iter()
        .filter(|id| !stored.contains(*id) && !dead.contains(*id))
        .collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    assert_eq!(stored.intersection(&dead).next(), None, "kept twice");
    assert!(!dead.is_empty() && dead.iter().all(|id| id.starts_with("evt_unknown_")));

    let doubled = "SELECT metadata ->> 'stripe_event_id' || ' ' || action FROM billing_audit_log
                    WHERE actor_type = 'webhook' AND metadata ? 'stripe_event_id'
                    GROUP BY 1 HAVING count(*) > 1";
    assert_eq!(event_log.ids(doubled).await, BTreeSet::new());
    let applied = event_log
        .ids("SELECT stripe_event_id FROM billing_applied_events")
        .await;
    assert_eq!(applied, stored);
    let failed =
        "SELECT stripe_event_id FROM webhook_events WHERE event_type = 'invoice.payment_failed'";
    let alerted = "SELECT alert_key FROM billing_alerts WHERE kind = 'payment_failed'";
    assert_eq!(event_log.ids(alerted).await, event_log.ids(failed).await);
    let audited = "SELECT metadata ->> 'stripe_event_id' FROM billing_audit_log
                    WHERE action = 'invoice_payment_failed'";
    assert_eq!(event_log.ids(audited).await, event_log.ids(failed).await);
    let newest = "SELECT last_event_id FROM billing_subscriptions";
    let last = "SELECT DISTINCT ON (payload -> 'data' -> 'object' ->> 'id') stripe_event_id
                  FROM webhook_events WHERE event_type = 'customer.subscription.updated'
                 ORDER BY payload -> 'data' -> 'object' ->> 'id', event_created_at DESC";
    assert_eq!(event_log.ids(newest).await, event_log.ids(last).await);
    event_log.close().await;

    rig.program(&["audit", "verify"]);
    rig.stop();
}
