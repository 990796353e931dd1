use billing_domain::quota::OverLimit;

use super::*;

fn account(over_limit: OverLimit, aggregation: Aggregation) -> Account {
    let now = "2026-11-23T12:00:00Z".parse().unwrap();
    Account {
        policy: Some(QuotaPolicy {
            quota: Some(10.into()),
            over_limit,
            grace_max: None,
        }),
        ..Account::blank(aggregation, 24, now)
    }
}

fn only(account: &Account) -> &PeriodUsage {
    account.periods.values().next().unwrap()
}

#[test]
fn the_most_is_what_the_column_holds() {
    assert_eq!(MAX_TOTAL.to_string(), "99999999999999999999.9999");
}

#[test]
fn a_hard_limit_counts_what_is_reserved() {
    let mut account = account(OverLimit::Hard, Aggregation::Sum);
    assert!(account.reserve(6.into()).unwrap().decision.allowed());
    assert!(
        !account
            .check("a", 5.into(), true)
            .unwrap()
            .decision
            .allowed()
    );
    assert!(
        account
            .check("b", 4.into(), true)
            .unwrap()
            .decision
            .allowed()
    );
    account.release(only(&account).period.start_secs(), 6.into());
    assert!(
        account
            .check("c", 6.into(), true)
            .unwrap()
            .decision
            .allowed()
    );
    assert_eq!(only(&account).total, 10.into());
    assert_eq!(only(&account).raised, [80, 100]);
}

#[test]
fn a_question_changes_nothing() {
    let mut account = account(OverLimit::Grace, Aggregation::Sum);
    let asked = account.check("a", 11.into(), false).unwrap();
    assert!(matches!(
        asked.decision,
        Decision::InGrace { starts: true, .. }
    ));
    assert!(!only(&account).changed && only(&account).grace.is_none());
}

#[test]
fn one_grace_period_in_a_billing_period() {
    let mut account = account(OverLimit::Grace, Aggregation::Sum);
    account.check("a", 11.into(), true).unwrap();
    let started = only(&account).grace.unwrap();
    assert_eq!(started.change, Some(GraceChange::Started));
    account.now = started.period.expires_at;
    let denied = account.check("b", 1.into(), true).unwrap();
    assert!(matches!(denied.decision, Decision::GraceExpired { .. }));
    assert_eq!(only(&account).total, 11.into());
    assert_eq!(
        only(&account).grace.unwrap().change,
        Some(GraceChange::Expired)
    );
}

#[test]
fn nothing_passes_the_ceiling_of_grace_but_what_has_happened() {
    let mut account = account(OverLimit::Grace, Aggregation::Sum);
    account.policy = account.policy.map(|policy| QuotaPolicy {
        grace_max: Some(20.into()),
        ..policy
    });
    let refused = account.check("a", 21.into(), true).unwrap();
    let expected = Decision::GraceExhausted { grace: None };
    assert_eq!(refused.decision, expected);
    assert!(only(&account).grace.is_none() && !only(&account).changed);
    assert!(account.reserve(15.into()).unwrap().decision.allowed());
    // What is held counts, and so it does for what is held next.
    assert!(!account.reserve(6.into()).unwrap().decision.allowed());
    assert!(
        account
            .check("b", 5.into(), true)
            .unwrap()
            .decision
            .allowed()
    );
    let now = account.now;
    account.count("c", 30.into(), now).unwrap();
    let over = account.check("d", 0.into(), true).unwrap();
    assert!(matches!(
        over.decision,
        Decision::GraceExhausted { grace: Some(_) }
    ));
    let again = account.again().unwrap();
    assert!(again.duplicate && again.decision.allowed());
}

#[test]
fn usage_after_the_fact_beyond_the_ceiling_starts_grace() {
    let mut account = account(OverLimit::Grace, Aggregation::Sum);
    account.policy = account.policy.map(|policy| QuotaPolicy {
        grace_max: Some(20.into()),
        ..policy
    });
    let now = account.now;
    account.count("a", 30.into(), now).unwrap();
    let started = only(&account).grace.unwrap();
    assert_eq!(started.change, Some(GraceChange::Started));
}

#[test]
fn a_gauge_takes_the_newest_level_whatever_the_order() {
    let levels = [
        ("a", 1, "11:00:00"),
        ("b", 5, "11:30:00"),
        ("c", 3, "11:15:00"),
    ];
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]] {
        let mut account = account(OverLimit::Hard, Aggregation::Last);
        for index in order {
            let (id, level, time) = levels[index];
            let at = format!("2026-11-23T{time}Z").parse().unwrap();
            account.count(id, level.into(), at).unwrap();
        }
        assert_eq!(only(&account).total, 5.into());
    }
}

#[test]
fn without_a_quota_nothing_is_allowed() {
    let mut account = account(OverLimit::Hard, Aggregation::Sum);
    account.policy = None;
    assert_eq!(
        account.check("a", 1.into(), true),
        Err(UsageRejection::NoQuota)
    );
    let now = account.now;
    assert_eq!(
        account.count("a", 1.into(), now),
        Err(UsageRejection::NoQuota)
    );
}

fn level(id: &str, quantity: i64, at: Timestamp) -> Level {
    Level {
        at,
        event_id: id.to_owned(),
        quantity: quantity.into(),
    }
}

#[test]
fn a_level_that_is_dated_ahead_counts_when_its_time_comes() {
    for (aggregation, then) in [(Aggregation::Last, 0), (Aggregation::Max, 8)] {
        let mut account = account(OverLimit::Hard, aggregation);
        account.check("a", 5.into(), true).unwrap();
        let soon = account.now + jiff::SignedDuration::from_mins(4);
        account.count("b", 0.into(), soon).unwrap();
        // Neither is it the level before, nor does it keep the level from changing.
        assert_eq!(only(&account).total, 5.into(), "{aggregation:?}");
        assert!(
            !account
                .check("c", 11.into(), true)
                .unwrap()
                .decision
                .allowed()
        );
        account.check("d", 8.into(), true).unwrap();
        assert_eq!(only(&account).total, 8.into(), "{aggregation:?}");
        assert_eq!(only(&account).events, 3);
        assert_eq!(only(&account).pending.len(), 1);
        account.now = soon;
        let start = only(&account).period.start_secs();
        let due = DueLevels {
            newest: level("b", 0, soon),
            highest: 0.into(),
        };
        account.apply_due(start, due);
        assert_eq!(only(&account).total, then.into(), "{aggregation:?}");
        assert!(only(&account).took_due);
    }
}

#[test]
fn a_level_whose_time_comes_alerts_and_starts_grace() {
    let mut account = account(OverLimit::Grace, Aggregation::Last);
    account.check("a", 1.into(), true).unwrap();
    let start = only(&account).period.start_secs();
    let due = DueLevels {
        newest: level("z", 12, account.now),
        highest: 12.into(),
    };
    account.apply_due(start, due);
    assert_eq!(only(&account).raised, [80, 100, 120]);
    let grace = only(&account).grace.unwrap();
    assert_eq!(grace.change, Some(GraceChange::Started));
    // What came after it is newer.
    let late = account.now - jiff::SignedDuration::from_mins(1);
    let due = DueLevels {
        newest: level("y", 3, late),
        highest: 3.into(),
    };
    account.apply_due(start, due);
    assert_eq!(only(&account).total, 12.into());
}

#[test]
fn a_sum_counts_at_once_whenever_it_is_dated() {
    let mut account = account(OverLimit::Hard, Aggregation::Sum);
    let soon = account.now + jiff::SignedDuration::from_mins(4);
    account.count("a", 4.into(), soon).unwrap();
    assert_eq!(only(&account).total, 4.into());
    assert!(only(&account).pending.is_empty());
}
