//! E-mail addresses: one person, however the letters are composed.

use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;
use valuecanvas_billing::tenancy::auth::{self, By, Hasher, NewUser, Role, UserError, Which};

use crate::support::{TestDatabase, TestService};

const PASSWORD: &str = "test1234";
/// `é` as one character, and as an e with an accent.
const COMPOSED: &str = "jos\u{e9}@example.com";
const IN_PARTS: &str = "jose\u{301}@example.com";

async fn create(db: &TestDatabase, email: &str, organization: Uuid) -> Result<(), UserError> {
    let new = NewUser {
        email: email.to_owned(),
        role: Role::Owner,
        organization_id: Some(organization),
        password: PASSWORD.to_owned(),
    };
    let made = auth::create_user(&db.service_pool(), &Hasher::default(), new, &By::SYSTEM).await;
    made.map(drop)
}

async fn log_in(service: &TestService, email: &str, password: &str) -> u16 {
    let body = json!({"email": email, "password": password});
    let request = service.post("/api/auth/login").json(&body);
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_user_logs_in_however_the_address_is_composed() {
    let service = TestService::intake_only().await;
    let organization = service.organization("Accents").await;
    for (n, made) in [COMPOSED, IN_PARTS].into_iter().enumerate() {
        let own = |address: &str| format!("{n}{address}");
        create(&service.db, &own(made), organization).await.unwrap();
        for typed in [
            COMPOSED,
            IN_PARTS,
            "JOSE\u{301}@Example.COM",
            "JOS\u{c9}@example.com",
        ] {
            assert_eq!(
                log_in(&service, &own(typed), PASSWORD).await,
                200,
                "{typed}"
            );
            let again = create(&service.db, &own(typed), organization).await;
            assert!(matches!(again, Err(UserError::Exists(_))), "{typed}");
        }
        let pool = service.db.service_pool();
        auth::disable_user(&pool, Which::Email(&own(IN_PARTS)), &By::SYSTEM)
            .await
            .unwrap();
        assert_eq!(log_in(&service, &own(COMPOSED), PASSWORD).await, 401);
    }
}

#[tokio::test]
async fn guesses_are_counted_for_the_address_and_not_for_its_spelling() {
    let service = TestService::intake_only().await;
    for typed in [
        COMPOSED,
        IN_PARTS,
        "JOSE\u{301}@example.com",
        COMPOSED,
        IN_PARTS,
    ] {
        log_in(&service, typed, "a wrong guess").await;
    }
    // One pair, one address, one account.
    assert_eq!(service.db.count("login_throttles").await, 3);
    assert_eq!(
        service.db.count("login_throttles WHERE failures = 5").await,
        3
    );
}

#[tokio::test]
async fn addresses_of_before_are_found_and_composed() {
    let service = TestService::intake_only().await;
    let db = &service.db;
    let organization = service.organization("Of before").await;
    create(db, COMPOSED, organization).await.unwrap();
    let before = format!("UPDATE users SET email = '{IN_PARTS}'");
    db.execute(&before).await;
    for typed in [COMPOSED, IN_PARTS] {
        assert_eq!(log_in(&service, typed, PASSWORD).await, 200, "{typed}");
    }
    let taken = create(db, COMPOSED, organization).await;
    assert!(matches!(taken, Err(UserError::Exists(_))));
    let migration =
        include_str!("../../../supabase/migrations/20260103070000_canonical_addresses.sql");
    db.execute(migration).await;
    assert_eq!(
        db.count(&format!("users WHERE email = '{COMPOSED}'")).await,
        1
    );
    // Two with one address keep each its own: none takes the other's place.
    db.execute(&format!(
        "INSERT INTO users (id, email) VALUES (gen_random_uuid(), '{IN_PARTS}')"
    ))
    .await;
    db.execute(migration).await;
    assert_eq!(
        db.count(&format!("users WHERE email = '{IN_PARTS}'")).await,
        1
    );
    assert_eq!(log_in(&service, COMPOSED, PASSWORD).await, 200);
    assert_eq!(log_in(&service, IN_PARTS, PASSWORD).await, 401);
}

#[tokio::test]
async fn a_member_is_told_to_be_one_and_every_organization_hears_of_a_change() {
    let service = TestService::intake_only().await;
    let db = &service.db;
    let pool = db.service_pool();
    let first = service.organization("First").await;
    let second = service.organization("Second").await;
    create(db, COMPOSED, first).await.unwrap();
    let again = auth::add_member(&pool, IN_PARTS, first, Role::Member, &By::SYSTEM).await;
    let said = again.unwrap_err().to_string();
    assert_eq!(
        said,
        format!("user {COMPOSED} is already a member of that organization, as owner")
    );
    let nowhere =
        auth::add_member(&pool, COMPOSED, Uuid::now_v7(), Role::Member, &By::SYSTEM).await;
    assert!(matches!(nowhere, Err(UserError::Organization(_))));
    auth::add_member(&pool, IN_PARTS, second, Role::Member, &By::SYSTEM)
        .await
        .unwrap();
    auth::set_password(
        &pool,
        &Hasher::default(),
        Which::Email(COMPOSED),
        "another one".to_owned(),
        &By::SYSTEM,
    )
    .await
    .unwrap();
    for organization in [first, second] {
        let entries = format!(
            "billing_audit_log WHERE organization_id = '{organization}' \
             AND action = 'user_password_set'"
        );
        assert_eq!(db.count(&entries).await, 1);
    }
    assert_eq!(
        db.count("billing_audit_chain_heads h WHERE last_sequence = 0")
            .await,
        0,
        "what was refused left no chain"
    );
}

/// Whoever changes an organization's users waits for its chain before it locks
/// anything else: two never wait for each other.
#[tokio::test]
async fn the_chain_is_locked_first() {
    let service = TestService::intake_only().await;
    let db = &service.db;
    let organization = service.organization("Locked").await;
    create(db, COMPOSED, organization).await.unwrap();
    let mut held = PgConnection::connect_with(&db.options("postgres"))
        .await
        .unwrap();
    sqlx::raw_sql("BEGIN; SELECT FROM billing_audit_chain_heads FOR UPDATE")
        .execute(&mut held)
        .await
        .unwrap();
    let pool = db.service_pool();
    let waiting = tokio::spawn(async move {
        auth::set_password(
            &pool,
            &Hasher::default(),
            Which::Email(COMPOSED),
            "another one".to_owned(),
            &By::SYSTEM,
        )
        .await
    });
    let blocked =
        "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    for _ in 0..1_000 {
        if db.count(blocked).await == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    // The user's own row is free.
    sqlx::raw_sql("SELECT FROM users FOR UPDATE NOWAIT; COMMIT")
        .execute(&mut held)
        .await
        .unwrap();
    waiting.await.unwrap().unwrap();
}
