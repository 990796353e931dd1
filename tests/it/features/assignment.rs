//! The features that an organization has by its plan.

use serde_json::{Value, json};
use valuecanvas_billing::catalogue::Catalogue;
use valuecanvas_billing::metering::quotas;

use super::in_force;
use crate::support::TestDatabase;
use crate::support::TestService;
use crate::support::events::{event, subscription};
use crate::webhooks::workbench::Workbench;

const STORED: &str = "SELECT feature, value, plan_tier FROM organization_features ORDER BY feature";

fn stored(tier: &str, values: &[(&str, Value)]) -> Value {
    let row = |(feature, value): &(&str, Value)| json!({"feature": feature, "value": value, "plan_tier": tier});
    values.iter().map(row).collect()
}

#[tokio::test]
async fn an_organization_begins_with_the_features_of_its_plan() {
    let db = TestDatabase::new().await;
    let organization = db.organization("cus_1").await;
    assert_eq!(
        in_force(&db.service_pool(), organization).await,
        json!({
            "projects": [3, "plan"],
            "sso": [false, "off"],
            "support": ["community", "plan"],
        })
    );
}

#[tokio::test]
async fn features_come_and_go_with_the_subscription() {
    let service = TestService::start().await;
    let organization = service.db.organization("cus_1").await;
    let pool = service.db.service_pool();
    let steps = [
        (
            "created",
            "active",
            json!([[20, "plan"], [false, "off"], ["business", "plan"]]),
            "standard",
        ),
        (
            "updated",
            "active",
            json!([[1000, "plan"], [true, "plan"], ["priority", "plan"]]),
            "enterprise",
        ),
        (
            "deleted",
            "canceled",
            json!([[3, "plan"], [false, "off"], ["community", "plan"]]),
            "enterprise",
        ),
    ];
    for (n, (what, status, expected, tier)) in steps.into_iter().enumerate() {
        let object = subscription("sub_1", "cus_1", status, tier);
        let event_type = format!("customer.subscription.{what}");
        let created = 100 + i64::try_from(n).unwrap();
        service
            .deliver(&event(&format!("evt_{n}"), &event_type, created, object))
            .await;
        service.settle().await;
        let have = in_force(&pool, organization).await;
        assert_eq!(
            json!([have["projects"], have["sso"], have["support"]]),
            expected,
            "{what}"
        );
    }
}

#[tokio::test]
async fn features_and_quotas_are_assigned_in_one_transaction() {
    let bench = Workbench::new().await;
    // Quotas cannot be written: the features stay as they were, too.
    bench
        .db
        .execute("ALTER TABLE usage_quotas ADD CONSTRAINT free_only CHECK (plan_tier = 'free')")
        .await;
    let object = subscription("sub_1", "cus_1", "active", "enterprise");
    bench
        .store(&[event("evt_1", "customer.subscription.created", 100, object)])
        .await;
    assert_eq!(bench.work().await.failed, 1);
    let free = [("projects", json!(3)), ("support", json!("community"))];
    assert_eq!(bench.rows(STORED).await, stored("free", &free));
}

#[tokio::test]
async fn a_changed_catalogue_reaches_everybody_and_touches_only_what_differs() {
    let db = TestDatabase::new().await;
    db.organization("cus_1").await;
    let other = db.organization("cus_2").await;
    db.execute("UPDATE organization_features SET updated_at = '2020-01-01'")
        .await;
    let text = std::fs::read_to_string("config/plans.toml").unwrap();
    let text = text.replace("default = 3 }", "default = 5 }").replace(
        "support = { kind = \"text\", name = \"Support\", default = \"community\" }",
        "support = { kind = \"text\", name = \"Support\" }\nexport = { kind = \"flag\", name = \"Export\", default = true }",
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let catalogue = Catalogue::load(Some(file.path())).unwrap();
    let pool = db.service_pool();
    let applied = quotas::apply_catalogue(&pool, &catalogue).await.unwrap();
    // For each: one that is new, one that is gone, one with another value.
    assert_eq!((applied.changed, applied.skipped), (6, 0));
    let rows = crate::webhooks::workbench::rows(
        &db,
        &format!(
            "SELECT feature, value, plan_tier FROM organization_features
          WHERE organization_id = '{other}' ORDER BY feature"
        ),
    )
    .await;
    let now = [("export", json!(true)), ("projects", json!(5))];
    assert_eq!(rows, stored("free", &now));
    let again = quotas::apply_catalogue(&pool, &catalogue).await.unwrap();
    assert_eq!((again.changed, again.skipped), (0, 0));
}
