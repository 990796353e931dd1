//! `users` and `api-keys`

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::json;
use valuecanvas_billing::tenancy::auth::Permission;

use crate::support::program::{Ran, program_on, run};
use crate::support::{TestDatabase, TestService};

async fn ran(db: &TestDatabase, arguments: &[&str]) -> Ran {
    let mut command = program_on(db, arguments);
    tokio::task::spawn_blocking(move || run(&mut command))
        .await
        .unwrap()
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
