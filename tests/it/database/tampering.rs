//! What a superuser does behind the triggers' back, `audit verify` finds.

use serde_json::json;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use uuid::Uuid;
use valuecanvas_billing::audit::verify;

use super::tenants::{Outcome, attempt};
use crate::support::TestDatabase;
use crate::support::program::{program_on, run};

const OURS: Uuid = Uuid::from_u128(0xa);
const OTHER: Uuid = Uuid::from_u128(0xb);

/// What is done to our chain of five entries, where it breaks then, and what
/// is said of it. `{ours}` narrows to our chain.
const TAMPERINGS: &[(&str, i64, &str)] = &[
    (
        "DELETE FROM billing_audit_log WHERE {ours} AND sequence = 3",
        3,
        "entries 3 to 3 were removed",
    ),
    (
        "DELETE FROM billing_audit_log WHERE {ours} AND sequence IN (1, 2)",
        1,
        "entries 1 to 2 were removed",
    ),
    (
        "DELETE FROM billing_audit_log WHERE {ours} AND sequence = 5",
        5,
        "the chain's last entries, 5 to 5, were removed",
    ),
    (
        "DELETE FROM billing_audit_log WHERE {ours}",
        1,
        "the chain's last entries, 1 to 5, were removed",
    ),
    (
        "UPDATE billing_audit_log SET sequence = 30 WHERE {ours} AND sequence = 2;
         UPDATE billing_audit_log SET sequence = 2 WHERE {ours} AND sequence = 3;
         UPDATE billing_audit_log SET sequence = 3 WHERE {ours} AND sequence = 30",
        2,
        "entry 2 was changed, or one before it replaced",
    ),
    (
        "UPDATE billing_audit_log SET action = 'test_action', sequence = NULL, hash = NULL WHERE {ours} AND sequence = 4",
        4,
        "entries 4 to 4 were removed",
    ),
    // A forger who does not know the chain.
    (
        "INSERT INTO billing_audit_log SELECT organization_id, gen_random_uuid(), 6, action, actor_type, actor_id,
           resource_type, resource_id, before_state, after_state, metadata, ip_address, user_agent, created_at, hash
           FROM billing_audit_log WHERE {ours} AND sequence = 5",
        6,
        "entry 6 was changed, or one before it replaced",
    ),
    // One who does, but forgets the head.
    (
        "CREATE TEMP TABLE head AS SELECT * FROM billing_audit_chain_heads WHERE {ours};
         SELECT log_billing_action('{id}', 'forged', 'user', p_resource_type => 'plan');
         UPDATE billing_audit_chain_heads h SET last_sequence = head.last_sequence, last_hash = head.last_hash
           FROM head WHERE h.organization_id = head.organization_id",
        6,
        "the chain's head was set back to 5, or removed",
    ),
    (
        "UPDATE billing_audit_chain_heads SET last_sequence = 3 WHERE {ours}",
        4,
        "the chain's head was set back to 3, or removed",
    ),
    (
        "DELETE FROM billing_audit_chain_heads WHERE {ours}",
        1,
        "the chain's head was set back to 0, or removed",
    ),
    (
        "UPDATE billing_audit_chain_heads SET last_hash = sha256('') WHERE {ours}",
        5,
        "the chain's head has another hash",
    ),
    (
        "UPDATE billing_audit_personal_data p SET ip_address = '10.0.0.2' FROM billing_audit_log l
          WHERE p.organization_id = l.organization_id AND p.entry_id = l.id AND l.{ours}
            AND l.sequence = 2",
        2,
        "the personal data of entry 2 were changed",
    ),
    (
        "UPDATE billing_audit_personal_data p SET reason = 'none' FROM billing_audit_log l
          WHERE p.organization_id = l.organization_id AND p.entry_id = l.id AND l.{ours}
            AND l.sequence = 5",
        5,
        "the personal data of entry 5 were changed",
    ),
    (
        "DELETE FROM billing_audit_personal_data WHERE {ours}",
        1,
        "the personal data of entry 1 were removed, and `organizations erase` did not run since",
    ),
    // What was erased says nothing of what was entered since.
    (
        "SELECT log_billing_action('{id}', 'organization_erased', 'system', p_resource_type => 'organization',
                                   p_resource_id => '{id}');
         SELECT log_billing_action('{id}', 'plan_changed', 'user', p_resource_type => 'plan',
                                   p_user_agent => 'curl/8');
         DELETE FROM billing_audit_personal_data WHERE {ours}",
        7,
        "the personal data of entry 7 were removed, and `organizations erase` did not run since",
    ),
    // An erasure takes all, and nothing comes back.
    (
        "SELECT log_billing_action('{id}', 'organization_erased', 'system', p_resource_type => 'organization',
                                   p_resource_id => '{id}');
         DELETE FROM billing_audit_personal_data p USING billing_audit_log l
          WHERE p.organization_id = l.organization_id AND p.entry_id = l.id AND l.{ours}
            AND l.sequence < 4",
        4,
        "there are personal data of entry 4, though all were erased since; if a backup brought them back, \
         run `organizations erase` again",
    ),
    (
        "SELECT log_billing_action('{id}', 'plan_changed', 'user', p_resource_type => 'plan');
         INSERT INTO billing_audit_personal_data (organization_id, entry_id, salt, reason)
         SELECT organization_id, id, uuid_send(id), 'invented' FROM billing_audit_log
          WHERE {ours} AND sequence = 6",
        6,
        "personal data of entry 6 were added",
    ),
    (
        "UPDATE billing_audit_chain_heads SET last_sequence = 9 WHERE {ours}",
        6,
        "the chain's last entries, 6 to 9, were removed",
    ),
];

/// Every column, and another value for it.
const CHANGES: &[(&str, &str)] = &[
    ("id", "gen_random_uuid()"),
    ("action", "'plan_kept'"),
    ("actor_type", "'system'"),
    ("actor_id", "NULL"),
    ("resource_type", "'plans'"),
    ("resource_id", "''"),
    ("before_state", "NULL"),
    ("after_state", "'{\"plan\": \"free\"}'"),
    ("metadata", "'{\"note\": 1.0}'"),
    ("ip_address", "'10.0.0.2'"),
    ("user_agent", "'curl/8.1'"),
    ("created_at", "created_at - interval '1 microsecond'"),
    ("hash", "sha256(hash)"),
];

/// Two chains of five entries.
async fn with_chains() -> TestDatabase {
    let db = TestDatabase::new().await;
    for organization in [OURS, OTHER] {
        db.execute(&format!(
            "SELECT log_billing_action('{organization}', 'plan_changed', 'user', '{organization}', 'plan', n::text,
                                       '{{\"plan\": \"free\"}}', '{{\"plan\": \"standard\"}}', '{{\"note\": 1}}',
                                       '10.0.0.1', 'curl/8')
               FROM generate_series(1, 5) n"
        ))
        .await;
    }
    db
}

fn behind_the_triggers(statements: &str) -> String {
    let statements = statements
        .replace("{ours}", &format!("organization_id = '{OURS}'"))
        .replace("{id}", &OURS.to_string());
    format!(
        "SET LOCAL session_replication_role = replica; {statements};
         SET LOCAL session_replication_role = origin"
    )
}

#[tokio::test]
async fn each_way_to_tamper_is_found() {
    let db = with_chains().await;
    let mut conn = db.pool.acquire().await.unwrap();
    let unharmed = verify(&mut conn, None).await.unwrap();
    assert_eq!(
        (unharmed.chains, unharmed.entries, unharmed.breaks),
        (2, 10, vec![])
    );
    for (tampering, sequence, said) in TAMPERINGS {
        let mut tx = conn.begin().await.unwrap();
        tx.execute(sqlx::raw_sql(AssertSqlSafe(behind_the_triggers(tampering))))
            .await
            .unwrap_or_else(|e| panic!("{tampering}: {e}"));
        let found = verify(&mut tx, None).await.unwrap().breaks;
        let found: Vec<_> = found
            .iter()
            .map(|b| (b.organization_id, b.sequence, b.problem.as_str()))
            .collect();
        assert_eq!(found, [(OURS, *sequence, *said)], "{tampering}");
    }
}

#[tokio::test]
async fn a_change_to_any_column_is_found() {
    let db = with_chains().await;
    let columns: Vec<String> = sqlx::query_scalar(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = 'billing_audit_log'::regclass AND attnum > 0
            AND attname NOT IN ('organization_id', 'sequence')",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    let mut conn = db.pool.acquire().await.unwrap();
    for column in columns {
        let (_, value) = CHANGES
            .iter()
            .find(|(name, _)| *name == column)
            .unwrap_or_else(|| panic!("say in CHANGES how to change {column}"));
        let change = format!(
            "UPDATE billing_audit_log SET {column} = {value} WHERE {{ours}} AND sequence = 2"
        );
        let mut tx = conn.begin().await.unwrap();
        tx.execute(sqlx::raw_sql(AssertSqlSafe(behind_the_triggers(&change))))
            .await
            .unwrap();
        let found = verify(&mut tx, None).await.unwrap().breaks;
        assert_eq!(found.len(), 1, "{change}");
        assert_eq!(found[0].sequence, 2, "{change}");
    }
}

/// What the owner accepted is that it is gone, not what anybody puts there afterwards.
#[tokio::test]
async fn personal_data_that_come_back_were_not_accepted() {
    let db = with_chains().await;
    let delete = "DELETE FROM billing_audit_personal_data p USING billing_audit_log l
                   WHERE p.entry_id = l.id AND l.sequence = 5";
    db.execute(delete).await;
    let verify = || run(&mut program_on(&db, &["audit", "verify", "--json"])).json();
    assert_eq!(verify()["breaks"].as_array().unwrap().len(), 2);
    for organization in [OURS, OTHER] {
        let organization = organization.to_string();
        let arguments = [
            "audit",
            "repair",
            "--organization",
            &organization,
            "--reason",
            "lost",
        ];
        let repaired = run(&mut program_on(&db, &arguments));
        assert_eq!(repaired.status, 0, "{}", repaired.stderr);
    }
    let accepted = verify();
    assert_eq!(accepted["breaks"], json!([]));
    assert_eq!(accepted["repaired"].as_array().unwrap().len(), 2);
    db.execute(
        "INSERT INTO billing_audit_personal_data (organization_id, entry_id, salt, reason)
         SELECT organization_id, id, uuid_send(id), 'forged' FROM billing_audit_log WHERE sequence = 5",
    )
    .await;
    let forged = verify();
    assert_eq!(forged["breaks"].as_array().unwrap().len(), 2, "{forged}");
    // Of an entry that there is not.
    db.execute(
        "INSERT INTO billing_audit_personal_data (organization_id, entry_id, salt, reason)
         SELECT organization_id, gen_random_uuid(), uuid_send(id), 'astray' FROM billing_audit_log
          WHERE sequence = 1",
    )
    .await;
    assert_eq!(verify()["strayPersonalData"], 2);
}

#[tokio::test]
async fn who_serves_enters_no_erasure_and_no_digest_of_their_own() {
    let db = with_chains().await;
    let mut conn = db.service().connect().await.unwrap();
    let enter = |action: &str, metadata: &str| {
        format!(
            "SELECT log_billing_action('{OURS}', '{action}', 'system', p_resource_type => 'organization',
                                       p_resource_id => '{OURS}', p_metadata => '{metadata}')"
        )
    };
    let forged = enter("organization_erased", "{}");
    let outcome = attempt(&mut conn, "billing_app", Some(OURS), &forged).await;
    assert_eq!(outcome, Outcome::refused());
    let digest = enter("plan_changed", r#"{"personalDigest": "ff", "note": 2}"#);
    let outcome = attempt(&mut conn, "billing_app", Some(OURS), &digest).await;
    assert_eq!(outcome, Outcome::Rows(1));
    // Of any kind, whatever else is in the metadata.
    for metadata in ["NULL", "'null'", "'[1]'", "'7'", "'{\"a\": 1}'"] {
        db.execute(&format!(
            "SELECT log_billing_action('{OURS}', 'plan_changed', 'user', p_resource_type => 'plan',
                                       p_metadata => {metadata}, p_ip_address => '10.0.0.0/8')"
        ))
        .await;
    }
    let verified = run(&mut program_on(&db, &["audit", "verify"]));
    assert_eq!(verified.status, 0, "{}", verified.stdout);
    let list = [
        "audit",
        "list",
        "--json",
        "--organization",
        &OURS.to_string(),
    ];
    let listed = run(&mut program_on(&db, &list)).json();
    assert_eq!(listed[0]["ipAddress"], "10.0.0.0/8", "{listed}");
}

#[tokio::test]
async fn an_entry_moved_to_another_organization_breaks_both_chains() {
    let db = with_chains().await;
    let mut tx = db.pool.begin().await.unwrap();
    let moved = format!(
        "UPDATE billing_audit_log SET organization_id = '{OTHER}', sequence = 6 WHERE {{ours}} AND sequence = 5"
    );
    tx.execute(sqlx::raw_sql(AssertSqlSafe(behind_the_triggers(&moved))))
        .await
        .unwrap();
    let found = verify(&mut tx, None).await.unwrap().breaks;
    let found: Vec<_> = found
        .iter()
        .map(|b| (b.organization_id, b.sequence))
        .collect();
    assert_eq!(found, [(OURS, 5), (OTHER, 6)]);
}

#[tokio::test]
async fn the_command_says_what_it_found() {
    let db = with_chains().await;
    let sound = run(&mut program_on(&db, &["audit", "verify"]));
    assert_eq!(sound.status, 0, "{}", sound.stderr);
    db.execute(
        "SET session_replication_role = replica; DELETE FROM billing_audit_log WHERE sequence = 3",
    )
    .await;
    let broken = run(&mut program_on(&db, &["audit", "verify"]));
    assert_eq!(broken.status, 1, "{}", broken.stderr);
    assert!(
        broken.stdout.contains("entries 3 to 3 were removed"),
        "{}",
        broken.stdout
    );
    let broken = run(&mut program_on(&db, &["audit", "verify", "--json"])).json();
    assert_eq!(broken["breaks"].as_array().unwrap().len(), 2, "{broken}");
}
