//! Every way to apply the migrations, and to undo them.

use std::collections::BTreeSet;

use serde_json::Value;
use sqlx::ConnectOptions as _;

use super::logins::Login;
use super::{psql, tenants};
use crate::support::TestDatabase;
use crate::support::database::migration_files;
use crate::support::program::{Ran, program, program_on, run};

const BEFORE_THE_GUIDE: &str = "20260101090300";

fn migrate(db: &TestDatabase, arguments: &[&str]) -> Ran {
    run(&mut program_on(db, &[&["migrate"], arguments].concat()))
}

/// The file's name without its ending: version and name of the last migration.
fn newest() -> String {
    let files = migration_files();
    let stem = files.last().unwrap().file_stem().unwrap();
    stem.to_string_lossy().into_owned()
}

fn done(ran: &Ran) {
    assert_eq!(ran.status, 0, "{}\n{}", ran.stdout, ran.stderr);
}

/// The states of all migrations.
fn states(db: &TestDatabase) -> Vec<String> {
    let status = migrate(db, &["status", "--json"]);
    done(&status);
    let state = |entry: &Value| entry["state"].as_str().unwrap().to_owned();
    status
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(state)
        .collect()
}

fn all(state: &str) -> Vec<String> {
    vec![state.to_owned(); migration_files().len()]
}

#[tokio::test]
async fn up_takes_an_empty_database_to_a_whole_one() {
    let db = TestDatabase::empty().await;
    assert_eq!(states(&db), all("pending"));
    let first = migrate(&db, &["up"]);
    done(&first);
    assert!(
        first
            .stderr
            .contains("applying 20260101090000_billing_roles"),
        "{}",
        first.stderr
    );
    assert_eq!(states(&db), all("applied"));
    done(&migrate(&db, &["verify"]));
    let second = migrate(&db, &["up"]);
    done(&second);
    assert!(
        second.stderr.contains("0 migrations applied"),
        "{}",
        second.stderr
    );
}

#[tokio::test]
async fn psql_applies_each_file_once_or_twice_and_up_adopts_them() {
    let db = TestDatabase::empty().await;
    for round in ["first", "second"] {
        for path in migration_files() {
            let ran = psql::file(&db.url("postgres"), &path);
            assert_eq!(
                (ran.status, ran.stderr.as_str()),
                (0, ""),
                "{round}: {}",
                path.display()
            );
        }
        assert_eq!(states(&db), all("applied"));
    }
    let unknown = "billing_schema_migrations WHERE checksum IS NULL";
    assert_eq!(db.count(unknown).await, migration_files().len() as i64);
    let up = migrate(&db, &["up"]);
    assert!(up.stderr.contains("0 migrations applied"), "{}", up.stderr);
    assert_eq!(db.count(unknown).await, 0);
    done(&migrate(&db, &["verify"]));
}

#[tokio::test]
async fn running_every_file_again_keeps_the_rows() {
    let db = TestDatabase::new().await;
    tenants::two(&db).await;
    let before = rows(&db).await;
    for path in migration_files() {
        assert_eq!(
            psql::file(&db.url("postgres"), &path).stderr,
            "",
            "{}",
            path.display()
        );
    }
    assert_eq!(rows(&db).await, before);
    done(&migrate(&db, &["verify"]));
}

/// Where the login's search_path leads elsewhere, the tables are in public.
#[tokio::test]
async fn the_logins_search_path_does_not_matter() {
    let db = TestDatabase::empty().await;
    db.execute("CREATE SCHEMA elsewhere").await;
    db.execute(&format!(
        "ALTER DATABASE {} SET search_path = elsewhere",
        db.name
    ))
    .await;
    done(&migrate(&db, &["up"]));
    assert_eq!(
        db.count("pg_tables WHERE schemaname = 'elsewhere'").await,
        0
    );
    done(&migrate(&db, &["verify"]));
    done(&migrate(
        &db,
        &["rollback", "--to", "20260101090000", "--yes"],
    ));
    done(&migrate(&db, &["rollback", "--yes"]));
    assert_eq!(db.count("pg_tables WHERE schemaname = 'public'").await, 0);
}

#[tokio::test]
async fn a_hosted_administrator_migrates_without_being_superuser() {
    let db = TestDatabase::empty().await;
    let administrator = Login::hosted_administrator(&db).await;
    let url = db.url(&administrator.name);
    for arguments in [
        &["migrate", "up"][..],
        &["migrate", "verify"],
        &["migrate", "rollback", "--to", "20260101090000", "--yes"],
        &["migrate", "rollback", "--yes"],
        &["migrate", "up"],
        &["migrate", "verify"],
    ] {
        let mut command = program_on(&db, arguments);
        done(&run(command.env("MIGRATION_DATABASE_URL", &url)));
    }
    for path in migration_files() {
        let ran = psql::file(&url, &path);
        assert_eq!(
            (ran.status, ran.stderr.as_str()),
            (0, ""),
            "{}",
            path.display()
        );
    }
    // With this login operators look at everything.
    tenants::two(&db).await;
    let seen = psql::typed(&url, "\\t\n\\a\nSELECT count(*) FROM organizations;\n");
    assert_eq!(seen.stdout.lines().last(), Some("2"), "{}", seen.stderr);
    // pg_dump leaves row-level security off unless told, which only those may
    // who bypass it.
    let directory = tempfile::tempdir().unwrap();
    let dump = psql::shell(
        &url,
        directory.path(),
        "pg_dump --enable-row-security $DATABASE_URL",
    );
    assert_eq!(dump.status, 0, "{}", dump.stderr);
    let dumped = dump
        .stdout
        .matches("payment_failed\t1\tinvoice\tin")
        .count();
    assert_eq!(dumped, 2);
}

#[tokio::test]
async fn where_the_roles_exist_membership_in_the_owner_is_enough() {
    let db = TestDatabase::empty().await;
    let login = Login::new(&db, "").await;
    db.execute(&format!(
        "ALTER DATABASE {} OWNER TO {}",
        db.name, login.name
    ))
    .await;
    let up = || {
        run(program_on(&db, &["migrate", "up"]).env("MIGRATION_DATABASE_URL", db.url(&login.name)))
    };
    let refused = up();
    assert_eq!(refused.status, 1, "{}", refused.stderr);
    assert!(
        refused
            .stderr
            .contains("must have admin option on role \"billing_owner\""),
        "{}",
        refused.stderr
    );
    db.execute(&format!("GRANT billing_owner TO {}", login.name))
        .await;
    done(&up());
}

#[tokio::test]
async fn two_at_once_apply_each_migration_once() {
    let db = TestDatabase::empty().await;
    let runs: Vec<_> = (0..2)
        .map(|_| {
            let mut command = program_on(&db, &["migrate", "up"]);
            std::thread::spawn(move || run(&mut command))
        })
        .collect();
    let mut applied = 0;
    for ran in runs {
        let ran = ran.join().unwrap();
        done(&ran);
        applied += ran.stderr.matches("applying").count();
    }
    assert_eq!(applied, migration_files().len());
    done(&migrate(&db, &["verify"]));
}

/// The tenants' rows, whole but for columns that later migrations add.
async fn rows(db: &TestDatabase) -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    for table in tenants::tables(db).await {
        let added = "{retry_count,next_retry_at,error_message,attempts,waiting_for_customer_id,lease_id,lease_expires_at,\
                      discounted,taxed,stripe_test_clock_id,ask_again_since,deleted_at,delinquent,currency,\
                      default_payment_method_id,last_event_at,last_event_rank,last_event_id,tied_event_ids,pending_update,\
                      has_more_items,external_id,email,erased_at,linked_at,recovery_attempts,\
                      recovery_error,next_recovery_at,abandoned_at,known_tier,event_created_at,extract,\
                      plan_version,plan_interval,grace_max,stripe_schedule_id,cancellation_comment,\
                      cancellation_feedback,cancellation_reason,plan_currency,plan_seats,seats_held,plan_addons,\
                      discount_ids,tax_located,tax_country,discount_amount,included_tax_amount,\
                      usage_period_start,usage_period_end,amount_refunded_told,refunds_told_by,\
                      added_quota,added_unlimited,kept_added_quota,kept_added_unlimited,\
                      first_failed_at,past_due_since,access_ends_at,access_ended_at,\
                      collection_paused,quantity_divide_by,quantity_round,tax_behavior,\
                      included_tax_percent}";
        // Columns of this name are older elsewhere.
        let added = match table.as_str() {
            "billing_subscription_items" => added.replace('}', ",plan_tier,metric,seats,addon}"),
            "billing_invoice_items" => added.replace('}', ",tax_amount}"),
            "organizations" => added.replace(
                '}',
                ",metadata,archived_at,folded_name,folded_email,unentered_changes}",
            ),
            _ => added.to_owned(),
        };
        rows.insert(
            db.value(&format!(
                "SELECT '{table} ' || coalesce(jsonb_agg((to_jsonb(t) - '{added}'::text[]) ORDER BY t::text)::text, '') FROM {table} t"
            ))
            .await,
        );
    }
    rows
}

#[tokio::test]
async fn the_guides_migrations_go_and_come_back_without_loss() {
    let db = TestDatabase::new().await;
    tenants::two(&db).await;
    let letters = db.count("webhook_dead_letter_queue").await;
    let events = db.count("webhook_events").await;
    let older: Vec<String> = rows(&db)
        .await
        .into_iter()
        .filter(|row| {
            ![
                "webhook",
                "billing_audit",
                "grace",
                "api_keys",
                "organization_members",
                "request_idempotency",
                "billing_stripe_requests",
                "usage_quota_overrides",
                "usage_events",
                "usage_totals",
                "usage_reservations",
                "usage_alerts",
                "usage_denials",
                "usage_reports",
                "usage_charges",
                "usage_pending_levels",
                "organization_features",
                "feature_overrides",
                "billing_subscription_schedules",
                "billing_discounts",
                "billing_disputes",
                "billing_refunds",
                "billing_invoice_payments",
                "billing_checkout_sessions",
                "checkout_sessions",
                "billing_deleted_invoices",
                "billing_prices",
                "plan_version",
                "outbound_",
                "portal_sessions",
                "billing_revenue_",
                "mails",
            ]
            .iter()
            .any(|new| row.starts_with(new))
        })
        .collect();
    // The same event in both places is the event log's.
    db.execute("UPDATE webhook_dead_letter_queue SET stripe_event_id = replace(stripe_event_id, 'b1', 'b2')")
        .await;

    done(&migrate(
        &db,
        &["rollback", "--to", BEFORE_THE_GUIDE, "--yes", "--force"],
    ));
    let states_now = states(&db);
    let (kept, undone) = states_now.split_at(4);
    assert!(kept.iter().all(|state| state == "applied"));
    assert!(undone.iter().all(|state| state == "pending"));
    let kept = rows(&db).await;
    assert!(
        older.iter().all(|row| kept.contains(row)),
        "{older:#?}\n{kept:#?}"
    );
    assert_eq!(
        db.count("webhook_events WHERE NOT processed").await,
        events + letters - 1
    );

    done(&migrate(&db, &["up"]));
    done(&migrate(&db, &["verify"]));
    let back = rows(&db).await;
    assert!(older.iter().all(|row| back.contains(row)));
    assert_eq!(
        db.count("webhook_events WHERE retry_count = 0").await,
        events + letters - 1
    );
}

#[tokio::test]
async fn rollback_undoes_the_newest_or_down_to_a_version_or_everything() {
    let db = TestDatabase::new().await;
    tenants::two(&db).await;
    let newest = migrate(&db, &["rollback", "--yes", "--force"]);
    done(&newest);
    assert!(
        newest
            .stderr
            .contains(&format!("undoing {}", self::newest())),
        "{}",
        newest.stderr
    );
    assert!(
        newest.stderr.contains("1 migration undone"),
        "{}",
        newest.stderr
    );
    done(&migrate(
        &db,
        &["rollback", "--to", "20260101090100", "--yes", "--force"],
    ));
    assert_eq!(db.count("organizations").await, 2);
    done(&migrate(
        &db,
        &["rollback", "--to", "20260101090000", "--yes", "--force"],
    ));
    done(&migrate(&db, &["rollback", "--yes", "--force"]));
    assert_eq!(states(&db), all("pending"));
    let left = "pg_class WHERE relnamespace IN ('public'::regnamespace, to_regnamespace('auth'))";
    assert_eq!(db.count(left).await, 0);
    assert_eq!(
        db.count("pg_proc WHERE pronamespace = 'public'::regnamespace")
            .await,
        0
    );
    let nothing = migrate(&db, &["rollback", "--yes", "--force"]);
    done(&nothing);
    assert!(
        nothing.stderr.contains("0 migrations undone"),
        "{}",
        nothing.stderr
    );
    done(&migrate(&db, &["up"]));
    done(&migrate(&db, &["verify"]));
}

#[tokio::test]
async fn the_exit_status_tells_usage_from_outage() {
    let db = TestDatabase::new().await;
    for version in ["20260101093001", "newest", "", "0"] {
        let unknown = migrate(&db, &["rollback", "--to", version]);
        assert_eq!(unknown.status, 2, "{version}: {}", unknown.stderr);
    }
    assert_eq!(
        db.value("SELECT max(version) FROM billing_schema_migrations")
            .await,
        newest()[..14]
    );
    for arguments in [
        ["migrate", "up"],
        ["migrate", "status"],
        ["migrate", "verify"],
    ] {
        let mut command = program(&arguments);
        command.env("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nowhere");
        let away = run(&mut command);
        assert_eq!(away.status, 3, "{arguments:?}: {}", away.stderr);
        assert!(
            away.stderr.contains("the database cannot be reached"),
            "{}",
            away.stderr
        );
    }
}

/// Tables and columns that are there, by name.
async fn there(db: &TestDatabase) -> BTreeSet<String> {
    let names = db
        .value(
            "SELECT string_agg(name, ' ') FROM (
               SELECT c.relname || '.' || a.attname AS name
                 FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
                WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
                  AND a.attnum > 0 AND NOT a.attisdropped
                  AND c.relname <> 'billing_schema_migrations') names",
        )
        .await;
    names.split_whitespace().map(str::to_owned).collect()
}

#[tokio::test]
async fn what_a_rollback_says_is_lost_is_what_its_files_drop() {
    let db = TestDatabase::new().await;
    let mut conn = db.options("postgres").connect().await.unwrap();
    for migration in valuecanvas_billing::migrations::MIGRATIONS.iter().rev() {
        let said = valuecanvas_billing::migrations::dropped(migration);
        let before = there(&db).await;
        valuecanvas_billing::migrations::rollback(&mut conn, None, |_| {})
            .await
            .unwrap();
        let after = there(&db).await;
        for gone in before.difference(&after) {
            let (table, _) = gone.split_once('.').unwrap();
            assert!(
                said.contains(gone) || said.contains(table),
                "{} drops {gone} and does not say so",
                migration.name
            );
        }
        for name in said {
            let gone = |there: &BTreeSet<String>| {
                !there
                    .iter()
                    .any(|column| *column == name || column.split('.').next() == Some(&*name))
            };
            assert!(gone(&after), "{} says {name}, and keeps it", migration.name);
        }
    }
}

#[tokio::test]
async fn a_run_that_waits_in_vain_names_who_holds_the_lock() {
    use std::time::Duration;
    use valuecanvas_billing::migrations;

    let db = TestDatabase::new().await;
    let mut holder = db
        .service()
        .application_name("somebody")
        .connect()
        .await
        .unwrap();
    sqlx::query("SELECT pg_advisory_lock(7226831505411)")
        .execute(&mut holder)
        .await
        .unwrap();
    let mut conn = db.options("postgres").connect().await.unwrap();
    let patience = Duration::from_millis(100);
    let error = migrations::up_within(&mut conn, patience, |_| {})
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("another migration is running")
            && error.contains("billing_service (somebody)"),
        "{error}"
    );
    drop(holder);
}
