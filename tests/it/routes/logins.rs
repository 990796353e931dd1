//! Logins by the dozen: whom they lock out (nobody who knows a password), and
//! what is left of them.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};
use valuecanvas_billing::tenancy::auth::{self, By, Hasher, NewUser, Role};

use crate::support::TestService;

const PASSWORD: &str = "right one";

async fn office(service: &TestService, users: usize) {
    let organization = service.organization("An office").await;
    for n in 0..users {
        let new = NewUser {
            email: format!("user{n}@example.com"),
            role: Role::Owner,
            organization_id: Some(organization),
            password: PASSWORD.to_owned(),
        };
        auth::create_user(
            &service.db.service_pool(),
            &Hasher::default(),
            new,
            &By::SYSTEM,
        )
        .await
        .unwrap();
    }
}

/// The status, and a problem's code.
async fn log_in(service: &TestService, user: usize, password: &str) -> (u16, String) {
    let email = format!("user{user}@example.com");
    let request = service
        .post("/api/auth/login")
        .json(&json!({"email": email, "password": password}));
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let answer: Value = response.json().await.unwrap();
    (
        status,
        answer["code"].as_str().unwrap_or_default().to_owned(),
    )
}

#[tokio::test]
async fn an_office_behind_one_address_logs_in_as_often_as_it_likes() {
    let service = TestService::intake_only().await;
    office(&service, 3).await;
    assert_eq!(log_in(&service, 0, PASSWORD).await.0, 200);
    // As after a morning of mistyped passwords: the next failure has a delay.
    let address = "succeeded_at IS NULL";
    service
        .db
        .execute(&format!(
            "UPDATE login_throttles SET failures = 49 WHERE {address}"
        ))
        .await;
    for n in 0..9 {
        assert_eq!(log_in(&service, n % 3, PASSWORD).await.0, 200, "{n}");
    }
    let unchanged =
        format!("login_throttles WHERE {address} AND failures = 49 AND blocked_until IS NULL");
    assert_eq!(service.db.count(&unchanged).await, 1);
    assert_eq!(log_in(&service, 0, "wrong one").await.0, 401);
    let refused = log_in(&service, 1, PASSWORD).await;
    assert_eq!(refused, (429, "too_many_attempts".to_owned()));
    // A success takes back its own attempt, and not that failure.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(log_in(&service, 1, PASSWORD).await.0, 200);
    let failed = format!("login_throttles WHERE {address} AND failures = 50");
    assert_eq!(service.db.count(&failed).await, 1);
}

#[tokio::test]
async fn who_is_turned_away_has_not_failed() {
    let service = TestService::intake_only().await;
    office(&service, 15).await;
    let crowd = (0..60).map(|n| log_in(&service, n % 15, PASSWORD));
    let answers = join_all(crowd).await;
    let busy = (429, "too_many_logins".to_owned());
    assert!(answers.contains(&busy), "{answers:?}");
    assert!(
        answers
            .iter()
            .all(|answer| answer.0 == 200 || *answer == busy),
        "{answers:?}"
    );
    assert_eq!(
        service.db.count("login_throttles WHERE failures > 0").await,
        0
    );
    assert_eq!(log_in(&service, 0, PASSWORD).await.0, 200);
}

#[tokio::test]
async fn a_database_that_goes_away_is_nobodys_failure() {
    let service = TestService::intake_only().await;
    office(&service, 1).await;
    // What starts a session cannot.
    service
        .db
        .execute("REVOKE INSERT ON user_sessions FROM billing_worker")
        .await;
    for _ in 0..7 {
        assert_eq!(log_in(&service, 0, PASSWORD).await.0, 500);
    }
    service
        .db
        .execute("GRANT INSERT ON user_sessions TO billing_worker")
        .await;
    assert_eq!(log_in(&service, 0, PASSWORD).await.0, 200);
}

#[tokio::test]
async fn a_flood_of_logins_takes_nobodys_connection() {
    let service = TestService::intake_only().await;
    office(&service, 1).await;
    let organization = service.organization("Beside").await;
    let token = service.token(organization, Role::Member).await;
    // Whoever logs in waits for this.
    let mut owner = PgConnection::connect_with(&service.db.options("postgres"))
        .await
        .unwrap();
    owner
        .execute("BEGIN; LOCK TABLE login_throttles")
        .await
        .unwrap();
    let flood: Vec<_> = (0..40)
        .map(|_| {
            let request = service
                .post("/api/auth/login")
                .json(&json!({"email": "user0@example.com", "password": "wrong one"}));
            tokio::spawn(request.send())
        })
        .collect();
    for _ in 0..20 {
        let read = service.get("/api/billing/invoices").bearer_auth(&token);
        assert_eq!(read.send().await.unwrap().status(), 200);
    }
    owner.execute("COMMIT").await.unwrap();
    for answered in flood {
        let status = answered.await.unwrap().unwrap().status().as_u16();
        assert!([401, 429].contains(&status), "{status}");
    }
}

#[tokio::test]
async fn what_had_its_time_is_removed_when_a_service_starts() {
    let service = TestService::intake_only().await;
    office(&service, 2).await;
    for user in [0, 1] {
        assert_eq!(log_in(&service, user, PASSWORD).await.0, 200);
    }
    service
        .db
        .execute(
            "INSERT INTO request_idempotency (organization_id, idempotency_key, fingerprint,
                                              lease_id, lease_expires_at, expires_at)
             SELECT gen_random_uuid(), 'k' || n, sha256('a'), gen_random_uuid(), now(),
                    CASE WHEN n < 2500 THEN now() - interval '10 days' ELSE now() + interval '1 day' END
               FROM generate_series(1, 2501) AS n;
             UPDATE user_sessions SET expires_at = now() - interval '31 days'
              WHERE user_id = (SELECT id FROM users WHERE email = 'user0@example.com');
             UPDATE login_throttles SET last_attempt_at = now() - interval '31 days'
              WHERE succeeded_at IS NOT NULL",
        )
        .await;
    let _processing = TestService::beside_with(&service, Default::default()).await;
    for (rows, left) in [
        ("request_idempotency", 2),
        ("user_sessions", 1),
        ("login_throttles", 1),
    ] {
        while service.db.count(rows).await > left {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(service.db.count(rows).await, left, "{rows}");
    }
}
