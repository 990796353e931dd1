//! The owner mends a chain that was stopped.

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _};
use valuecanvas_billing::audit::verify;

use super::{ORGANIZATION, append, breaks, raw, repair, with_chains};
use crate::database::tenants::{Outcome, attempt};
use crate::support::TestDatabase;
use crate::support::program::{program_on, run};

/// As databases of before may have it, or what a superuser did.
async fn damage(db: &TestDatabase, statement: &str) {
    db.execute(&format!(
        "SET session_replication_role = replica; {statement}; RESET session_replication_role"
    ))
    .await;
}

#[tokio::test]
async fn the_owner_repairs_a_chain_that_was_stopped_and_an_entry_says_so() {
    let of_head = |sets: &str| {
        format!(
            "UPDATE billing_audit_chain_heads SET {sets} WHERE organization_id = '{ORGANIZATION}'"
        )
    };
    for (stopped, head) in [
        (of_head("last_sequence = 9223372036854775807"), 3),
        (of_head("last_sequence = 0, last_hash = sha256('')"), 3),
        (of_head("last_hash = sha256('x')"), 3),
        (
            format!(
                "DELETE FROM billing_audit_chain_heads WHERE organization_id = '{ORGANIZATION}'"
            ),
            3,
        ),
        (
            format!(
                "DELETE FROM billing_audit_log WHERE organization_id = '{ORGANIZATION}'; {}",
                of_head("last_sequence = 9223372036854775807")
            ),
            0,
        ),
        (
            format!(
                "{}; {}",
                raw("9223372036854775807", "sha256('x')"),
                of_head("last_sequence = 9223372036854775807")
            ),
            3,
        ),
    ] {
        let db = with_chains().await;
        damage(&db, &stopped).await;
        let said = repair(&db, &["--json", "--reason", "a script", "--as", "Ada"]);
        assert_eq!(said.status, 0, "{stopped}: {}", said.stderr);
        let said = said.json();
        assert_eq!(
            (&said["head"], &said["entry"]),
            (&json!(head), &json!(head + 1)),
            "{said}"
        );
        append(&db)
            .await
            .unwrap_or_else(|e| panic!("{stopped}: {e}"));
        assert_eq!(breaks(&db).await, [], "{stopped}");

        let list = [
            "audit",
            "list",
            "--json",
            "--action",
            "audit_chain_repaired",
        ];
        let entries = run(&mut program_on(&db, &list)).json();
        let entry = &entries[0];
        assert_eq!(entry["sequence"], head + 1, "{entries}");
        assert_eq!(entry["afterState"]["lastSequence"], head);
        assert_eq!(entry["metadata"]["reason"], "a script");
        assert_eq!(entry["metadata"]["initiator"]["as"], "Ada");
        assert_eq!(entry["metadata"]["initiator"]["command"], "audit repair");

        // A second time there is nothing to do, and nothing is entered.
        let again = repair(&db, &["--json"]);
        assert_eq!((again.status, again.json()), (0, Value::Null));
    }
}

/// The owner lets a chain go on; what was tampered with stays to be seen, and
/// nothing else is covered by that.
#[tokio::test]
async fn what_a_repair_accepted_is_shown_and_what_comes_later_is_found() {
    let db = with_chains().await;
    damage(
        &db,
        &format!("UPDATE billing_audit_log SET action = 'other' WHERE organization_id = '{ORGANIZATION}' AND sequence = 2"),
    )
    .await;
    assert_eq!(breaks(&db).await.len(), 1);
    let repaired = repair(&db, &["--json"]).json();
    assert_eq!(
        repaired["accepted"].as_array().unwrap().len(),
        1,
        "{repaired}"
    );
    let verified = run(&mut program_on(&db, &["audit", "verify"]));
    assert_eq!(verified.status, 0, "{}", verified.stdout);
    assert!(
        verified.stdout.contains("entry 2 was changed") && verified.stdout.contains("repaired"),
        "{}",
        verified.stdout
    );
    for tampering in [
        "SET user_agent = 'x' WHERE sequence = 2",
        "SET hash = sha256('x') WHERE sequence = 2",
        "SET action = 'x' WHERE sequence = 1",
        "SET action = 'x' WHERE sequence = 3",
        "SET metadata = metadata || '{\"accepted\": []}' WHERE action = 'audit_chain_repaired'",
    ] {
        let mut tx = db.pool.begin().await.unwrap();
        let sql = format!(
            "SET LOCAL session_replication_role = replica;
             UPDATE billing_audit_log {tampering} AND organization_id = '{ORGANIZATION}'"
        );
        tx.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
        let found = verify(&mut tx, None).await.unwrap().breaks;
        assert_eq!(found.len(), 1, "{tampering}: {found:?}");
    }
}

#[tokio::test]
async fn only_the_owner_repairs() {
    let db = with_chains().await;
    damage(
        &db,
        "UPDATE billing_audit_chain_heads SET last_sequence = 9",
    )
    .await;
    let organization = ORGANIZATION.to_string();
    let mut command = program_on(&db, &["audit", "repair", "--organization", &organization]);
    let refused = run(command.env("MIGRATION_DATABASE_URL", db.url("billing_service")));
    assert_eq!(refused.status, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("MIGRATION_DATABASE_URL"),
        "{}",
        refused.stderr
    );
    let mut conn = db.options("postgres").connect().await.unwrap();
    for role in ["billing_app", "billing_worker"] {
        let set = "UPDATE billing_audit_chain_heads h SET last_sequence = 3, last_hash = l.hash
                     FROM billing_audit_log l
                    WHERE l.organization_id = h.organization_id AND l.sequence = 3";
        let outcome = attempt(&mut conn, role, Some(ORGANIZATION), set).await;
        assert_eq!(outcome, Outcome::refused(), "{role}");
    }
    assert_eq!(breaks(&db).await.len(), 2);
}

/// Whoever follows the deployment guide's rollback has its file's functions.
#[tokio::test]
async fn the_guides_file_run_again_leaves_chains_that_grow() {
    let db = with_chains().await;
    let file = "supabase/migrations/20260101091000_billing_audit_log.sql";
    let newer = [
        "supabase/migrations/20260109010000_audit_chains.sql",
        "supabase/migrations/20260119010000_audit_personal_data.sql",
    ];
    let doctor = || {
        let checks = run(&mut program_on(&db, &["doctor", "--json"])).json();
        let checks = checks.as_array().unwrap().clone();
        let check = checks.into_iter().find(|c| c["name"] == "audit function");
        check.unwrap()["verdict"].clone()
    };
    assert_eq!(doctor(), "ok");
    for drop in ["", "DROP TABLE billing_audit_log CASCADE"] {
        if !drop.is_empty() {
            db.execute(drop).await;
        }
        let ran = crate::database::psql::file(&db.url("postgres"), file.as_ref());
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
        append(&db).await.unwrap();
        let verified = run(&mut program_on(&db, &["migrate", "verify"]));
        assert_eq!(verified.status, 0, "{}", verified.stdout);
        assert_eq!(doctor(), "warning", "{drop}");
    }
    for file in newer {
        let ran = crate::database::psql::file(&db.url("postgres"), file.as_ref());
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    }
    append(&db).await.unwrap();
    assert_eq!(doctor(), "ok");
}

#[tokio::test]
async fn doctor_names_chains_that_do_not_go_on() {
    let db = with_chains().await;
    let check = || {
        let checks = run(&mut program_on(&db, &["doctor", "--json"])).json();
        let checks = checks.as_array().unwrap().clone();
        checks
            .into_iter()
            .find(|c| c["name"] == "audit chains")
            .unwrap()
    };
    assert_eq!(check()["verdict"], "ok");
    damage(
        &db,
        &format!("UPDATE billing_audit_chain_heads SET last_sequence = 9223372036854775807 WHERE organization_id = '{ORGANIZATION}'"),
    )
    .await;
    let found = check();
    assert_eq!(found["verdict"], "warning", "{found}");
    assert!(
        found["detail"]
            .as_str()
            .unwrap()
            .contains(&ORGANIZATION.to_string())
    );
    assert!(
        found["fix"].as_str().unwrap().contains("audit repair"),
        "{found}"
    );
    repair(&db, &[]);
    assert_eq!(check()["verdict"], "ok");
}
