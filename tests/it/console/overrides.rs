//! Overrides of quotas and features: by the functions of routes and commands, with a reason and
//! an end; a conflict says why and keeps what was typed.

use super::{Browser, Desk, OPERATOR, READER, is_ok};

const LATER: &str = "2199-12-31T00:00:00Z";

impl super::Page {
    /// The override that the page shows, for the form to say.
    fn seen(&self) -> String {
        let found = self.text.split("name=\"seen\" value=\"").nth(1).unwrap();
        found.split('"').next().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_quota_is_set_with_reason_and_end_and_returned_to_the_plans() {
    let desk = Desk::open().await;
    let organization = desk.organization;
    let path = format!("/console/organizations/{organization}/quotas/api_calls");
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let page = browser.get(&path).await;
    is_ok(&page);
    let seen = page.seen();
    let form = [
        ("seen", &*seen),
        ("value", "7000.5"),
        ("overLimit", "hard"),
        ("reason", "promised in the contract"),
        ("expiresAt", LATER),
        ("do", "set"),
    ];
    let set = browser.post(&path, &form).await;
    assert_eq!(set.status, 303, "{}", set.text);
    let row = format!(
        "usage_quota_overrides WHERE organization_id = '{organization}' AND metric = 'api_calls'
           AND quota = 7000.5 AND over_limit = 'hard' AND reason = 'promised in the contract'
           AND expires_at = '{LATER}'"
    );
    assert_eq!(desk.service.db.count(&row).await, 1);
    assert_eq!(desk.entries("quota_set", OPERATOR).await, 1);
    let page = browser
        .get(&format!("/console/organizations/{organization}"))
        .await;
    for said in ["7,000.5", "promised in the contract"] {
        assert!(page.text.contains(said), "{said}: {}", page.text);
    }

    // Who saw the page before it was set is told so, and what they typed is kept.
    let late = [("seen", &*seen), ("value", "123456"), ("do", "set")];
    let refused = browser.post(&path, &late).await;
    assert_eq!(refused.status, 409, "{}", refused.text);
    assert!(
        refused.text.contains("Somebody else changed it"),
        "{}",
        refused.text
    );
    assert!(
        refused.text.contains("value=\"123456\""),
        "{}",
        refused.text
    );
    let seen = refused.seen();
    let returned = browser
        .post(&path, &[("seen", &*seen), ("do", "unset")])
        .await;
    assert_eq!(returned.status, 303, "{}", returned.text);
    assert_eq!(desk.service.db.count("usage_quota_overrides").await, 0);
}

#[tokio::test]
async fn what_does_not_hold_says_why_and_keeps_what_was_typed() {
    let desk = Desk::open().await;
    let organization = desk.organization;
    let quota = format!("/console/organizations/{organization}/quotas/api_calls");
    let feature = format!("/console/organizations/{organization}/features/sso");
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let early = "2001-01-01T00:00:00Z";
    for (path, value, over, until, why) in [
        (&quota, "-1", "", "", "Quota:"),
        (&quota, "5000", "overage", "", "has no overage rate"),
        (&quota, "5000", "", early, "not in the future"),
        (&quota, "5000", "", "tomorrow", "expected a time"),
        (&feature, "perhaps", "", "", "sso"),
        (&feature, "true", "", early, "not in the future"),
    ] {
        let page = browser.get(path).await;
        is_ok(&page);
        let seen = page.seen();
        let form = [
            ("seen", &*seen),
            ("value", value),
            ("overLimit", over),
            ("reason", "a promise"),
            ("expiresAt", until),
            ("do", "set"),
        ];
        let refused = browser.post(path, &form).await;
        assert!((400..=422).contains(&refused.status), "{}", refused.text);
        for said in [
            why,
            "Nothing was changed",
            &format!("value=\"{value}\""),
            "a promise",
        ] {
            assert!(
                refused.text.contains(said),
                "{path} {value} {said}: {}",
                refused.text
            );
        }
    }
    let nothing = "usage_quota_overrides WHERE true";
    assert_eq!(desk.service.db.count(nothing).await, 0);
    assert_eq!(desk.service.db.count("feature_overrides").await, 0);
    let none = format!("/console/organizations/{organization}/quotas/none");
    assert_eq!(browser.get(&none).await.status, 404);
}

#[tokio::test]
async fn a_feature_is_given_and_taken_back() {
    let desk = Desk::open().await;
    let organization = desk.organization;
    let path = format!("/console/organizations/{organization}/features/sso");
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    let seen = browser.get(&path).await.seen();
    let form = [
        ("seen", &*seen),
        ("value", "true"),
        ("reason", "a trial"),
        ("do", "set"),
    ];
    let set = browser.post(&path, &form).await;
    assert_eq!(set.status, 303, "{}", set.text);
    let given = "feature_overrides WHERE feature = 'sso' AND value = 'true' AND reason = 'a trial'";
    assert_eq!(desk.service.db.count(given).await, 1);
    let seen = browser.get(&path).await.seen();
    let taken = browser
        .post(&path, &[("seen", &*seen), ("do", "unset")])
        .await;
    assert_eq!(taken.status, 303, "{}", taken.text);
    assert_eq!(desk.service.db.count("feature_overrides").await, 0);
    for action in ["feature_set", "feature_unset"] {
        assert_eq!(desk.entries(action, OPERATOR).await, 1, "{action}");
    }
}

#[tokio::test]
async fn a_read_only_operator_sees_overrides_and_sets_none() {
    let desk = Desk::open().await;
    let organization = desk.organization;
    let mut reader = Browser::of(&desk.service, READER).await;
    for of in ["quotas/api_calls", "features/sso"] {
        let path = format!("/console/organizations/{organization}/{of}");
        let page = reader.get(&path).await;
        is_ok(&page);
        assert_eq!(page.text.matches("method=\"post\"").count(), 1, "{path}");
        let form = [("value", "true"), ("reason", "mine"), ("do", "set")];
        let refused = reader.post(&path, &form).await;
        assert_eq!(refused.status, 403, "{}", refused.text);
    }
}

#[tokio::test]
async fn of_two_who_saw_the_same_one_changes_it() {
    let desk = Desk::open().await;
    let organization = desk.organization;
    for (of, value) in [("quotas/api_calls", "7"), ("features/sso", "true")] {
        let path = format!("/console/organizations/{organization}/{of}");
        let (mut one, mut other) = (
            Browser::of(&desk.service, OPERATOR).await,
            Browser::of(&desk.service, OPERATOR).await,
        );
        let seen = one.get(&path).await.seen();
        assert_eq!(other.get(&path).await.seen(), seen);
        let form = [
            ("seen", &*seen),
            ("value", value),
            ("reason", "at once"),
            ("do", "set"),
        ];
        let (first, second) = tokio::join!(one.post(&path, &form), other.post(&path, &form));
        let mut statuses = [first.status, second.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [303, 409], "{of}");
    }
}

#[tokio::test]
async fn the_reason_for_returning_to_the_plans_is_in_the_audit_log() {
    let desk = Desk::open().await;
    let organization = desk.organization;
    let mut browser = Browser::of(&desk.service, OPERATOR).await;
    for (of, value) in [("quotas/api_calls", "7"), ("features/sso", "true")] {
        let path = format!("/console/organizations/{organization}/{of}");
        for (value, reason, act) in [
            (value, "a trial", "set"),
            ("", "the trial is over", "unset"),
        ] {
            let seen = browser.get(&path).await.seen();
            let form = [
                ("seen", &*seen),
                ("value", value),
                ("reason", reason),
                ("do", act),
            ];
            let done = browser.post(&path, &form).await;
            assert_eq!(done.status, 303, "{}", done.text);
        }
    }
    let reasons = "SELECT string_agg(l.action || ': ' || p.reason, ', ' ORDER BY l.sequence)
                     FROM billing_audit_log l
                     JOIN billing_audit_personal_data p
                       ON p.organization_id = l.organization_id AND p.entry_id = l.id
                    WHERE p.reason IS NOT NULL";
    assert_eq!(
        desk.service.db.value(reasons).await,
        "quota_set: a trial, quota_set: the trial is over, feature_set: a trial, \
         feature_unset: the trial is over"
    );
}
