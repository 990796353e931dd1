//! Sign-ins and their ends beside changes of the same user: one order of locks, and no session
//! that outlives what it did not see.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};
use tokio::time::timeout;
use valuecanvas_billing::tenancy::auth::{self, By, Hasher, Which};

use super::{Desk, OPERATOR, OWNER, PASSWORD};

const CHAIN: &str = "SELECT 1 FROM billing_audit_chain_heads
                      WHERE organization_id = '00000000-0000-0000-0000-000000000000' FOR UPDATE";
const NEW: &str = "another password";
const LIMIT: Duration = Duration::from_secs(30);

impl Desk {
    async fn token_of(&self, email: &str) -> String {
        let (status, body) = self.password(email, PASSWORD).await;
        assert_eq!(status, 200, "{body}");
        body["token"].as_str().unwrap().to_owned()
    }

    async fn password(&self, email: &str, password: &str) -> (StatusCode, Value) {
        let body = json!({"email": email, "password": password});
        let request = self.service.post("/api/auth/login").json(&body);
        let response = request.send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    async fn connection(&self) -> PgConnection {
        self.service.db.options("postgres").connect().await.unwrap()
    }

    /// Waits until so many transactions of the service wait for a lock.
    async fn are_waiting(&self, wanted: i64) {
        let waiting = "pg_stat_activity WHERE datname = current_database()
                        AND wait_event_type = 'Lock'";
        let waits = async {
            while self.service.db.count(waiting).await < wanted {
                tokio::task::yield_now().await;
            }
        };
        timeout(LIMIT, waits).await.expect("they wait for a lock");
    }

    async fn signs_out(&self, token: &str) -> StatusCode {
        let request = self.service.post("/api/auth/logout").bearer_auth(token);
        request.send().await.unwrap().status()
    }

    async fn is_valid(&self, token: &str) -> bool {
        let request = self.service.get("/api/operator/organizations");
        let response = request.bearer_auth(token).send().await.unwrap();
        response.status() != StatusCode::UNAUTHORIZED
    }
}

#[tokio::test]
async fn who_signs_out_waits_for_the_audit_log_before_holding_the_session() {
    let desk = Desk::open().await;
    let token = desk.token_of(OPERATOR).await;
    // As `end_sessions` does: first the chain, then the sessions.
    let mut conn = desk.connection().await;
    let mut ending = conn.begin().await.unwrap();
    ending.execute(CHAIN).await.unwrap();
    let signing_out = desk.signs_out(&token);
    let ends = async {
        desk.are_waiting(1).await;
        let sessions = "SELECT 1 FROM user_sessions FOR UPDATE NOWAIT";
        ending.execute(sessions).await.expect("nobody holds one");
        ending.rollback().await.unwrap();
    };
    let (status, ()) = tokio::join!(signing_out, ends);
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert!(!desk.is_valid(&token).await);
}

#[tokio::test]
async fn many_ends_and_sign_outs_at_once_all_succeed() {
    let desk = Desk::open().await;
    let id = format!("SELECT id::text FROM users WHERE email = '{OPERATOR}'");
    let id = desk.service.db.value(&id).await.parse().unwrap();
    let pool = desk.service.db.service_pool();
    for _ in 0..10 {
        let mut tokens = Vec::new();
        for _ in 0..4 {
            tokens.push(desk.token_of(OPERATOR).await);
        }
        let sign_outs = tokens.iter().map(|token| desk.signs_out(token));
        let ends = (0..2).map(|_| auth::end_sessions(&pool, id, None, &By::SYSTEM));
        let (statuses, ended) = tokio::join!(
            futures_util::future::join_all(sign_outs),
            futures_util::future::join_all(ends)
        );
        for status in statuses {
            let known = [StatusCode::NO_CONTENT, StatusCode::UNAUTHORIZED];
            assert!(known.contains(&status), "{status}");
        }
        for ended in ended {
            ended.expect("no deadlock");
        }
    }
}

/// A password is changed between the check of the old one and the session.
async fn begun_meanwhile(email: &str) {
    let desk = Desk::open().await;
    let hash = Hasher::default().hash(NEW.to_owned()).await.unwrap();
    let mut conn = desk.connection().await;
    let mut change = conn.begin().await.unwrap();
    // What a change holds until it is committed, with what it ends.
    sqlx::query("UPDATE users SET password_hash = $2 WHERE email = $1")
        .bind(email)
        .bind(hash)
        .execute(&mut *change)
        .await
        .unwrap();
    sqlx::query("UPDATE user_sessions SET revoked_at = now()")
        .execute(&mut *change)
        .await
        .unwrap();
    let begins = desk.password(email, PASSWORD);
    let commits = async {
        desk.are_waiting(1).await;
        change.commit().await.unwrap();
    };
    let ((status, body), ()) = tokio::join!(begins, commits);
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
    let open = "user_sessions WHERE revoked_at IS NULL";
    assert_eq!(desk.service.db.count(open).await, 0);
    assert_eq!(desk.password(email, NEW).await.0, StatusCode::OK);
}

#[tokio::test]
async fn no_session_of_an_operator_begins_by_a_password_that_is_changed_meanwhile() {
    begun_meanwhile(OPERATOR).await;
}

#[tokio::test]
async fn no_session_of_an_owner_begins_by_a_password_that_is_changed_meanwhile() {
    begun_meanwhile(OWNER).await;
}

#[tokio::test]
async fn a_session_that_begins_first_ends_with_the_change() {
    let desk = Desk::open().await;
    let mut conn = desk.connection().await;
    let mut held = conn.begin().await.unwrap();
    held.execute(CHAIN).await.unwrap();
    // The sign-in comes first to the chain, and the change after it.
    let begins = desk.password(OPERATOR, PASSWORD);
    let pool = desk.service.db.service_pool();
    let changes = async {
        desk.are_waiting(1).await;
        let hasher = Hasher::default();
        let set = auth::set_password(
            &pool,
            &hasher,
            Which::Email(OPERATOR),
            NEW.to_owned(),
            &By::SYSTEM,
        );
        let releases = async {
            desk.are_waiting(2).await;
            held.rollback().await.unwrap();
        };
        let (set, ()) = tokio::join!(set, releases);
        set.unwrap();
    };
    let ((status, body), ()) = tokio::join!(begins, changes);
    assert_eq!(status, StatusCode::OK, "{body}");
    assert!(!desk.is_valid(body["token"].as_str().unwrap()).await);
}

#[tokio::test]
async fn a_second_factor_that_comes_meanwhile_is_asked_for() {
    let desk = Desk::open().await;
    let mut conn = desk.connection().await;
    let mut enrols = conn.begin().await.unwrap();
    let held = format!("SELECT id FROM users WHERE email = '{OPERATOR}' FOR NO KEY UPDATE");
    sqlx::query(sqlx::AssertSqlSafe(held))
        .execute(&mut *enrols)
        .await
        .unwrap();
    let factor = format!(
        "INSERT INTO operator_second_factors (user_id, secret, last_step)
         SELECT id, '\\x{}', 0 FROM users WHERE email = '{OPERATOR}'",
        "ab".repeat(20)
    );
    sqlx::query(sqlx::AssertSqlSafe(factor))
        .execute(&mut *enrols)
        .await
        .unwrap();
    let begins = desk.password(OPERATOR, PASSWORD);
    let commits = async {
        desk.are_waiting(1).await;
        enrols.commit().await.unwrap();
    };
    let ((status, body), ()) = tokio::join!(begins, commits);
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
    let (_, body) = desk.password(OPERATOR, PASSWORD).await;
    assert_eq!(body["code"], "code_required", "{body}");
}
