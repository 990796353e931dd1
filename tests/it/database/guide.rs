//! The deployment guide's commands, taken from the guide and run as printed.

use std::fs;
use std::path::Path;

use super::logins::Login;
use super::rules::violations;
use super::{psql, tenants};
use crate::support::program::{Ran, program_on, run};
use crate::support::service::processor;
use crate::support::{TestDatabase, TestService, events};

/// A command of the guide.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Command {
    /// What is typed at psql's prompt.
    Typed(String),
    /// A line of the shell, or several where a quotation goes on.
    Shell(String),
}

/// The guide's commands on a database, each under the heading it follows.
fn commands() -> Vec<(String, Command)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/deployment-guide.md");
    let guide = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut found = Vec::new();
    let mut heading = "";
    let mut lines = guide.lines();
    while let Some(line) = lines.next() {
        if line.starts_with('#') || line.starts_with("**Issue") {
            heading = line.trim_start_matches(['#', ' ']);
        } else if line == "```bash" || line == "```sql" {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            found.extend(
                in_block(&block)
                    .into_iter()
                    .map(|c| (heading.to_owned(), c)),
            );
        }
    }
    found
}

fn in_block(block: &[&str]) -> Vec<Command> {
    // Only the guide itself reads its comments: psql knows no "#".
    let mut lines = block.iter().filter(|line| !line.starts_with("# "));
    let is_prompt = |line: &str| line.starts_with("psql $") && line.split(' ').count() == 2;
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let begins_sql = ["SELECT ", "ALTER ", "DROP "]
            .iter()
            .any(|word| line.starts_with(word));
        if is_prompt(line) || begins_sql {
            let mut typed = if begins_sql {
                format!("{line}\n")
            } else {
                String::new()
            };
            for line in lines.by_ref().take_while(|line| **line != "\\q") {
                typed.push_str(line);
                typed.push('\n');
            }
            found.push(Command::Typed(typed));
        } else if line.starts_with("psql ") || line.starts_with("pg_dump ") {
            let mut command = (*line).to_owned();
            while command.matches('"').count() % 2 == 1 {
                command.push('\n');
                command.push_str(lines.next().expect("the quotation ends"));
            }
            found.push(Command::Shell(command));
        }
    }
    found
}

/// What each heading's commands show, beyond not failing.
const SHOWN: &[(&str, &[&str])] = &[
    (
        "Step 1: Verify Current State",
        &["migration_name", "billing_audit_log", "(5 rows)"],
    ),
    (
        "Step 4: Verify Migrations",
        &[
            "grace_periods",
            "webhook_dead_letter_queue",
            "retry_count",
            "next_retry_at",
            "log_billing_action",
            "test_action",
            "{\"test\": true}",
            "DELETE 1",
        ],
    ),
    (
        "Step 5: Verify RLS Policies",
        &[
            "public     | billing_audit_log         | t",
            "public     | grace_periods             | t",
            "billing_audit_log_select",
            "{billing_app}",
            "(organization_id = auth.get_current_org_id())",
        ],
    ),
    (
        "Step 4: Verify Production Migrations",
        &["billing_audit_log", "| t"],
    ),
    (
        "Issue: Migration Fails",
        &[
            "billing_invoices",
            "organizations",
            "users",
            "webhook_events",
        ],
    ),
    (
        "Issue: RLS Policies Not Working",
        &["ALTER TABLE", "DROP POLICY", "CREATE POLICY"],
    ),
    (
        "Test 4: Webhook Retry",
        &["stripe_event_id", "invoice.paid", "| f", "(1 row)"],
    ),
    (
        "Test 5: Audit Logging",
        &["organization_created", "system", "(1 row)"],
    ),
    (
        "If Migrations Fail During Application",
        &["billing_customers", "billing_owner"],
    ),
    (
        "Useful Commands",
        &[
            // The newest ten, whatever they are by now.
            "migration_name",
            "(10 rows)",
            "     1",
            "organization_created",
            "(1 row)",
        ],
    ),
    (
        "**Issue:** Grace period not enforcing",
        &["expires_at", "(1 row)"],
    ),
];

/// A database in which something happened.
async fn lived_in() -> TestDatabase {
    let db = TestDatabase::new().await;
    let organization = db.organization("cus_1").await;
    for table in [
        "webhook_events",
        "webhook_dead_letter_queue",
        "grace_periods",
    ] {
        db.execute(&tenants::insert(table, organization, "1")).await;
    }
    db
}

/// Applies nothing and destroys nothing, so that it may be run on any database.
fn only_looks(heading: &str, command: &Command) -> bool {
    match command {
        Command::Typed(_) => heading != "If Issues Discovered After Deployment",
        Command::Shell(line) => line.contains(" -c "),
    }
}

fn perform(url: &str, directory: &Path, command: &Command) -> Ran {
    match command {
        Command::Typed(text) => psql::typed(url, text),
        Command::Shell(line) => psql::shell(url, directory, line),
    }
}

async fn everything_shows_what_it_should(db: &TestDatabase, url: &str) {
    let directory = tempfile::tempdir().unwrap();
    let looks: Vec<_> = commands()
        .into_iter()
        .filter(|(heading, command)| only_looks(heading, command))
        .collect();
    assert_eq!(looks.len(), 15, "{looks:#?}");
    let mut shown = vec![String::new(); SHOWN.len()];
    for (heading, command) in &looks {
        let ran = perform(url, directory.path(), command);
        assert_eq!(
            (ran.status, ran.stderr.as_str()),
            (0, ""),
            "{heading}: {command:?}"
        );
        let place = SHOWN
            .iter()
            .position(|(known, _)| heading.ends_with(known))
            .unwrap_or_else(|| panic!("say in SHOWN what {heading:?} shows"));
        shown[place].push_str(&ran.stdout);
    }
    for ((heading, words), shown) in SHOWN.iter().zip(shown) {
        for words in *words {
            assert!(
                shown.contains(words),
                "{heading}: {words:?} is not in\n{shown}"
            );
        }
    }
    assert_eq!(
        db.count("billing_audit_log WHERE action = 'test_action'")
            .await,
        0
    );
    // The repair of the policies left them as good as they were.
    assert_eq!(
        violations(&mut db.pool.acquire().await.unwrap()).await,
        [""; 0]
    );
    let verified = run(&mut program_on(db, &["migrate", "verify"]));
    assert_eq!(verified.status, 0, "{}", verified.stdout);
}

#[tokio::test]
async fn a_superuser_can_type_everything() {
    let db = lived_in().await;
    everything_shows_what_it_should(&db, &db.url("postgres")).await;
}

#[tokio::test]
async fn a_hosted_administrator_can_type_everything() {
    let db = lived_in().await;
    let administrator = Login::hosted_administrator(&db).await;
    db.execute(&format!("GRANT billing_owner TO {}", administrator.name))
        .await;
    everything_shows_what_it_should(&db, &db.url(&administrator.name)).await;
}

/// The lines of the shell that have `part` in them.
fn lines_with(part: &str) -> Vec<String> {
    commands()
        .into_iter()
        .filter_map(|(_, command)| match command {
            Command::Shell(line) if line.contains(part) => Some(line),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn a_backup_is_taken_and_restored() {
    let db = lived_in().await;
    let directory = tempfile::tempdir().unwrap();
    let backups = lines_with("pg_dump ");
    assert_eq!(backups.len(), 2);
    for backup in &backups {
        let ran = psql::shell(&db.url("postgres"), directory.path(), backup);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{backup}");
    }
    // The guide names the file by a time that is its reader's to fill in.
    let named = "for kind in staging production; do mv ${kind}_backup_*.sql ${kind}_backup_YYYYMMDD_HHMMSS.sql; done";
    assert_eq!(psql::shell("", directory.path(), named).status, 0);
    let restores = lines_with(" < ");
    assert_eq!(restores.len(), 2);
    for restore in restores {
        let restored = TestDatabase::empty().await;
        let ran = psql::shell(&restored.url("postgres"), directory.path(), &restore);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{restore}");
        for table in tenants::tables(&db).await {
            assert_eq!(
                restored.count(&table).await,
                db.count(&table).await,
                "{table}"
            );
        }
        let verified = run(&mut program_on(&restored, &["migrate", "verify"]));
        assert_eq!(verified.status, 0, "{}", verified.stdout);
        assert_eq!(
            run(&mut program_on(&restored, &["audit", "verify"])).status,
            0
        );
    }
}

#[tokio::test]
async fn after_the_guides_rollback_the_three_files_make_it_work_again() {
    let mut service = TestService::intake_only().await;
    service.db.organization("cus_1").await;
    let subscription = events::subscription("sub_1", "cus_1", "active", "standard");
    service
        .deliver(&events::event(
            "evt_1",
            "customer.subscription.created",
            100,
            subscription,
        ))
        .await;
    service.stop().await;
    let db = &service.db;
    let url = db.url("postgres");
    let (_, rollback) = commands()
        .into_iter()
        .find(|(heading, _)| heading == "If Issues Discovered After Deployment")
        .expect("the guide has a rollback");
    let ran = perform(&url, Path::new("."), &rollback);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("DROP TABLE"), "{}", ran.stdout);
    let damaged = run(&mut program_on(db, &["migrate", "verify"]));
    assert_eq!(damaged.status, 1);
    assert!(
        damaged.stdout.contains("table grace_periods is missing"),
        "{}",
        damaged.stdout
    );

    let files = lines_with("STAGING_DATABASE_URL -f supabase/migrations/");
    assert_eq!(files.len(), 3);
    for file in files {
        let ran = psql::shell(&url, Path::new(env!("CARGO_MANIFEST_DIR")), &file);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{file}");
    }
    let verified = run(&mut program_on(db, &["migrate", "verify"]));
    assert_eq!(verified.status, 0, "{}", verified.stdout);
    let tally = processor(db).process_due(None).await.unwrap();
    assert_eq!((tally.succeeded, tally.failed), (1, 0));
    assert_eq!(
        db.value("SELECT plan_tier FROM organizations").await,
        "standard"
    );

    // That the log was dropped stays on record, until the chains are undone too.
    let dropped = run(&mut program_on(db, &["audit", "verify"]));
    assert_eq!(dropped.status, 1);
    assert!(
        dropped.stdout.contains("entries 1 to 1 were removed"),
        "{}",
        dropped.stdout
    );
    for (arguments, status) in [
        (
            &[
                "migrate",
                "rollback",
                "--to",
                "20260101090300",
                "--yes",
                "--force",
            ][..],
            0,
        ),
        (&["migrate", "up"], 0),
        // An empty log, where there is an organization, proves nothing.
        (&["audit", "verify"], 1),
    ] {
        let ran = run(&mut program_on(db, arguments));
        assert_eq!(ran.status, status, "{arguments:?}: {}", ran.stderr);
    }
}
