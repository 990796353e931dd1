//! Settings: each that is malformed is one line on stderr, before anything is
//! touched.

use std::path::Path;

use crate::support::TestDatabase;
use crate::support::events::SECRET;
use crate::support::program::{Ran, program, program_on, run};
use crate::support::serving::{Serving, serve_on};

/// Nothing listens there: what touches it ends with status 3.
const NOWHERE: &str = "postgresql://billing_service:hunter2@127.0.0.1:1/billing";

const JWKS: &str = "https://id.example.com/jwks";

fn run_with(arguments: &[&str], settings: &[(&str, &str)]) -> Ran {
    let mut command = program(arguments);
    command.env("DATABASE_URL", NOWHERE);
    command.envs(settings.iter().copied());
    run(&mut command)
}

/// One line on stderr that names `variable`, status 2, and nothing on stdout.
pub fn assert_refused(ran: &Ran, variable: &str, what: &str) {
    assert_eq!(ran.status, 2, "{what}: {}", ran.stderr);
    let expected = format!("error: {variable}: ");
    assert!(ran.stderr.starts_with(&expected), "{what}: {}", ran.stderr);
    assert_eq!(ran.stderr.lines().count(), 1, "{what}: {}", ran.stderr);
    assert_eq!(ran.stdout, "", "{what}");
}

#[test]
fn a_malformed_setting_is_one_line_that_names_it() {
    let serve: &[&str] = &["serve"];
    let retry: &[&str] = &["webhooks", "retry"];
    let trigger: &[&str] = &["webhooks", "trigger", "invoice.created"];
    let create: &[&str] = &["organizations", "create", "--name", "Acme"];
    let list: &[&str] = &["audit", "list"];
    for (command, variable, value) in [
        (serve, "DATABASE_URL", "mysql://me:hunter2@host/db"),
        (serve, "DATABASE_URL", "hunter2"),
        (
            list,
            "DATABASE_URL",
            "postgresql://me:hunter2@host:99999/db",
        ),
        (
            retry,
            "DATABASE_URL",
            "postgresql://me:hunter2@host/db?sslmode=perhaps",
        ),
        (serve, "MIGRATION_DATABASE_URL", "host=hunter2"),
        (retry, "ALLOW_PRIVILEGED_DATABASE_ROLE", "maybe"),
        (serve, "LISTEN_ADDR", "8080"),
        (serve, "LISTEN_ADDR", "localhost:8080"),
        (serve, "LISTEN_ADDR", "127.0.0.1:65536"),
        (trigger, "LISTEN_ADDR", "here"),
        (serve, "METRICS_ADDR", "9090"),
        (serve, "STRIPE_SECRET_KEY", "pk_test_hunter2"),
        (retry, "STRIPE_SECRET_KEY", "hunter2"),
        (serve, "STRIPE_WEBHOOK_SECRET", "hunter2"),
        (serve, "STRIPE_WEBHOOK_SECRET", "whsec_a,hunter2"),
        (serve, "STRIPE_WEBHOOK_SECRET", "whsec_"),
        (serve, "STRIPE_WEBHOOK_SECRET", "whsec_a whsec_hunter2"),
        (serve, "STRIPE_WEBHOOK_SECRET", "whsec_awhsec_hunter2"),
        (serve, "STRIPE_WEBHOOK_SECRET", "\"whsec_hunter2\""),
        (retry, "STRIPE_WEBHOOK_SECRET", "whsec_a\nhunter2"),
        (serve, "STRIPE_WEBHOOK_SECRET", "whsec_a\twhsec_hunter2"),
        (serve, "STRIPE_SECRET_KEY", "sk_test_a\nsk_test_hunter2"),
        (serve, "STRIPE_SECRET_KEY", "'sk_test_hunter2'"),
        (serve, "STRIPE_SECRET_KEY", "sk_test_\u{200b}hunter2"),
        (retry, "DATABASE_URL", "'postgresql://me:hunter2@host/db'"),
        (
            retry,
            "DATABASE_URL",
            "postgresql://me:hunter2@host/db\npostgresql://a@b/c",
        ),
        (serve, "STRIPE_API_BASE", "https://a.example\n.com"),
        (serve, "AGENTS_UPSTREAM_URL", "http://127.0.0.1:1/\thunter2"),
        (serve, "LISTEN_ADDR", "\"127.0.0.1:8080\""),
        (serve, "DATA_DIR", "\"/nowhere\""),
        (serve, "PLANS_FILE", "/nowhere/plans.toml"),
        (retry, "PLANS_FILE", "Cargo.toml"),
        (create, "PLANS_FILE", "/nowhere/plans.toml"),
        (serve, "WEBHOOK_MAX_RETRIES", "-1"),
        (retry, "WEBHOOK_MAX_RETRIES", "twenty"),
        (serve, "WEBHOOK_MAX_RETRIES", "1001"),
        (serve, "UNKNOWN_CUSTOMERS", "drop"),
        (retry, "UNKNOWN_CUSTOMERS", "Ignore"),
        (serve, "WORKER_CONCURRENCY", "1.5"),
        (serve, "WORKER_CONCURRENCY", "65"),
        (serve, "API_RATE_LIMIT_PER_MINUTE", "-1"),
        (serve, "USAGE_RATE_LIMIT_PER_MINUTE", "many"),
        (serve, "CORS_ALLOWED_ORIGINS", "*"),
        (serve, "CORS_ALLOWED_ORIGINS", "https://a.example/path"),
        (serve, "AUTH_JWKS_URL", "jwks"),
        (serve, "APPLICATION_URL", "app.example.com"),
        (serve, "APPLICATION_URL", "https://me:hunter2@app.example"),
        (serve, "ALLOWED_RETURN_ORIGINS", "https://a.example/path"),
        (serve, "ALLOWED_RETURN_ORIGINS", "https://a.example,*"),
        (serve, "PUBLIC_URL", "javascript:alert(1)"),
        (serve, "FRAME_ANCESTORS", "https://a.example,*"),
        (serve, "PORTAL_THEME", "accent=#ffee00"),
        (serve, "OPERATORS_REQUIRE_SECOND_FACTOR", "perhaps"),
        (serve, "OIDC_ALLOW_PASSWORDS", "perhaps"),
        (serve, "WEBHOOK_TOLERANCE_SECONDS", "0"),
        (serve, "WEBHOOK_TOLERANCE_SECONDS", "5m"),
        (retry, "PUSHGATEWAY_URL", "localhost:9091"),
        (retry, "PUSHGATEWAY_URL", "ftp://me:hunter2@host"),
        (list, "LOG_FORMAT", "xml"),
        (list, "RUST_LOG", "info,=,,what"),
    ] {
        let what = format!("{command:?} {variable}={value}");
        let ran = run_with(command, &[(variable, value)]);
        assert_refused(&ran, variable, &what);
        assert!(!ran.stderr.contains("hunter2"), "{what}: {}", ran.stderr);
    }
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("secret");
    std::fs::write(&file, "whsec_filed\n").unwrap();
    let empty = scratch.path().join("empty");
    std::fs::write(&empty, " \n").unwrap();
    let (file, empty) = (file.to_str().unwrap(), empty.to_str().unwrap());
    for (variable, settings) in [
        (
            "STRIPE_WEBHOOK_SECRET",
            vec![("STRIPE_SECRET_KEY", "sk_test_x")],
        ),
        (
            "STRIPE_WEBHOOK_SECRET",
            vec![
                ("STRIPE_WEBHOOK_SECRET", SECRET),
                ("STRIPE_WEBHOOK_SECRET_FILE", file),
            ],
        ),
        (
            "STRIPE_WEBHOOK_SECRET",
            vec![("STRIPE_WEBHOOK_SECRET_FILE", "/nowhere/secret")],
        ),
        (
            "STRIPE_WEBHOOK_SECRET",
            vec![("STRIPE_WEBHOOK_SECRET_FILE", empty)],
        ),
        ("AUTH_ISSUER", vec![("AUTH_JWKS_URL", JWKS)]),
        (
            "AUTH_JWKS_URL",
            vec![("AUTH_ISSUER", "https://id"), ("AUTH_AUDIENCE", "billing")],
        ),
        (
            "AUTH_AUDIENCE",
            vec![("AUTH_JWKS_URL", JWKS), ("AUTH_ISSUER", "https://id")],
        ),
        ("AUTH_JWKS_URL", vec![("AUTH_ROLES", "admin=owner")]),
        (
            "AUTH_ROLES",
            vec![
                ("AUTH_JWKS_URL", JWKS),
                ("AUTH_ISSUER", "https://id"),
                ("AUTH_AUDIENCE", "billing"),
                ("AUTH_ROLES", "admin=operator"),
            ],
        ),
        ("OIDC_CLIENT_ID", vec![("OIDC_ISSUER", "https://id")]),
        (
            "OIDC_ISSUER",
            vec![
                ("OIDC_ISSUER", "http://id.example"),
                ("OIDC_CLIENT_ID", "billing"),
                ("OIDC_OPERATOR_GROUP", "ops"),
            ],
        ),
        (
            "OIDC_CLIENT_SECRET",
            vec![("OIDC_CLIENT_SECRET", "hunter2")],
        ),
        ("SMTP_URL", vec![("MAIL_FROM", "billing@acme.example")]),
        (
            "SMTP_URL",
            vec![
                ("SMTP_URL", "smtp://me:hunter2@mail.example?tls=none"),
                ("MAIL_FROM", "billing@acme.example"),
            ],
        ),
        ("MAIL_FROM", vec![("SMTP_URL", "smtps://mail.example")]),
        (
            "MAIL_FROM",
            vec![("SMTP_URL", "smtps://mail.example"), ("MAIL_FROM", "Acme")],
        ),
        (
            "SMTP_PASSWORD",
            vec![
                ("SMTP_URL", "smtps://me:hunter2@mail.example"),
                ("SMTP_PASSWORD", "hunter2"),
                ("MAIL_FROM", "billing@acme.example"),
            ],
        ),
        (
            "MAIL_TEMPLATES_DIR",
            vec![
                ("SMTP_URL", "smtps://mail.example"),
                ("MAIL_FROM", "billing@acme.example"),
                ("MAIL_TEMPLATES_DIR", "/nowhere"),
            ],
        ),
        ("STRIPE_SECRET_KEY", vec![("STRIPE_SECRET_KEY_FILE", file)]),
        ("DATABASE_URL", vec![("DATABASE_URL_FILE", file)]),
        (
            "MIGRATION_DATABASE_URL",
            vec![("DATABASE_URL", ""), ("MIGRATION_DATABASE_URL", NOWHERE)],
        ),
    ] {
        let what = format!("{settings:?}");
        let ran = run_with(&["serve"], &settings);
        assert_refused(&ran, variable, &what);
        for secret in ["hunter2", "whsec_filed", "sk_test_x"] {
            assert!(!ran.stderr.contains(secret), "{what}: {}", ran.stderr);
        }
    }
}

#[tokio::test]
async fn secrets_on_lines_of_their_own_are_all_taken_and_empty_settings_are_none() {
    let db = TestDatabase::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("secrets");
    std::fs::write(&file, format!("\u{feff}whsec_old\r\n{SECRET}\r\n")).unwrap();
    for in_file in [false, true] {
        let mut command = serve_on(&db);
        command.envs(
            [
                "STRIPE_SECRET_KEY",
                "STRIPE_API_BASE",
                "METRICS_ADDR",
                "WORKER_CONCURRENCY",
                "TRUSTED_PROXIES",
                "WEBHOOK_TOLERANCE_SECONDS",
                "WEBHOOK_MAX_RETRIES",
                "GRACE_PERIOD_HOURS",
                "API_RATE_LIMIT_PER_MINUTE",
                "USAGE_RATE_LIMIT_PER_MINUTE",
                "CORS_ALLOWED_ORIGINS",
                "ALLOW_PRIVILEGED_DATABASE_ROLE",
                "PUSHGATEWAY_URL",
                "RUST_LOG",
                "MIGRATION_DATABASE_URL",
                "DATA_DIR",
            ]
            .map(|name| (name, " \n")),
        );
        command.current_dir(scratch.path());
        if in_file {
            command
                .env_remove("STRIPE_WEBHOOK_SECRET")
                .env("STRIPE_WEBHOOK_SECRET_FILE", &file);
        } else {
            command.env("STRIPE_WEBHOOK_SECRET", format!("whsec_old\n{SECRET}\n"));
        }
        let serving = Serving::start(&mut command);
        let mut trigger = program_on(&db, &["webhooks", "trigger", "invoice.created"]);
        trigger
            .env("LISTEN_ADDR", serving.base.trim_start_matches("http://"))
            .env("STRIPE_WEBHOOK_SECRET", SECRET);
        let ran = run(&mut trigger);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
    }
    // An empty address is the default one, as for whoever did not set it.
    let doctor = run(program_on(&db, &["doctor"]).env("LISTEN_ADDR", ""));
    assert!(
        doctor.stdout.contains("127.0.0.1:8080"),
        "{}",
        doctor.stdout
    );
}

#[test]
fn a_password_among_the_arguments_is_warned_of_and_not_repeated() {
    let url = "postgresql://me:hunter2@127.0.0.1:1/none";
    for arguments in [
        &["audit", "list", "--database-url", url][..],
        &["migrate", "status", "--migration-database-url", url],
    ] {
        let ran = run(&mut program(arguments));
        assert_eq!(ran.status, 3, "{}", ran.stderr);
        assert!(
            ran.stderr.contains("every user of this host"),
            "{}",
            ran.stderr
        );
        assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
    }
    let mut quiet = program(&["audit", "list"]);
    let quiet = run(quiet.env("DATABASE_URL", url));
    assert!(!quiet.stderr.contains("every user"), "{}", quiet.stderr);
}

#[cfg(unix)]
#[test]
fn a_setting_that_is_no_text_is_refused() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    for variable in [
        "DATABASE_URL",
        "STRIPE_SECRET_KEY",
        "STRIPE_WEBHOOK_SECRET",
        "LOG_FORMAT",
    ] {
        let mut command = program(&["serve"]);
        command.env(variable, OsStr::from_bytes(b"\xff\xfe"));
        assert_refused(&run(&mut command), variable, variable);
    }
}

#[test]
fn bad_usage_is_2_and_an_unreachable_database_3() {
    for (arguments, status) in [
        (&["no-such-command"][..], 2),
        (&["webhooks", "replay"], 2),
        (&["webhooks", "replay", "evt_1", "--all"], 2),
        (&["webhooks", "list", "--limit", "0"], 2),
        (&["webhooks", "trigger", "made.up"], 2),
        (&["organizations", "create"], 2),
        (&["serve"], 3),
        (&["migrate", "status"], 3),
        (&["webhooks", "retry"], 3),
        (&["webhooks", "list"], 3),
        (&["audit", "verify"], 3),
        (&["organizations", "list"], 3),
    ] {
        let ran = run_with(arguments, &[]);
        assert_eq!(ran.status, status, "{arguments:?}: {}", ran.stderr);
        assert!(
            !ran.stderr.contains("hunter2"),
            "{arguments:?}: {}",
            ran.stderr
        );
        assert_eq!(ran.stdout, "", "{arguments:?}");
    }
}

#[tokio::test]
async fn a_flag_overrides_the_variable_and_its_file() {
    let db = TestDatabase::new().await;
    let url = db.url("billing_service");
    for variable in ["DATABASE_URL", "DATABASE_URL_FILE"] {
        let mut command = program(&["webhooks", "list", "--json", "--database-url", &url]);
        let ran = run(command.env(variable, "/nowhere"));
        assert_eq!(ran.status, 0, "{variable}: {}", ran.stderr);
    }
}

#[tokio::test]
async fn empty_settings_are_as_good_as_none_and_files_are_trimmed() {
    let db = TestDatabase::new().await;
    let scratch = tempfile::tempdir().unwrap();
    let in_file = |name: &str, text: String| {
        let path = scratch.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut command = serve_on(&db);
    command
        .env_remove("DATABASE_URL")
        .env_remove("STRIPE_WEBHOOK_SECRET")
        .env(
            "DATABASE_URL_FILE",
            in_file("url", format!("\n {}\n", db.url("billing_service"))),
        )
        .env(
            "STRIPE_WEBHOOK_SECRET_FILE",
            in_file("secret", format!(" whsec_other ,\t{SECRET} \r\n")),
        )
        .envs(
            [
                "STRIPE_SECRET_KEY",
                "PLANS_FILE",
                "METRICS_ADDR",
                "WORKER_CONCURRENCY",
            ]
            .map(|name| (name, " ")),
        )
        .env("DATABASE_URL", "");
    let serving = Serving::start(&mut command);
    let ran =
        run(program_on(&db, &["webhooks", "trigger", "plan.created"]).env("LISTEN_ADDR", "x"));
    assert_eq!(ran.status, 2, "there is no sample of it: {}", ran.stderr);

    db.organization("cus_1").await;
    let address = serving.base.trim_start_matches("http://").to_owned();
    let ran = run(program_on(&db, &["webhooks", "trigger", "invoice.created"])
        .env("LISTEN_ADDR", address)
        .env("STRIPE_WEBHOOK_SECRET", SECRET));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}

/// What nobody but its owner may read.
#[tokio::test]
async fn secrets_are_neither_logged_nor_measured_nor_printed() {
    let db = TestDatabase::new().await;
    db.organization("cus_1").await;
    let scratch = tempfile::tempdir().unwrap();
    // The local socket asks for no password, so any does.
    let url = db
        .url("billing_service")
        .replace("billing_service@", "billing_service:hunter2@");
    let url = format!("{url}?passwrod=hunter2");
    assert!(url.contains(":hunter2@"));
    let mut command = serve_on(&db);
    command
        .env("DATABASE_URL", &url)
        .env("STRIPE_SECRET_KEY", "sk_test_hunter2")
        .env("STRIPE_WEBHOOK_SECRET", "whsec_hunter2")
        .env("RUST_LOG", "debug")
        .env("DATA_DIR", scratch.path());
    let serving = Serving::start(&mut command);
    let address = serving.base.trim_start_matches("http://").to_owned();
    let mut said = Vec::new();
    for arguments in [
        &["webhooks", "trigger", "invoice.finalized"][..],
        &["webhooks", "trigger", "invoice.finalized", "--json"],
        &["webhooks", "retry", "--json"],
        &["webhooks", "list"],
        &["organizations", "list", "--json"],
        &["audit", "export"],
        &["migrate", "status"],
        &["status"],
        &["serve", "--help"],
        &["webhooks", "retry", "--help"],
        &["serve"],
    ] {
        let mut command = program_on(&db, arguments);
        command
            .env("DATABASE_URL", &url)
            .env(
                "MIGRATION_DATABASE_URL",
                db.url("postgres").replace("postgres@", "postgres:hunter2@"),
            )
            .env("STRIPE_SECRET_KEY", "sk_test_hunter2")
            .env("STRIPE_WEBHOOK_SECRET", "whsec_hunter2")
            .env("PUSHGATEWAY_URL", "http://me:hunter2@127.0.0.1:1")
            .env("LISTEN_ADDR", &address)
            .env("DATA_DIR", scratch.path());
        let ran = run(&mut command);
        // A second `serve` finds the address taken.
        let expected = if arguments == ["serve"] { 2 } else { 0 };
        assert_eq!(ran.status, expected, "{arguments:?}: {}", ran.stderr);
        said.push((format!("{arguments:?}"), ran.stdout + &ran.stderr));
    }
    let client = valuecanvas_billing::http_client::direct_client().unwrap();
    for path in ["/metrics", "/readyz", "/healthz"] {
        let answer = client
            .get(format!("{}{path}", serving.base))
            .send()
            .await
            .unwrap();
        said.push((path.to_owned(), answer.text().await.unwrap()));
    }
    if Path::new("/proc/self/cmdline").exists() {
        let command_line = std::fs::read(format!("/proc/{}/cmdline", serving.pid())).unwrap();
        said.push((
            "ps".to_owned(),
            String::from_utf8_lossy(&command_line).into_owned(),
        ));
    }
    said.push(("its log".to_owned(), serving.terminated().await.stderr));
    for (what, text) in said {
        assert!(!text.contains("hunter2"), "{what}: {text}");
    }
}
