//! What operators give and take, until when, and what the audit log says of it.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use valuecanvas_billing::audit::Actor;
use valuecanvas_billing::catalogue::Catalogue;
use valuecanvas_billing::features::{self, SetError, SetFeature, UnsetFeature};

use super::{in_force, override_of, set};
use crate::support::TestDatabase;
use crate::support::TestService;
use crate::support::events::{event, subscription};
use crate::webhooks::workbench::{rows, verify_audit};

const ENTRIES: &str = "SELECT action, resource_id, before_state, after_state FROM billing_audit_log
                        WHERE resource_type = 'feature' ORDER BY sequence";

async fn actions(db: &TestDatabase) -> Vec<String> {
    let Value::Array(entries) = rows(db, ENTRIES).await else {
        panic!("rows are a list")
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    entries.iter().map(|entry| text(&entry["action"])).collect()
}

#[tokio::test]
async fn an_override_replaces_the_plans_value_until_it_is_removed() {
    let db = TestDatabase::new().await;
    let organization = db.organization("cus_1").await;
    let pool = db.service_pool();
    for (feature, value) in [("sso", "true"), ("projects", "0"), ("support", "")] {
        set(&pool, &override_of(organization, feature, value))
            .await
            .unwrap();
    }
    let overridden = json!({
        "projects": [0, "override"],
        "sso": [true, "override"],
        "support": [null, "override"],
    });
    assert_eq!(in_force(&pool, organization).await, overridden);
    let unset = UnsetFeature {
        organization_id: organization,
        feature: "sso".to_owned(),
        reason: Some("the trial is over".to_owned()),
        actor: Actor::System,
        client: None,
    };
    let catalogue = Catalogue::load(None).unwrap();
    let row = features::unset(&pool, &catalogue, &unset).await.unwrap();
    assert_eq!(json!([row.value, row.source]), json!([false, "off"]));
    let again = features::unset(&pool, &catalogue, &unset).await;
    assert!(matches!(again, Err(SetError::NoOverride(_))));
    let entries = rows(&db, ENTRIES).await;
    assert_eq!(
        actions(&db).await,
        ["feature_set", "feature_set", "feature_set", "feature_unset"]
    );
    let first = &entries[0];
    assert_eq!(
        first["before_state"],
        json!({"value": false, "source": "off", "override": null})
    );
    assert_eq!(first["after_state"]["value"], true);
    assert!(first["after_state"]["override"]["setBy"].is_string());
    let reasons = "SELECT string_agg(p.reason, ', ' ORDER BY l.sequence) FROM billing_audit_log l
                     JOIN billing_audit_personal_data p ON p.entry_id = l.id";
    assert_eq!(
        db.value(reasons).await,
        "a promise, a promise, a promise, the trial is over"
    );
    let words = "billing_audit_log l WHERE l::text ~ 'a promise|trial'";
    assert_eq!(db.count(words).await, 0, "they could not be erased");
    let last = &entries[3];
    assert_eq!(last["before_state"]["source"], "override");
    assert_eq!(
        last["after_state"],
        json!({"value": false, "source": "off", "override": null})
    );
    verify_audit(&db).await;
}

#[tokio::test]
async fn an_override_outlives_a_change_of_plan() {
    let service = TestService::start().await;
    let organization = service.db.organization("cus_1").await;
    let pool = service.db.service_pool();
    set(&pool, &override_of(organization, "projects", "50"))
        .await
        .unwrap();
    let object = subscription("sub_1", "cus_1", "active", "enterprise");
    service
        .deliver(&event(
            "evt_1",
            "customer.subscription.created",
            100,
            object,
        ))
        .await;
    service.settle().await;
    let have = in_force(&pool, organization).await;
    assert_eq!(have["projects"], json!([50, "override"]));
    assert_eq!(have["sso"], json!([true, "plan"]));
}

#[tokio::test]
async fn an_override_ends_by_itself_and_is_entered_once() {
    let db = TestDatabase::new().await;
    let organization = db.organization("cus_1").await;
    let pool = db.service_pool();
    let command = SetFeature {
        expires_at: Some(Timestamp::now() + SignedDuration::from_hours(1)),
        ..override_of(organization, "projects", "50")
    };
    let row = set(&pool, &command).await.unwrap();
    assert!(row.r#override.unwrap().expires_at.is_some());
    assert_eq!(features::sweep(&pool).await.unwrap(), 0);
    assert_eq!(
        in_force(&pool, organization).await["projects"],
        json!([50, "override"])
    );
    db.execute("UPDATE feature_overrides SET expires_at = now() - interval '1 s'")
        .await;
    // Reading leaves it out before anybody removes it.
    assert_eq!(db.count("feature_overrides").await, 1);
    assert_eq!(
        in_force(&pool, organization).await["projects"],
        json!([3, "plan"])
    );
    let swept = futures_util::future::join_all((0..4).map(|_| features::sweep(&pool))).await;
    let swept: usize = swept.into_iter().map(Result::unwrap).sum();
    assert_eq!(swept, 1);
    assert_eq!(features::sweep(&pool).await.unwrap(), 0);
    assert_eq!(db.count("feature_overrides").await, 0);
    assert_eq!(
        actions(&db).await,
        ["feature_set", "feature_override_expired"]
    );
    let entry = &rows(&db, ENTRIES).await[1];
    assert_eq!(entry["before_state"]["value"], 50);
    let set = &entry["before_state"]["override"];
    assert_eq!((&set["value"], &set["reason"]), (&json!(50), &Value::Null));
    assert_eq!(entry["after_state"], json!({"value": 3, "override": null}));
    verify_audit(&db).await;
}

#[tokio::test]
async fn an_override_that_is_held_keeps_no_other_from_ending() {
    let db = TestDatabase::new().await;
    let held = db.organization("cus_1").await;
    let other = db.organization("cus_2").await;
    let pool = db.service_pool();
    for organization in [held, other] {
        let command = override_of(organization, "projects", "50");
        set(&pool, &command).await.unwrap();
    }
    db.execute("UPDATE feature_overrides SET expires_at = now() - interval '1 s'")
        .await;
    let mut holder = db.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM feature_overrides WHERE organization_id = $1 FOR UPDATE")
        .bind(held)
        .execute(&mut *holder)
        .await
        .unwrap();
    assert_eq!(features::sweep(&pool).await.unwrap(), 1);
    holder.rollback().await.unwrap();
    assert_eq!(features::sweep(&pool).await.unwrap(), 1);
    assert_eq!(db.count("feature_overrides").await, 0);
}

#[tokio::test]
async fn an_override_that_ended_is_entered_before_it_is_replaced_or_removed() {
    let db = TestDatabase::new().await;
    let organization = db.organization("cus_1").await;
    let pool = db.service_pool();
    let sso = override_of(organization, "sso", "true");
    let end = "UPDATE feature_overrides SET expires_at = now() - interval '1 s'";
    set(&pool, &sso).await.unwrap();
    db.execute(end).await;
    set(&pool, &sso).await.unwrap();
    db.execute(end).await;
    let unset = UnsetFeature {
        organization_id: organization,
        feature: "sso".to_owned(),
        reason: None,
        actor: Actor::System,
        client: None,
    };
    let catalogue = Catalogue::load(None).unwrap();
    let nothing = features::unset(&pool, &catalogue, &unset).await;
    assert!(matches!(nothing, Err(SetError::NoOverride(_))));
    assert_eq!(
        actions(&db).await,
        [
            "feature_set",
            "feature_override_expired",
            "feature_set",
            "feature_override_expired"
        ]
    );
    assert_eq!(db.count("feature_overrides").await, 0);
}

#[tokio::test]
async fn what_is_wrong_changes_nothing() {
    let db = TestDatabase::new().await;
    let organization = db.organization("cus_1").await;
    let pool = db.service_pool();
    let sso = override_of(organization, "sso", "true");
    let past = Timestamp::now() - SignedDuration::from_secs(5);
    for (command, said) in [
        (
            override_of(organization, "seats", "1"),
            "which has projects, sso, support",
        ),
        (
            override_of(organization, "sso", "yes"),
            "\"sso\" is a flag; write true or false",
        ),
        (
            override_of(organization, "projects", "-1"),
            "a whole number",
        ),
        (
            SetFeature {
                reason: " \t ".to_owned(),
                ..sso.clone()
            },
            "say why",
        ),
        (
            SetFeature {
                reason: "x".repeat(501),
                ..sso.clone()
            },
            "1 to 500",
        ),
        (
            SetFeature {
                expires_at: Some(past),
                ..sso.clone()
            },
            "not in the future",
        ),
        (override_of(uuid::Uuid::nil(), "sso", "true"), "not found"),
    ] {
        let refused = set(&pool, &command).await.unwrap_err().to_string();
        assert!(refused.contains(said), "{refused}");
    }
    assert_eq!(db.count("feature_overrides").await, 0);
    assert_eq!(actions(&db).await, Vec::<String>::new());
}

#[tokio::test]
async fn an_override_of_a_kind_that_the_file_changed_counts_for_nothing() {
    let db = TestDatabase::new().await;
    let organization = db.organization("cus_1").await;
    let pool = db.service_pool();
    set(&pool, &override_of(organization, "projects", "50"))
        .await
        .unwrap();
    db.execute("UPDATE feature_overrides SET value = 'true'")
        .await;
    assert_eq!(
        in_force(&pool, organization).await["projects"],
        json!([3, "plan"])
    );
    set(&pool, &override_of(organization, "support", ""))
        .await
        .unwrap();
    db.execute(&format!(
        "INSERT INTO feature_overrides (organization_id, feature, value, reason, set_by) VALUES
           ('{organization}', 'gone', '1', 'a promise', 'alice')"
    ))
    .await;
    let catalogue = Catalogue::load(None).unwrap();
    let idle = features::idle(&pool, &catalogue).await.unwrap();
    assert_eq!(idle, [("gone".to_owned(), 1), ("projects".to_owned(), 1)]);
}
