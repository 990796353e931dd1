//! `--organization` takes our id or the product's, and an unknown one is an error everywhere.

use crate::support::TestDatabase;
use crate::support::program::{Ran, run_on};

const PLACES: &[&[&str]] = &[
    &["audit", "list", "--organization"],
    &["audit", "verify", "--organization"],
    &["audit", "export", "--organization"],
    &["audit", "repair", "--organization"],
    &["users", "list", "--organization"],
    &["api-keys", "list", "--organization"],
    &["quotas", "list", "--organization"],
    &["features", "list", "--organization"],
    &["webhooks", "list", "--organization"],
    &["webhooks", "dead-letters", "--organization"],
    &["webhooks", "discard", "--all", "--organization"],
    &["organizations", "show"],
];

async fn ran(db: &TestDatabase, arguments: &[&str]) -> Ran {
    run_on(db, arguments).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_is_found_by_either_id_or_named_as_unknown() {
    let db = TestDatabase::new().await;
    let id = db.organization("cus_1").await.to_string();
    db.execute("UPDATE organizations SET external_id = 'team/42 ü'")
        .await;
    for place in PLACES {
        for named in [&id, "team/42 ü"] {
            let found = ran(&db, &[place, &[named][..]].concat()).await;
            assert_eq!(found.status, 0, "{place:?} {named}: {}", found.stderr);
        }
        for unknown in ["team/43", "01a223d2-5230-7201-802e-dfb4a2e27711"] {
            let refused = ran(&db, &[place, &[unknown][..]].concat()).await;
            assert_eq!(refused.status, 1, "{place:?} {unknown}: {}", refused.stdout);
            let said = format!("organization {unknown:?} not found");
            assert!(
                refused.stderr.contains(&said),
                "{place:?}: {}",
                refused.stderr
            );
        }
    }
    let set = |metric: &'static str| {
        [
            "quotas",
            "set",
            "--organization",
            "team/42 ü",
            "--metric",
            metric,
            "--limit",
            "5",
        ]
    };
    assert_eq!(ran(&db, &set("api_calls")).await.status, 0);
    assert_eq!(
        db.count(&format!(
            "usage_quota_overrides WHERE organization_id = '{id}'"
        ))
        .await,
        1
    );
}
