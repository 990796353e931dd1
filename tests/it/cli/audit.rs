//! `audit`

use serde_json::Value;

use crate::support::TestDatabase;
use crate::support::program::{Ran, program_on, run};

fn audit(db: &TestDatabase, arguments: &[&str]) -> Ran {
    run(&mut program_on(db, &[&["audit"], arguments].concat()))
}

#[tokio::test]
async fn entries_are_listed_and_exported() {
    let db = TestDatabase::new().await;
    for customer in ["cus_1", "cus_2", "cus_3"] {
        db.organization(customer).await;
    }
    let list = audit(&db, &["list", "--json", "--action", "organization_created"]).json();
    assert_eq!(list.as_array().unwrap().len(), 3);
    assert_eq!(
        audit(&db, &["list", "--json", "--action", "made_up"]).json(),
        Value::Array(vec![])
    );

    let jsonl = audit(&db, &["export"]);
    assert_eq!(jsonl.status, 0, "{}", jsonl.stderr);
    let entries: Vec<Value> = jsonl
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(Value::Array(entries), list);

    let document = audit(&db, &["export", "--json"]);
    assert_eq!((document.status, document.json()), (0, list));
    let nothing = audit(&db, &["export", "--json", "--action", "made_up"]);
    assert_eq!(nothing.json(), Value::Array(vec![]));

    let csv = audit(&db, &["export", "--format", "csv"]).stdout;
    let mut lines = csv.lines();
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("id,organizationId,sequence,action,")
    );
    assert_eq!(lines.count(), 3, "{csv}");

    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("audit.csv");
    let ran = audit(
        &db,
        &[
            "export",
            "--format",
            "csv",
            "--output",
            path.to_str().unwrap(),
        ],
    );
    assert_eq!((ran.status, &*ran.stdout), (0, ""), "{}", ran.stderr);
    assert_eq!(std::fs::read_to_string(path).unwrap(), csv);
    assert_eq!(
        audit(&db, &["export", "--output", "/nowhere/audit"]).status,
        1
    );
    assert_eq!(audit(&db, &["list", "--from", "yesterday"]).status, 2);
}

#[tokio::test]
async fn an_entry_that_was_changed_is_found() {
    let db = TestDatabase::new().await;
    db.organization("cus_1").await;
    let broken_one = db.organization("cus_2").await;
    let intact = audit(&db, &["verify", "--json"]);
    assert_eq!(intact.status, 0, "{}", intact.stderr);
    assert_eq!(intact.json()["breaks"], Value::Array(vec![]));

    db.execute(&format!(
        "SET session_replication_role = replica;
         UPDATE billing_audit_log SET action = E'forged\\x1b[2J' WHERE organization_id = '{broken_one}';
         RESET session_replication_role"
    ))
    .await;
    let broken = audit(&db, &["verify", "--json"]);
    assert_eq!(broken.status, 1, "{}", broken.stderr);
    let breaks = broken.json()["breaks"].clone();
    assert_eq!(
        breaks[0]["organizationId"],
        broken_one.to_string(),
        "{breaks}"
    );
    assert_eq!(breaks.as_array().unwrap().len(), 1);
    for arguments in [
        &["verify"][..],
        &["list"],
        &["list", "--json"],
        &["export"],
        &["export", "--format", "csv"],
    ] {
        let ran = audit(&db, arguments);
        assert!(
            !(ran.stdout + &ran.stderr).contains('\u{1b}'),
            "{arguments:?}"
        );
    }
}

#[tokio::test]
async fn what_a_command_did_names_who_ran_it() {
    let db = TestDatabase::new().await;
    let organization = db.organization("cus_1").await.to_string();
    let set = |more: &[&str]| {
        let quota = ["quotas", "set", "--organization", &organization];
        let quota = [&quota[..], &["--metric", "api_calls", "--limit", "7"], more].concat();
        let ran = run(&mut program_on(&db, &quota));
        assert_eq!(ran.status, 0, "{}", ran.stderr);
    };
    set(&["--as", "Alice\u{1b}[31m of support"]);
    set(&[]);
    let list = audit(&db, &["list", "--json", "--action", "quota_set"]).json();
    let login = std::process::Command::new("id")
        .arg("-un")
        .output()
        .unwrap();
    let login = String::from_utf8(login.stdout).unwrap();
    let by = |n: usize| list[n]["metadata"]["initiator"].clone();
    assert_eq!(
        by(0),
        serde_json::json!({"user": login.trim(), "command": "quotas set"})
    );
    assert_eq!(by(1)["as"], "Alice[31m of support");
    assert_eq!(list[0]["actorType"], "system");
    assert_eq!(audit(&db, &["verify"]).status, 0);
}

#[tokio::test]
async fn an_export_is_a_new_file_that_only_its_owner_reads() {
    use std::os::unix::fs::PermissionsExt as _;
    let db = TestDatabase::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    let arguments = ["audit", "export", "--output", file.to_str().unwrap()];
    let exported = run(&mut program_on(&db, &arguments));
    assert_eq!(exported.status, 0, "{}", exported.stderr);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    std::fs::write(&file, "kept").unwrap();
    let refused = run(&mut program_on(&db, &arguments));
    assert_eq!(refused.status, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("already exists"),
        "{}",
        refused.stderr
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
}

#[tokio::test]
async fn a_changed_entry_is_accepted_for_a_reason_alone() {
    let db = TestDatabase::new().await;
    let id = db.organization("cus_1").await.to_string();
    db.execute(&format!(
        "SELECT log_billing_action('{id}', 'one', 'system', p_resource_type => 'x');
         SET session_replication_role = replica;
         UPDATE billing_audit_log SET action = 'other' WHERE action = 'one';
         RESET session_replication_role"
    ))
    .await;
    assert_eq!(run(&mut program_on(&db, &["audit", "verify"])).status, 1);
    let failing = "billing_job_runs WHERE job = 'audit-verification' AND NOT succeeded";
    assert_eq!(db.count(failing).await, 1, "the job has its record");
    let repair = ["audit", "repair", "--organization", &id];
    let refused = run(&mut program_on(&db, &repair));
    assert_eq!(refused.status, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("--reason: nothing was repaired"),
        "{}",
        refused.stderr
    );
    assert_eq!(run(&mut program_on(&db, &["audit", "verify"])).status, 1);
    let accepted = [&repair[..], &["--reason", "a script went wrong"]].concat();
    let accepted = run(&mut program_on(&db, &accepted));
    assert_eq!(accepted.status, 0, "{}", accepted.stderr);
    assert_eq!(run(&mut program_on(&db, &["audit", "verify"])).status, 0);
}
