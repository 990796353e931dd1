//! A rollout: the schema of the release before, and of the one after, under
//! programs that serve.

use serde_json::Value;
use valuecanvas_billing::http_client;

use crate::support::TestDatabase;
use crate::support::database::migration_files;
use crate::support::events;
use crate::support::program::{program, run_beside};
use crate::support::serving::{Serving, serve_on};

/// The newest migration that the release before had.
const BEFORE: &str = "20260103050000";

async fn migrate(db: &TestDatabase, arguments: &[&str]) {
    let mut command = program(&[&["migrate"], arguments].concat());
    let url = db.url("postgres");
    command
        .env("DATABASE_URL", &url)
        .env("MIGRATION_DATABASE_URL", &url);
    let ran = run_beside(command).await;
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}

async fn deliver(base: &str, number: u32) {
    let customer = format!("cus_{}", number % 3);
    let subscription = events::subscription(
        &format!("sub_{}", number % 3),
        &customer,
        "active",
        "standard",
    );
    let event = events::event(
        &format!("evt_{number}"),
        "customer.subscription.updated",
        1_700_000_000 + i64::from(number),
        subscription,
    );
    let body = event.to_string();
    let client = http_client::direct_client().unwrap();
    let answer = client
        .post(format!("{base}/api/billing/webhooks/stripe"))
        .header("stripe-signature", events::sign(body.as_bytes()))
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200, "{number}");
}

async fn readiness(base: &str) -> (u16, Value) {
    let client = http_client::direct_client().unwrap();
    let asked = client.get(format!("{base}/readyz"));
    let answer = asked.send().await.unwrap();
    (
        answer.status().as_u16(),
        answer.json().await.unwrap_or_default(),
    )
}

#[tokio::test]
async fn programs_on_both_sides_of_a_migration_lose_no_event() {
    let db = TestDatabase::new().await;
    for n in 0..3 {
        db.organization(&format!("cus_{n}")).await;
    }
    migrate(&db, &["rollback", "--to", BEFORE, "--yes", "--force"]).await;

    // A program that started before its schema was there takes deliveries.
    let early = Serving::start(&mut serve_on(&db));
    for number in 0..20 {
        deliver(&early.base, number).await;
    }
    let (status, said) = readiness(&early.base).await;
    assert_eq!(status, 503);
    assert!(said.to_string().contains("migrat"), "{said}");

    // It goes on while the schema changes under it, and beside one that starts
    // with the new schema.
    let delivering = async {
        for number in 20..60 {
            deliver(&early.base, number).await;
        }
    };
    tokio::join!(delivering, migrate(&db, &["up"]));
    let late = Serving::start(&mut serve_on(&db));
    for number in 60..100 {
        deliver([&early.base, &late.base][number as usize % 2], number).await;
    }
    assert_eq!(readiness(&early.base).await.0, 200);
    assert_eq!(readiness(&late.base).await.0, 200);
    while db.count("webhook_events WHERE NOT processed").await > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(
        db.count("webhook_events WHERE outcome IN ('applied', 'superseded')")
            .await,
        100
    );
    assert_eq!(db.count("webhook_dead_letter_queue").await, 0);
    assert_eq!(
        db.count("webhook_events WHERE retry_count > 0").await,
        0,
        "what came too early used up no attempt"
    );
    assert_eq!(
        (
            early.terminated().await.status,
            late.terminated().await.status
        ),
        (0, 0)
    );
}

/// What a program of the release before reads and writes stays as it was:
/// migrations after the first release only add.
#[test]
fn migrations_only_add() {
    let allowed = |line: &str| {
        // A policy, trigger or constraint is dropped to be made again; a number
        // that may be larger takes what a program of before writes.
        let again = ["DROP POLICY IF EXISTS", "DROP TRIGGER IF EXISTS"];
        let wider = ["ALTER COLUMN quantity TYPE numeric(24,4)"];
        again
            .iter()
            .chain(&wider)
            .any(|allowed| line.contains(allowed))
    };
    for file in migration_files() {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        for line in text.lines().map(str::trim) {
            if line.starts_with("--") || allowed(line) {
                continue;
            }
            let upper = line.to_uppercase();
            for taking in [
                "DROP TABLE",
                "DROP COLUMN",
                "DROP FUNCTION",
                "RENAME ",
                " TYPE ",
                "SET NOT NULL",
            ] {
                assert!(!upper.contains(taking), "{name}: {line}");
            }
            let adds = upper.contains("ADD COLUMN");
            let needs = upper.contains("NOT NULL") && !upper.contains("DEFAULT");
            assert!(!(adds && needs), "{name}: {line}");
        }
    }
}
