//! Acting on all events that match: in batches, by one replica at a time, each event once,
//! whatever dies meanwhile.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use valuecanvas_billing::db::WorkerTx;
use valuecanvas_billing::event_log::bucket_of;
use valuecanvas_billing::webhooks::backpressure::Backpressure;
use valuecanvas_billing::webhooks::bulk::{
    self, Act, BulkAction, BulkError, By, Filter, Running, State, run_some,
};

use crate::support::TestDatabase;
use crate::support::events::{event, subscription};
use crate::support::service::processor;
use crate::support::serving::Serving;

const KIND: &str = "customer.subscription.created";

/// Dead letters of `customer`, evt_… by number, which were one at the same moment.
pub async fn dead_letters(db: &TestDatabase, customer: &str, numbers: std::ops::Range<i64>) {
    let mut rows = String::new();
    for n in numbers {
        let id = format!("evt_{n}");
        let object = subscription(&format!("sub_{n}"), customer, "active", "standard");
        let payload = event(&id, KIND, 1_760_000_000 + n, object);
        let comma = if rows.is_empty() { "" } else { ", " };
        write!(
            rows,
            "{comma}({}, '{id}', '{KIND}', '2025-03-31.basil', false, to_timestamp({}), $p${payload}$p$, \
             now(), 1, 'customer {customer} is unknown', \
             jsonb_build_array(jsonb_build_object('at', now(), 'error', 'unknown')))",
            bucket_of(&id),
            1_760_000_000 + n
        )
        .unwrap();
    }
    db.execute(&format!(
        "INSERT INTO webhook_dead_letter_queue
           (bucket, stripe_event_id, event_type, api_version, livemode, event_created_at, payload,
            received_at, retry_count, error_message, attempts)
         VALUES {rows}"
    ))
    .await;
}

fn running(db: &TestDatabase) -> Running {
    Running {
        processor: Arc::new(processor(db)),
        pressure: Arc::new(Backpressure::default()),
        stop: CancellationToken::new(),
        renew_every: bulk::RENEW_EVERY,
    }
}

async fn begin(db: &TestDatabase, act: Act, filter: Filter) -> BulkAction {
    let begun = bulk::start(&db.service_pool(), act, &filter, None, By::CommandLine).await;
    begun.unwrap()
}

async fn look(db: &TestDatabase, id: Uuid) -> BulkAction {
    let mut tx = WorkerTx::begin(&db.service_pool()).await.unwrap();
    bulk::get(tx.conn(), id).await.unwrap().unwrap()
}

/// How often each event was acted on, as the audit log has it: the least and the most.
async fn entries(db: &TestDatabase, action: &str) -> String {
    db.value(&format!(
        "SELECT count(*) || ' events, ' || coalesce(min(n), 0) || ' to ' || coalesce(max(n), 0)
           FROM (SELECT count(*) AS n FROM billing_audit_log WHERE action = '{action}'
                  GROUP BY resource_id) acted"
    ))
    .await
}

#[tokio::test]
async fn all_that_match_are_replayed_in_batches_and_those_that_fail_stay() {
    let db = TestDatabase::new().await;
    db.organization("cus_1").await;
    dead_letters(&db, "cus_1", 0..70).await;
    dead_letters(&db, "cus_none", 100..140).await;
    let begun = begin(&db, Act::ReplayDeadLetters, Filter::default()).await;
    assert_eq!((begun.counted, begun.state), (110, State::Waiting));
    // What comes after the count is left alone.
    dead_letters(&db, "cus_1", 200..203).await;

    let running = running(&db);
    assert!(run_some(running.clone()).await.unwrap());
    let first = look(&db, begun.id).await;
    assert_eq!((first.done(), first.state), (50, State::Running));
    while run_some(running.clone()).await.unwrap() {}
    let ended = look(&db, begun.id).await;
    assert_eq!(ended.state, State::Done);
    assert_eq!((ended.succeeded, ended.failed, ended.skipped), (70, 40, 0));
    assert_eq!(ended.failures.len(), 40);
    assert!(
        ended.failures[0].error.contains("cus_none"),
        "{:?}",
        ended.failures[0]
    );
    assert_eq!(db.count("webhook_dead_letter_queue").await, 43);
    assert_eq!(db.count("billing_subscriptions").await, 70);
    let tried = "webhook_dead_letter_queue WHERE jsonb_array_length(attempts) = 2";
    assert_eq!(db.count(tried).await, 40);
    assert_eq!(
        entries(&db, "webhook_event_replayed").await,
        "110 events, 1 to 1"
    );
    for action in ["bulk_action_started", "bulk_action_ended"] {
        assert_eq!(entries(&db, action).await, "1 events, 1 to 1", "{action}");
    }
}

#[tokio::test]
async fn one_that_is_stopped_keeps_what_was_done_and_does_nothing_more() {
    let db = TestDatabase::new().await;
    dead_letters(&db, "cus_1", 0..120).await;
    let pool = db.service_pool();
    let begun = begin(&db, Act::DiscardDeadLetters, Filter::default()).await;
    let running = running(&db);
    assert!(run_some(running.clone()).await.unwrap());
    let stopped = bulk::stop(&pool, begun.id, By::CommandLine).await.unwrap();
    assert_eq!((stopped.done(), stopped.state), (50, State::Stopped));
    assert!(!run_some(running).await.unwrap(), "nothing is left to do");
    assert_eq!(db.count("webhook_dead_letter_queue").await, 70);
    assert_eq!(
        entries(&db, "webhook_event_discarded").await,
        "50 events, 1 to 1"
    );
    let again = bulk::stop(&pool, begun.id, By::CommandLine).await;
    assert!(
        matches!(again, Err(BulkError::Ended(State::Stopped))),
        "{again:?}"
    );
    assert_eq!(
        entries(&db, "bulk_action_stopped").await,
        "1 events, 1 to 1"
    );
}

#[tokio::test]
async fn processed_events_are_found_by_type_organization_and_time() {
    let db = TestDatabase::new().await;
    let organization = db.organization("cus_1").await;
    dead_letters(&db, "cus_1", 0..6).await;
    begin(&db, Act::ReplayDeadLetters, Filter::default()).await;
    let running = running(&db);
    while run_some(running.clone()).await.unwrap() {}
    db.execute(
        "UPDATE webhook_events
            SET received_at = '2026-01-01T00:00:00Z'::timestamptz
                              + substr(stripe_event_id, 5)::int * interval '1 hour'",
    )
    .await;
    let pool = db.service_pool();
    let at = |text: &str| Some(text.parse().unwrap());
    let of = |filter: Filter| {
        let pool = pool.clone();
        async move {
            let counted = bulk::count(&pool, Act::ReplayEvents, &filter)
                .await
                .unwrap();
            let ids: Vec<String> = counted.sample.into_iter().map(|one| one.event_id).collect();
            (counted.count, ids.join(" "))
        }
    };
    let since = Filter {
        since: at("2026-01-01T02:00:00Z"),
        until: at("2026-01-01T04:00:00Z"),
        ..Filter::default()
    };
    assert_eq!(of(since.clone()).await, (2, "evt_2 evt_3".to_owned()));
    let typed = Filter {
        r#type: Some(KIND.to_owned()),
        ..since.clone()
    };
    assert_eq!(of(typed.clone()).await, (2, "evt_2 evt_3".to_owned()));
    let other = Filter {
        r#type: Some("invoice.paid".to_owned()),
        ..since.clone()
    };
    assert_eq!(of(other).await, (0, String::new()));
    for (id, count) in [(organization, 2), (Uuid::now_v7(), 0)] {
        let filter = Filter {
            organization_id: Some(id),
            ..since.clone()
        };
        assert_eq!(of(filter).await.0, count);
    }
    let begun = begin(&db, Act::ReplayEvents, typed).await;
    while run_some(running.clone()).await.unwrap() {}
    let ended = look(&db, begun.id).await;
    assert_eq!((ended.state, ended.succeeded), (State::Done, 2));
    let reason = Filter {
        reason: Some("a".to_owned()),
        ..Filter::default()
    };
    let refused = bulk::count(&pool, Act::ReplayEvents, &reason).await;
    assert!(matches!(
        refused,
        Err(BulkError::NotFor {
            field: "reason",
            ..
        })
    ));
}

#[tokio::test]
async fn nothing_is_done_twice_or_left_out_by_replicas_that_are_killed() {
    let db = TestDatabase::new().await;
    db.organization("cus_1").await;
    dead_letters(&db, "cus_1", 0..240).await;
    dead_letters(&db, "cus_none", 300..360).await;
    let begun = begin(&db, Act::ReplayDeadLetters, Filter::default()).await;
    for reached in [30, 90, 150] {
        // Two at a time, one of which dies.
        let (dies, goes_on) = (Serving::on(&db), Serving::on(&db));
        until(&db, begun.id, |action| action.done() >= reached).await;
        dies.signal(Signal::KILL);
        goes_on.signal(Signal::KILL);
        let (dies, goes_on) = (dies.ended().await, goes_on.ended().await);
        assert_eq!((dies.status, goes_on.status), (-1, -1));
        // The lease of who died would end by itself.
        db.execute("UPDATE webhook_bulk_actions SET lease_expires_at = now()")
            .await;
    }
    let whole = Serving::on(&db);
    until(&db, begun.id, |action| !action.state.is_open()).await;
    let ended = look(&db, begun.id).await;
    assert_eq!(ended.state, State::Done);
    assert_eq!((ended.succeeded, ended.failed, ended.skipped), (240, 60, 0));
    assert_eq!(
        entries(&db, "webhook_event_replayed").await,
        "300 events, 1 to 1"
    );
    let twice = "webhook_dead_letter_queue WHERE jsonb_array_length(attempts) <> 2";
    assert_eq!(db.count(twice).await, 0);
    whole.terminated().await;
}

#[tokio::test]
async fn an_event_that_takes_long_is_nobody_elses() {
    let db = TestDatabase::new().await;
    dead_letters(&db, "cus_1", 0..2).await;
    let begun = begin(&db, Act::DiscardDeadLetters, Filter::default()).await;
    let mut holder = db.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM webhook_dead_letter_queue WHERE stripe_event_id = 'evt_0' FOR UPDATE")
        .execute(&mut *holder)
        .await
        .unwrap();
    let running = Running {
        renew_every: Duration::from_millis(20),
        ..running(&db)
    };
    let working = tokio::spawn(run_some(running));
    let expires = "SELECT coalesce(max(lease_expires_at)::text, '') FROM webhook_bulk_actions";
    // The event waits, and the lease is renewed again and again.
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..1_500 {
        seen.insert(db.value(expires).await);
        if seen.len() > 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(seen.len() > 4, "{seen:?}");
    holder.rollback().await.unwrap();
    assert!(working.await.unwrap().unwrap());
    let ended = look(&db, begun.id).await;
    assert_eq!((ended.state, ended.succeeded), (State::Done, 2));
}

#[tokio::test]
async fn an_event_that_cannot_even_fail_is_counted_as_failed_and_the_others_are_done() {
    let db = TestDatabase::new().await;
    dead_letters(&db, "cus_1", 0..5).await;
    db.execute(
        "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN RAISE EXCEPTION 'this one is poison'; END $$;
         CREATE TRIGGER poison BEFORE DELETE ON webhook_dead_letter_queue FOR EACH ROW
           WHEN (OLD.stripe_event_id = 'evt_2') EXECUTE FUNCTION poison()",
    )
    .await;
    let begun = begin(&db, Act::DiscardDeadLetters, Filter::default()).await;
    let running = running(&db);
    for _ in 0..30 {
        if !look(&db, begun.id).await.state.is_open() {
            break;
        }
        let _ = run_some(running.clone()).await;
        // Who tries again waits longer each time.
        db.execute("UPDATE webhook_bulk_actions SET lease_expires_at = now()")
            .await;
    }
    let ended = look(&db, begun.id).await;
    assert_eq!(ended.state, State::Done);
    assert_eq!((ended.succeeded, ended.failed), (4, 1));
    assert_eq!(ended.failures[0].event_id, "evt_2");
    let why = &ended.failures[0].error;
    assert!(
        why.starts_with("not done after 5 tries: ") && why.contains("poison"),
        "{why}"
    );
    let left = "webhook_dead_letter_queue WHERE stripe_event_id = 'evt_2'";
    assert_eq!(db.count(left).await, 1);
}

#[tokio::test]
async fn no_more_are_open_than_may_be_however_many_begin_at_once() {
    let db = TestDatabase::new().await;
    dead_letters(&db, "cus_1", 0..1).await;
    let pool = db.service_pool();
    let all = (0..30).map(|_| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let filter = Filter::default();
            let act = Act::DiscardDeadLetters;
            bulk::start(&pool, act, &filter, None, By::CommandLine).await
        })
    });
    let mut refused = 0;
    for begun in Vec::from_iter(all) {
        match begun.await.unwrap() {
            Ok(_) => {}
            Err(BulkError::TooManyOpen) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(refused, 10);
    assert_eq!(db.count("webhook_bulk_actions").await, 20);
    assert_eq!(
        entries(&db, "bulk_action_started").await,
        "20 events, 1 to 1"
    );
}

async fn until(db: &TestDatabase, id: Uuid, is: impl Fn(&BulkAction) -> bool) {
    for _ in 0..3_000 {
        if is(&look(db, id).await) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{:?}", look(db, id).await);
}
