//! `status` and `organizations`.

use std::process::Command;

use serde_json::Value;

use crate::support::TestDatabase;
use crate::support::program::{program, program_on, run};

#[tokio::test]
async fn status_prints_lines_that_a_shell_can_eval() {
    let db = TestDatabase::new().await;
    let awkward = "postgresql://me:it's$HOME`id`\"x\"@127.0.0.1:1/a b";
    let mut status = program(&["status", "--output", "env"]);
    status
        .env("DATABASE_URL", awkward)
        .env("DATA_DIR", "/tmp/it's here");
    let lines = run(&mut status);
    assert_eq!(lines.status, 0, "{}", lines.stderr);
    let script = format!(
        "{}\nprintf '%s|%s' \"$DATABASE_URL\" \"$DATA_DIR\"",
        lines.stdout
    );
    let shell = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(
        String::from_utf8(shell.stdout).unwrap(),
        format!("{awkward}|/tmp/it's here")
    );

    let json = run(&mut program_on(&db, &["status", "--output", "json"])).json();
    assert_eq!(json["databaseUrl"], db.url("billing_service"));
    let pretty = run(&mut program_on(&db, &["status"])).stdout;
    assert!(
        !pretty.contains("billing_service"),
        "the URL stays off screens: {pretty}"
    );
}

#[test]
fn status_of_an_embedded_database_that_does_not_run_says_so() {
    let scratch = tempfile::tempdir().unwrap();
    let mut status = program(&["status", "--output", "env"]);
    let ran = run(status.env("DATA_DIR", scratch.path()));
    assert_eq!((ran.status, &*ran.stdout), (1, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("not running"), "{}", ran.stderr);
    let json = run(program(&["status", "--json"]).env("DATA_DIR", scratch.path())).json();
    assert_eq!(
        (&json["running"], &json["databaseUrl"]),
        (&Value::Bool(false), &Value::Null)
    );
    assert_eq!(
        std::fs::read_dir(&scratch).unwrap().count(),
        0,
        "nothing is touched"
    );
}

#[tokio::test]
async fn organizations_are_created_once_for_a_customer() {
    let db = TestDatabase::new().await;
    let create = |name: &str, customer: &str| {
        run(&mut program_on(
            &db,
            &[
                "organizations",
                "create",
                "--name",
                name,
                "--stripe-customer",
                customer,
                "--json",
            ],
        ))
    };
    let acme = create("Acme", "cus_1");
    assert_eq!(acme.status, 0, "{}", acme.stderr);
    let acme = acme.json();
    assert_eq!(acme["planTier"], "free");

    let taken = create("Another", "cus_1");
    assert_eq!(taken.status, 1, "{}", taken.stderr);
    assert!(taken.stderr.contains("cus_1"), "{}", taken.stderr);
    for (name, customer) in [("", "cus_2"), ("\u{1b}[2J", "cus_2"), ("Acme", "evil'; --")] {
        assert_eq!(create(name, customer).status, 2, "{name:?} {customer}");
    }
    let tier = [
        "organizations",
        "create",
        "--name",
        "Acme",
        "--plan",
        "platinum",
    ];
    assert_eq!(run(&mut program_on(&db, &tier)).status, 2);

    let list = run(&mut program_on(&db, &["organizations", "list", "--json"])).json();
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");
    assert_eq!(list[0]["id"], acme["id"]);
    let table = run(&mut program_on(&db, &["organizations", "list"])).stdout;
    assert!(table.contains("Acme") && table.contains("cus_1"), "{table}");
}
