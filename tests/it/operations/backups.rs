//! Backups that come back whole, and those that are refused.

use crate::support::program::{Ran, program, run};
use crate::support::{TestDatabase, TestService};
use crate::usage::tenant::Tenant;

fn on(db: &TestDatabase, arguments: &[&str]) -> Ran {
    let mut command = program(arguments);
    let owner = db.url("postgres");
    run(command
        .env("DATABASE_URL", &owner)
        .env("MIGRATION_DATABASE_URL", &owner))
}

#[tokio::test]
async fn what_was_backed_up_comes_back_whole() {
    let service = TestService::start().await;
    let tenant = Tenant::of(&service, "Kept").await;
    tenant.consume(&service, "api_calls", 7).await.ok();
    tenant.set_quota(&service, "llm_tokens", "5", None).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("billing.dump");
    let name = file.to_str().unwrap();
    let written = on(&service.db, &["backup", name, "--json"]);
    assert_eq!(written.status, 0, "{}", written.stderr);
    let written = written.json();
    assert_eq!(written["rows"]["usage_events"], 1);
    assert_eq!(written["sha256"].as_str().unwrap().len(), 64);
    // A backup never takes another's place.
    assert_eq!(on(&service.db, &["backup", name]).status, 2);

    let other = TestDatabase::empty().await;
    let restored = on(&other, &["restore", name, "--json"]);
    assert_eq!(restored.status, 0, "{}", restored.stderr);
    let told = restored.json();
    assert_eq!(told["counted"], true);
    assert_eq!(told["chains"], 1);
    assert_eq!(
        told["rows"],
        written["rows"]
            .as_object()
            .unwrap()
            .values()
            .filter_map(|n| n.as_i64())
            .sum::<i64>()
    );
    assert_eq!(on(&other, &["migrate", "verify"]).status, 0);
    // The service runs on it, bound by row-level security as before.
    other
        .execute("GRANT billing_app, billing_worker TO billing_service")
        .await;
    let seen = run(&mut crate::support::program::program_on(
        &other,
        &["audit", "verify"],
    ));
    assert_eq!(seen.status, 0, "{}", seen.stderr);
    // And a second time there is no room.
    let again = on(&other, &["restore", name]);
    assert_eq!(again.status, 2, "{}", again.stderr);
    assert!(
        again.stderr.contains("restore into an empty one"),
        "{}",
        again.stderr
    );
}

#[tokio::test]
async fn a_backup_that_was_changed_is_not_restored() {
    let service = TestService::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("billing.dump");
    let name = file.to_str().unwrap();
    assert_eq!(on(&service.db, &["backup", name]).status, 0);
    let other = TestDatabase::empty().await;
    let whole = std::fs::read(&file).unwrap();
    let mut changed = whole.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    for (bytes, said) in [(&changed[..], "checksum"), (&whole[..middle], "checksum")] {
        std::fs::write(&file, bytes).unwrap();
        let refused = on(&other, &["restore", name]);
        assert_eq!(refused.status, 1);
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
    // Without its manifest, pg_restore's own reading finds it.
    std::fs::remove_file(format!("{name}.json")).unwrap();
    let refused = on(&other, &["restore", name]);
    assert_eq!(refused.status, 1, "{}", refused.stderr);
    assert_eq!(
        other.count("pg_tables WHERE schemaname = 'public'").await,
        0
    );
    let missing = on(&other, &["restore", "/nowhere/at/all"]);
    assert_eq!(missing.status, 1);
}

#[tokio::test]
async fn a_backup_goes_to_standard_output() {
    let service = TestService::start().await;
    let mut command = program(&["backup", "-"]);
    let owner = service.db.url("postgres");
    let ran = command
        .env("DATABASE_URL", &owner)
        .env("MIGRATION_DATABASE_URL", &owner)
        .output()
        .unwrap();
    assert!(ran.status.success());
    assert!(ran.stdout.starts_with(b"PGDMP"));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("SHA-256"));
}
