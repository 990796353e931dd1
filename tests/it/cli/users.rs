//! `users` and `api-keys`

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::json;
use valuecanvas_billing::tenancy::auth::Permission;

use crate::support::program::{Ran, program_on, run_on};
use crate::support::{TestDatabase, TestService};

async fn ran(db: &TestDatabase, arguments: &[&str]) -> Ran {
    run_on(db, arguments).await
}

/// Runs a command with a password on its standard input.
async fn with_password(db: &TestDatabase, arguments: &[&str], password: &str) -> i32 {
    let mut command: Command = program_on(db, arguments);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let password = password.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        // It may have refused its arguments and be gone.
        let _ = child.stdin.take().unwrap().write_all(password.as_bytes());
        child.wait().unwrap().code().unwrap()
    })
    .await
    .unwrap()
}

async fn log_in(service: &TestService, email: &str, password: &str) -> u16 {
    let request = service
        .post("/api/auth/login")
        .json(&json!({"email": email, "password": password}));
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_user_is_created_changed_listed_and_disabled() {
    let service = TestService::intake_only().await;
    let db = &service.db;
    let organization = db.organization("cus_1").await.to_string();
    let email = "ada@example.com";
    let create = [
        "users",
        "create",
        "--organization",
        &organization,
        "--email",
        email,
        "--role",
        "owner",
    ];
    let made = ran(
        db,
        &[&create[..], &["--generate-password", "--json"]].concat(),
    )
    .await;
    assert_eq!(made.status, 0, "{}", made.stderr);
    let password = made.json()["password"].as_str().unwrap().to_owned();
    assert_eq!(log_in(&service, email, &password).await, 200);

    let again = ran(db, &[&create[..], &["--generate-password"]].concat()).await;
    assert_eq!(again.status, 1);
    assert!(again.stderr.contains("already"), "{}", again.stderr);

    let set = [
        "users",
        "set-password",
        "--email",
        email,
        "--password-stdin",
    ];
    assert_eq!(with_password(db, &set, "from standard input\n").await, 0);
    assert_eq!(log_in(&service, email, "from standard input").await, 200);
    assert_eq!(with_password(db, &set, "short").await, 2);
    assert_eq!(with_password(db, &set, &"x".repeat(1_000_000)).await, 2);

    let list = ran(db, &["users", "list", "--json"]).await.json();
    assert_eq!(
        (&list[0]["email"], &list[0]["role"]),
        (&json!(email), &json!("owner"))
    );
    assert!(!list.to_string().contains("argon2"));
    assert_eq!(
        ran(db, &["users", "disable", "--email", email])
            .await
            .status,
        0
    );
    assert_eq!(log_in(&service, email, "from standard input").await, 401);
}

#[tokio::test]
async fn what_makes_no_user_is_refused() {
    let db = TestDatabase::new().await;
    let organization = db.organization("cus_1").await.to_string();
    let of = ["--organization", &organization];
    let nobody = ["--organization", "00000000-0000-0000-0000-000000000000"];
    fn create<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&["users", "create", "--generate-password"], more].concat()
    }
    for (arguments, status) in [
        (
            create(&[&of[..], &["--email", "none", "--role", "owner"]].concat()),
            2,
        ),
        (
            create(&[&of[..], &["--email", "a@b", "--role", "admin"]].concat()),
            2,
        ),
        (
            create(&[&of[..], &["--email", "a@b", "--role", "operator"]].concat()),
            2,
        ),
        (create(&["--email", "a@b", "--role", "owner"]), 2),
        (
            create(&[&nobody[..], &["--email", "a@b", "--role", "owner"]].concat()),
            1,
        ),
        (
            vec!["users", "create", "--email", "a@b", "--role", "operator"],
            2,
        ),
        (vec!["users", "disable", "--email", "a@b"], 1),
    ] {
        let ran = ran(&db, &arguments).await;
        assert_eq!(ran.status, status, "{arguments:?}: {}", ran.stderr);
    }
    assert_eq!(db.count("users").await, 0);
}

#[tokio::test]
async fn a_key_is_made_for_scopes_and_revoked() {
    let service = TestService::intake_only().await;
    let db = &service.db;
    let organization = db.organization("cus_1").await.to_string();
    let of = ["--organization", organization.as_str()];
    let scope = Permission::BillingRead.as_str();
    let create = [&["api-keys", "create", "--scope", scope, "--json"], &of[..]].concat();
    let made = ran(db, &create).await.json();
    let key = made["key"].as_str().unwrap();
    let status = async || {
        let request = service.get("/api/billing/invoices").bearer_auth(key);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(status().await, 200);
    let list = ran(db, &[&["api-keys", "list", "--json"], &of[..]].concat()).await;
    assert!(!list.stdout.contains(key), "a key is shown once");
    assert_eq!(list.json()[0]["scopes"], json!([scope]));
    let id = made["id"].as_str().unwrap();
    let revoke = [&["api-keys", "revoke", id], &of[..]].concat();
    assert_eq!(ran(db, &revoke).await.status, 0);
    assert_eq!(status().await, 401);
    assert_eq!(ran(db, &revoke).await.status, 1, "it is revoked");
    let wrong = [&["api-keys", "create", "--scope", "everything"], &of[..]].concat();
    assert_eq!(ran(db, &wrong).await.status, 2);
}

#[tokio::test]
async fn a_user_who_lost_the_membership_gets_it_by_being_created_again() {
    let service = TestService::intake_only().await;
    let db = &service.db;
    let organization = db.organization("cus_1").await.to_string();
    let email = "ada@example.com";
    let create = [
        "users",
        "create",
        "--organization",
        &organization,
        "--email",
        email,
        "--role",
        "owner",
        "--generate-password",
        "--json",
    ];
    let made = ran(db, &create).await;
    assert_eq!(made.status, 0, "{}", made.stderr);
    let password = made.json()["password"].as_str().unwrap().to_owned();
    let again = ran(db, &create).await;
    assert_eq!(again.status, 1, "{}", again.stderr);
    assert!(again.stderr.contains("already exists"), "{}", again.stderr);

    // As after a rollback of the schema.
    db.execute("DELETE FROM user_sessions; DELETE FROM organization_members")
        .await;
    let examined = ran(db, &["doctor", "--json"]).await.json();
    let users = examined
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["name"] == "users")
        .unwrap();
    assert_eq!(users["verdict"], "warning", "{users}");
    assert!(users["detail"].as_str().unwrap().contains(email), "{users}");
    let joined = ran(db, &create).await;
    assert_eq!(joined.status, 0, "{}", joined.stderr);
    let joined = joined.json();
    assert_eq!(
        (&joined["existed"], &joined["role"]),
        (&json!(true), &json!("owner"))
    );
    assert!(joined["password"].is_null(), "the password is as it was");
    assert_eq!(log_in(&service, email, &password).await, 200);
    assert_eq!(
        db.count("billing_audit_log WHERE action = 'member_added'")
            .await,
        1
    );

    assert_eq!(
        ran(db, &["users", "disable", "--email", email])
            .await
            .status,
        0
    );
    let set = [
        "users",
        "set-password",
        "--email",
        email,
        "--generate-password",
        "--json",
    ];
    let set = ran(db, &set).await;
    assert_eq!(set.status, 0);
    assert!(
        set.stderr
            .contains("is disabled, and cannot log in until `users enable"),
        "{}",
        set.stderr
    );
    let password = set.json()["password"].as_str().unwrap().to_owned();
    assert_eq!(log_in(&service, email, &password).await, 401);
    assert_eq!(
        ran(db, &["users", "enable", "--email", email]).await.status,
        0
    );
    assert_eq!(log_in(&service, email, &password).await, 200);
    assert_eq!(
        db.count("billing_audit_log WHERE action = 'user_enabled'")
            .await,
        1
    );
}

/// What was made and cannot be shown is named, and is no success.
#[tokio::test]
async fn what_cannot_be_shown_is_named() {
    let db = TestDatabase::new().await;
    let organization = db.organization("cus_1").await.to_string();
    for arguments in [
        &["organizations", "create", "--name", "Acme"][..],
        &[
            "api-keys",
            "create",
            "--organization",
            &organization,
            "--scope",
            "usage.write",
            "--name",
            "x",
        ],
        &[
            "users",
            "create",
            "--organization",
            &organization,
            "--email",
            "a@b.example",
            "--role",
            "owner",
            "--generate-password",
        ],
    ] {
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let mut command = program_on(&db, arguments);
        command.stdout(full).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let ended = tokio::task::spawn_blocking(move || child.wait_with_output())
            .await
            .unwrap()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(
            said.contains("made, but not shown: "),
            "{arguments:?}: {said}"
        );
    }
    let id = db
        .value("SELECT id FROM organizations WHERE name = 'Acme'")
        .await;
    assert_eq!(id.len(), 36);
}
