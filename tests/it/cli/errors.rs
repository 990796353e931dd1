//! Errors of the database, in words that lead to the fix.

use crate::support::TestDatabase;
use crate::support::program::{program_on, run};

#[tokio::test]
async fn a_read_only_database_is_not_called_out_of_reach() {
    let db = TestDatabase::new().await;
    db.execute(&format!(
        "ALTER DATABASE {} SET default_transaction_read_only = on",
        db.name
    ))
    .await;
    for arguments in [
        &["organizations", "create", "--name", "Acme"][..],
        &["grace-periods", "cleanup", "--older-than-days", "30"],
    ] {
        let refused = run(&mut program_on(&db, arguments));
        assert_eq!(refused.status, 3, "{arguments:?}: {}", refused.stderr);
        for said in [
            "the database is read-only",
            "a standby, or default_transaction_read_only",
        ] {
            assert!(refused.stderr.contains(said), "{}", refused.stderr);
        }
        assert!(
            !refused.stderr.contains("cannot be reached"),
            "{}",
            refused.stderr
        );
        assert!(!refused.stderr.contains(" at line "), "{}", refused.stderr);
    }
}

#[tokio::test]
async fn the_services_login_where_the_owner_is_needed_is_named_by_the_owners_variable() {
    let db = TestDatabase::new().await;
    for arguments in [
        &["migrate", "status"][..],
        &["migrate", "rollback", "--yes"],
    ] {
        let mut command = program_on(&db, arguments);
        let refused = run(command.env("MIGRATION_DATABASE_URL", db.url("billing_service")));
        assert_eq!(refused.status, 2, "{arguments:?}: {}", refused.stderr);
        for said in ["MIGRATION_DATABASE_URL", "the login of the tables' owner"] {
            assert!(refused.stderr.contains(said), "{}", refused.stderr);
        }
    }
}
