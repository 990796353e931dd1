//! Backups that come back whole, and those that are refused.

use crate::metering::tenant::Tenant;
use crate::support::program::{Ran, program, program_on, run};
use crate::support::{TestDatabase, TestService};

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
    let seen = run(&mut program_on(&other, &["audit", "verify"]));
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

#[tokio::test]
async fn a_backup_needs_the_owners_url_alone_and_says_why_it_fails() {
    let db = TestDatabase::new().await;
    db.organization("cus_1").await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let with = |settings: &[(&str, String)], name: &str| {
        let mut command = program(&["backup", &file(name)]);
        run(command.envs(settings.iter().cloned()))
    };
    let owner = with(&[("MIGRATION_DATABASE_URL", db.url("postgres"))], "owner");
    assert_eq!(owner.status, 0, "{}", owner.stderr);
    assert!(
        owner.stderr.contains(&db.name),
        "it names the database: {}",
        owner.stderr
    );

    let bound = with(&[("DATABASE_URL", db.url("billing_service"))], "service");
    assert_eq!(bound.status, 2, "{}", bound.stderr);
    assert!(
        bound.stderr.contains("permission denied for table"),
        "{}",
        bound.stderr
    );
    assert!(
        bound.stderr.contains("MIGRATION_DATABASE_URL"),
        "{}",
        bound.stderr
    );

    // That it failed is remembered, where it can be.
    db.execute("CREATE TABLE secret (n int); ALTER TABLE secret ENABLE ROW LEVEL SECURITY")
        .await;
    let taken = with(&[("MIGRATION_DATABASE_URL", db.url("postgres"))], "owner");
    assert_eq!(taken.status, 2, "{}", taken.stderr);
    let failed = "billing_job_runs WHERE job = 'backup' AND NOT succeeded";
    assert_eq!(db.count(failed).await, 2, "with either login");
    let doctor = run(&mut program_on(&db, &["doctor"]));
    assert!(
        doctor
            .stdout
            .contains("WARNING backup: the last run failed"),
        "{}",
        doctor.stdout
    );
}

/// As managed PostgreSQL gives one: it owns what the migrations made, and
/// row-level security binds it.
#[tokio::test]
async fn an_owner_that_is_no_superuser_backs_up_and_is_remembered() {
    let service = TestService::start().await;
    let db = &service.db;
    let tenant = Tenant::of(&service, "Kept").await;
    tenant.consume(&service, "api_calls", 7).await.ok();
    let owner = format!("owner_{}", db.name);
    db.execute(&format!(
        "CREATE ROLE {owner} LOGIN; GRANT billing_owner TO {owner}"
    ))
    .await;
    let bound = format!("pg_roles WHERE rolname = '{owner}' AND NOT rolsuper AND NOT rolbypassrls");
    assert_eq!(db.count(&bound).await, 1);
    let backup = |doctor: &crate::support::program::Ran| {
        let checks = doctor.json();
        let mut checks = checks.as_array().unwrap().iter();
        checks.find(|check| check["name"] == "backup").unwrap()["verdict"].clone()
    };
    assert_eq!(
        backup(&run(&mut program_on(db, &["doctor", "--json"]))),
        "warning"
    );

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("owner.dump");
    let name = file.to_str().unwrap();
    let mut command = program(&["backup", name, "--json"]);
    let written = run(command.env("MIGRATION_DATABASE_URL", db.url(&owner)));
    assert_eq!(written.status, 0, "{}", written.stderr);
    assert!(
        !written.stderr.contains("cannot remember"),
        "{}",
        written.stderr
    );
    // Row-level security hid no row from it.
    let rows = written.json()["rows"].clone();
    for table in [
        "organizations",
        "usage_events",
        "billing_audit_log",
        "api_keys",
    ] {
        let there = db.count(table).await;
        assert!(there > 0, "{table}");
        assert_eq!(rows[table], there, "{table}");
    }
    let doctor = run(&mut program_on(db, &["doctor", "--json"]));
    assert_eq!(backup(&doctor), "ok", "{}", doctor.stdout);

    // It restores it, too, into a database of its own.
    let other = TestDatabase::empty().await;
    other
        .execute(&format!("ALTER DATABASE {} OWNER TO {owner}", other.name))
        .await;
    let mut command = program(&["restore", name, "--json"]);
    let restored = run(command.env("MIGRATION_DATABASE_URL", other.url(&owner)));
    assert_eq!(restored.status, 0, "{}", restored.stderr);
    assert_eq!(restored.json()["counted"], true);
    let nothing_left = format!("REASSIGN OWNED BY {owner} TO postgres; DROP OWNED BY {owner}");
    for db in [&other, db] {
        db.execute(&nothing_left).await;
    }
    db.execute(&format!("DROP ROLE {owner}")).await;
}

#[tokio::test]
async fn a_database_with_nothing_in_it_is_not_backed_up() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("empty.dump");
    let name = name.to_str().unwrap();
    let tables = TestDatabase::empty().await;
    tables.execute("CREATE TABLE forgotten (n int)").await;
    for db in [TestDatabase::empty().await, tables] {
        for file in [name, "-"] {
            let ran = on(&db, &["backup", file]);
            assert_eq!(ran.status, 1, "{}", ran.stderr);
            assert!(ran.stderr.contains("nothing to back up"), "{}", ran.stderr);
            assert_eq!(ran.stdout, "");
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn the_jobs_are_measured_whether_they_ran_or_not() {
    let service = TestService::start().await;
    let success = "billing_scheduled_job_last_success_timestamp_seconds";
    for task in [
        "webhook-retry",
        "usage-report",
        "grace-period-cleanup",
        "backup",
        "retention",
        "reconciliation",
        "audit-verification",
    ] {
        let series = format!("{success}{{task=\"{task}\"}}");
        let succeeded = service.metric(&series).await;
        // The service does this one itself, soon after it has started.
        let is_measured = succeeded == Some(0) || task == "retention" && succeeded.is_some();
        assert!(is_measured, "{task}: {succeeded:?}");
        let failing = format!("billing_scheduled_job_failing{{task=\"{task}\"}}");
        assert_eq!(service.metric(&failing).await, Some(0), "{task}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.dump");
    let file = file.to_str().unwrap();
    for (status, failing) in [(0, 0), (2, 1)] {
        assert_eq!(on(&service.db, &["backup", file]).status, status);
        let series = "billing_scheduled_job_failing{task=\"backup\"}";
        assert_eq!(service.metric(series).await, Some(failing));
        let series = format!("{success}{{task=\"backup\"}}");
        assert!(service.metric(&series).await > Some(1_700_000_000));
    }
}

/// The command lines of all processes that name `database`.
fn command_lines(database: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| {
        let line = std::fs::read(process.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(database)).collect()
}

/// Whatever form the URL has that it is in.
#[tokio::test]
async fn no_password_is_in_the_list_of_processes() {
    let db = TestDatabase::new().await;
    db.organization("cus_1").await;
    // pg_dump waits for it, and nothing before does.
    db.execute("CREATE TABLE auth.held (n int)").await;
    let folder = tempfile::tempdir().unwrap();
    let owner = db.url("postgres");
    let query = if owner.contains('?') { '&' } else { '?' };
    let of_user = owner.replacen("postgres@", "postgres:pwuser@", 1);
    assert_ne!(of_user, owner);
    for (n, url) in [
        of_user,
        format!("{owner}{query}password=pwquery"),
        format!("{owner}{query}%70assword=pwescaped&sslpassword=pwkey"),
    ]
    .iter()
    .enumerate()
    {
        let mut holding = db.pool.begin().await.unwrap();
        sqlx::query("LOCK TABLE auth.held IN ACCESS EXCLUSIVE MODE")
            .execute(&mut *holding)
            .await
            .unwrap();
        let file = folder.path().join(format!("{n}.dump"));
        let mut command = program(&["backup", file.to_str().unwrap()]);
        let mut backup = command
            .env("MIGRATION_DATABASE_URL", url)
            .env("TMPDIR", folder.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let seen = loop {
            let lines = command_lines(&db.name);
            if lines.iter().any(|line| line.contains("pg_dump")) {
                break lines;
            }
            assert!(backup.try_wait().unwrap().is_none(), "{url}: it has ended");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        for secret in ["pwuser", "pwquery", "pwescaped", "pwkey"] {
            assert!(!seen.iter().any(|line| line.contains(secret)), "{seen:#?}");
        }
        holding.rollback().await.unwrap();
        assert!(backup.wait().unwrap().success(), "{url}");
    }
    // Nor is a file with one left.
    let left = std::fs::read_dir(folder.path()).unwrap().flatten();
    let left = left.filter(|file| file.path().extension().is_some_and(|e| e == "conf"));
    assert_eq!(left.count(), 0);
}

/// A full disk, and a reader that has gone.
#[tokio::test]
async fn a_backup_that_nobody_takes_ends_and_says_so() {
    let db = TestDatabase::new().await;
    db.organization("cus_1").await;
    // More than a pipe holds.
    db.execute(
        "CREATE TABLE large AS SELECT md5(random()::text) AS text FROM generate_series(1, 100000)",
    )
    .await;
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    for out in [std::process::Stdio::from(full), writer.into()] {
        let mut command = program(&["backup", "-"]);
        let owner = db.url("postgres");
        let ran = command
            .env("MIGRATION_DATABASE_URL", &owner)
            .stdout(out)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(1), "{said}");
        assert!(said.contains("the backup: "), "{said}");
    }
    let held = format!(
        "pg_stat_activity WHERE datname = '{}' AND application_name = 'pg_dump'",
        db.name
    );
    // Its locks go with it.
    while db.count(&held).await > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn two_backups_of_one_name_leave_one_that_is_whole() {
    let db = TestDatabase::new().await;
    db.organization("cus_1").await;
    let folder = tempfile::tempdir().unwrap();
    // A name may look like an option, and a URL have parameters of sqlx's own.
    let owner = db.url("postgres");
    let query = if owner.contains('?') { '&' } else { '?' };
    let owner = format!("{owner}{query}statement-cache-capacity=0&ssl-mode=prefer");
    let backup = || {
        let mut command = program(&["backup", "--", "-x.dump"]);
        command
            .env("MIGRATION_DATABASE_URL", &owner)
            .current_dir(folder.path());
        command
    };
    let both = [(); 2].map(|()| {
        std::thread::spawn({
            let mut command = backup();
            move || run(&mut command)
        })
    });
    let mut statuses = both.map(|one| one.join().unwrap().status);
    statuses.sort_unstable();
    assert_eq!(statuses, [0, 2]);
    let other = TestDatabase::empty().await;
    let mut restore = program(&["restore", "--json", "--", "-x.dump"]);
    let restored = run(restore
        .env("MIGRATION_DATABASE_URL", other.url("postgres"))
        .current_dir(folder.path()));
    assert_eq!(restored.status, 0, "{}", restored.stderr);
    assert_eq!(restored.json()["counted"], true);

    // What stands beside it is nobody's to write over.
    std::fs::remove_file(folder.path().join("-x.dump")).unwrap();
    let manifest = std::fs::read(folder.path().join("-x.dump.json")).unwrap();
    let refused = run(&mut backup());
    assert_eq!(refused.status, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("-x.dump.json already exists"),
        "{}",
        refused.stderr
    );
    assert_eq!(
        std::fs::read(folder.path().join("-x.dump.json")).unwrap(),
        manifest
    );
}
