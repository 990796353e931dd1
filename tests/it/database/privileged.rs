//! `serve` takes a login that row-level security binds, on a server that keeps
//! what it acknowledges, and nothing else.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::logins::Login;
use crate::support::TestDatabase;
use crate::support::program::{Ran, program_on};

const RIGHT: &str = "GRANT billing_app, billing_worker TO @";
const HOW: &str = "GRANT billing_app, billing_worker TO";

/// The login's attributes, what it is given (`@` is the login, `#` the
/// database), and why it is refused.
const REFUSED: &[(&str, &str, &[&str])] = &[
    (
        "SUPERUSER",
        RIGHT,
        &[
            "is a superuser",
            "CREATE ROLE billing_service LOGIN NOINHERIT",
            HOW,
        ],
    ),
    (
        "BYPASSRLS",
        RIGHT,
        &[
            "has BYPASSRLS",
            "CREATE ROLE billing_service LOGIN NOINHERIT",
            HOW,
        ],
    ),
    (
        "NOINHERIT",
        "GRANT billing_app, billing_worker, postgres TO @",
        &["has BYPASSRLS, by itself or through a role", HOW],
    ),
    (
        "NOINHERIT",
        "GRANT billing_app, billing_worker, billing_owner TO @",
        &["owns billing objects", "MIGRATION_DATABASE_URL", HOW],
    ),
    (
        "",
        "GRANT billing_app, billing_worker TO @; ALTER TABLE webhook_events OWNER TO @",
        &["owns billing objects", HOW],
    ),
    (
        "",
        "",
        &["may not become billing_app and billing_worker", HOW],
    ),
    (
        "",
        "GRANT billing_app TO @",
        &["may not become billing_app and billing_worker", HOW],
    ),
    (
        "NOINHERIT",
        "GRANT billing_app, billing_worker TO @; ALTER ROLE @ SET synchronous_commit = off",
        &["synchronous_commit off", "may lose events"],
    ),
    (
        "NOINHERIT",
        "GRANT billing_app, billing_worker TO @; ALTER DATABASE # SET synchronous_commit = off",
        &["synchronous_commit off", "may lose events"],
    ),
];

/// Starts `serve`; one that listens is told to stop.
fn serve(command: &mut Command) -> Ran {
    let mut child = command
        .env("LISTEN_ADDR", "127.0.0.1:0")
        .env("LOG_FORMAT", "json")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&child);
    let mut stderr = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.contains("\"Listening\"") {
            let said: serde_json::Value = serde_json::from_str(&line).unwrap();
            is_ready(said["address"].as_str().unwrap());
            kill_process(pid, Signal::TERM).unwrap();
        }
        stderr.push_str(&line);
        stderr.push('\n');
    }
    let mut stdout = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut stdout)
        .unwrap();
    let status = child.wait().unwrap().code().unwrap_or(-1);
    Ran {
        status,
        stdout,
        stderr,
    }
}

/// Also waits until it minds signals: it answers nothing before.
fn is_ready(address: &str) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

async fn login(db: &TestDatabase, attributes: &str, given: &str) -> Login {
    let login = Login::new(db, attributes).await;
    db.execute(&given.replace('@', &login.name).replace('#', &db.name))
        .await;
    login
}

fn serve_as(db: &TestDatabase, login: &str, allow: &str) -> Ran {
    let mut command = program_on(db, &["serve"]);
    command
        .env("DATABASE_URL", db.url(login))
        .env("ALLOW_PRIVILEGED_DATABASE_ROLE", allow);
    serve(&mut command)
}

#[tokio::test]
async fn serve_refuses_a_login_that_is_not_bound_and_says_how_to_make_one() {
    for (attributes, given, said) in REFUSED {
        let db = TestDatabase::new().await;
        let login = login(&db, attributes, given).await;
        let ran = serve_as(&db, &login.name, "false");
        assert_eq!(ran.status, 2, "{attributes} {given}: {}", ran.stderr);
        assert!(
            ran.stderr.starts_with("error: DATABASE_URL: "),
            "{}",
            ran.stderr
        );
        for words in *said {
            assert!(
                ran.stderr.contains(words),
                "{attributes} {given}: {}",
                ran.stderr
            );
        }
    }
}

#[tokio::test]
async fn serve_takes_the_login_that_it_asks_for() {
    let db = TestDatabase::new().await;
    for attributes in ["NOINHERIT", "INHERIT"] {
        let login = login(&db, attributes, RIGHT).await;
        let ran = serve_as(&db, &login.name, "false");
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        // A transaction that the stop interrupts as it opens is ended to be sure, and
        // PostgreSQL may remark that there is none.
        let warns = |line: &str| line.contains("WARN") && !line.contains("postgres::notice");
        assert!(!ran.stderr.lines().any(warns), "{}", ran.stderr);
    }
}

#[tokio::test]
async fn a_privileged_login_may_be_allowed_and_is_warned_of() {
    let db = TestDatabase::new().await;
    for (attributes, given, said) in [
        (
            "SUPERUSER",
            "",
            "is a superuser: row-level security does not apply to it",
        ),
        ("BYPASSRLS", RIGHT, "has BYPASSRLS"),
        (
            "",
            "GRANT billing_app, billing_worker, billing_owner TO @",
            "owns billing objects",
        ),
        (
            "",
            "GRANT billing_app, billing_worker TO @; ALTER ROLE @ SET synchronous_commit = off",
            "the server has synchronous_commit off",
        ),
    ] {
        let login = login(&db, attributes, given).await;
        let ran = serve_as(&db, &login.name, "true");
        assert_eq!(ran.status, 0, "{attributes} {given}: {}", ran.stderr);
        assert!(
            ran.stderr.contains(said),
            "{attributes} {given}: {}",
            ran.stderr
        );
    }
}

/// An owner cannot work without the roles that the work is done in.
#[tokio::test]
async fn being_allowed_does_not_make_up_for_lacking_the_roles() {
    let db = TestDatabase::new().await;
    let login = login(&db, "", "GRANT billing_owner TO @").await;
    let ran = serve_as(&db, &login.name, "true");
    assert_eq!(ran.status, 2, "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains("may not become billing_app and billing_worker"),
        "{}",
        ran.stderr
    );
}
