//! A sender that is killed between a delivery and its record leaves the event to be sent
//! again, under the same id.

use std::time::Duration;

use rustix::process::Signal;

use super::receiver::{Receiver, Reply, endpoint};
use crate::support::TestDatabase;
use crate::support::program::{program_on, run_beside};
use crate::support::serving::{Serving, serve_on};

fn serving(db: &TestDatabase) -> Serving {
    Serving::start(serve_on(db).env("EVENTS_ALLOW_LOOPBACK", "true"))
}

#[tokio::test]
async fn killed_between_delivery_and_record_it_is_delivered_again() {
    let db = TestDatabase::new().await;
    let receiver = Receiver::start(Reply::Hang).await;
    endpoint(&db, &receiver, &[]).await;
    let first = serving(&db);
    let create = ["organizations", "create", "--name", "Acme", "--json"];
    assert_eq!(run_beside(program_on(&db, &create)).await.status, 0);
    let before = receiver.count(1).await.remove(0);
    first.signal(Signal::KILL);
    first.ended().await;
    receiver.always(Reply::Status(200));
    let unrecorded = "outbound_deliveries WHERE status = 'pending' AND attempts = 0";
    assert_eq!(db.count(unrecorded).await, 1);
    // The lease of the one that died is over.
    db.execute("UPDATE outbound_lanes SET due_at = now() WHERE due_at IS NOT NULL")
        .await;
    let _second = serving(&db);
    let after = receiver.count(2).await.remove(1);
    assert_eq!(before.header("webhook-id"), after.header("webhook-id"));
    assert_eq!(before.body, after.body);
    for _ in 0..1_000 {
        if db
            .count("outbound_deliveries WHERE status = 'delivered'")
            .await
            == 1
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it was not recorded");
}

/// Whatever is killed when: no change is lost, and no number is given twice or left out.
#[tokio::test]
async fn killed_while_publishing_every_change_is_told_of() {
    let db = TestDatabase::new().await;
    let receiver = Receiver::start(Reply::Status(200)).await;
    endpoint(&db, &receiver, &[]).await;
    let rounds = 4;
    for round in 0..rounds {
        let running = serving(&db);
        let name = format!("Acme {round}");
        let create = ["organizations", "create", "--name", &name, "--json"];
        let ran = run_beside(program_on(&db, &create)).await;
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        tokio::time::sleep(Duration::from_millis(round * 197 % 700)).await;
        running.signal(Signal::KILL);
        running.ended().await;
    }
    db.execute("UPDATE outbound_lanes SET due_at = now() WHERE due_at IS NOT NULL")
        .await;
    let _last = serving(&db);
    for round in 0..rounds {
        let name = format!("Acme {round}");
        receiver
            .until(&name, |taken| {
                taken.event()["data"]["organization"]["name"] == name.as_str()
            })
            .await;
    }
    let gaps = "(SELECT organization_id FROM outbound_events GROUP BY organization_id
                 HAVING max(sequence) <> count(*) OR min(sequence) <> 1) gap";
    assert_eq!(db.count(gaps).await, 0);
}
