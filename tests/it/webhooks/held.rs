//! An organization that another transaction holds: its events wait, and nobody
//! else's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use sqlx::{AssertSqlSafe, Postgres, Transaction};
use uuid::Uuid;
use valuecanvas_billing::catalogue::Catalogue;
use valuecanvas_billing::metering::{grace, quotas};
use valuecanvas_billing::stripe::account::OwnAccount;
use valuecanvas_billing::stripe::client::{Client, Patience, SecretKey};
use valuecanvas_billing::webhooks::worker::Tally;

use super::workbench::{PASS_TIME, Workbench, each_applied_once, failed_payment};
use crate::support::TestDatabase;

/// An operator's transaction that ran `statement` and is left open.
async fn holding(db: &TestDatabase, statement: &str) -> Transaction<'static, Postgres> {
    let mut tx = db.pool.begin().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
        .execute(&mut *tx)
        .await
        .unwrap();
    tx
}

/// Twenty events of the held organization and twenty of another's, in turn.
async fn mixed(bench: &Workbench) -> Uuid {
    let other = bench.db.organization("cus_2").await;
    let events: Vec<_> = (0..40)
        .map(|n| failed_payment(n, ["cus_1", "cus_2"][n % 2]))
        .collect();
    bench.store(&events).await;
    other
}

async fn one_organization_is_held_by(statement: impl Fn(Uuid) -> String) {
    let bench = Workbench::new().await;
    let other = mixed(&bench).await;
    let holder = holding(&bench.db, &statement(bench.organization)).await;
    let mut tally = bench.processor.process_due(None).await.unwrap();
    let others = Tally {
        processed: 20,
        succeeded: 20,
        set_aside: 20,
        ..Tally::default()
    };
    assert_eq!(tally, others);
    bench
        .shows(
            "SELECT count(*) AS waiting, max(retry_count) AS retries, max(attempts::text) AS attempts,
                    bool_and(lease_id IS NULL AND next_retry_at > received_at) AS set_aside,
                    bool_and(error_message LIKE 'another transaction holds%') AS told
               FROM webhook_events WHERE NOT processed",
            json!({"waiting": 20, "retries": 0, "attempts": "[]", "set_aside": true, "told": true}),
        )
        .await;
    let of_other = format!("webhook_events WHERE organization_id = '{other}' AND processed");
    assert_eq!(bench.db.count(&of_other).await, 20);

    // Known to be held, it is set aside again; somebody new does not wait.
    bench.db.execute(PASS_TIME).await;
    bench.store(&[failed_payment(40, "cus_2")]).await;
    tally = bench.processor.process_due(None).await.unwrap();
    assert_eq!((tally.succeeded, tally.failed, tally.set_aside), (1, 0, 20));

    holder.rollback().await.unwrap();
    // A trial that had to wait is not repeated at once.
    for _ in 0..100 {
        bench.db.execute(PASS_TIME).await;
        tally = bench.processor.process_due(None).await.unwrap();
        if tally.succeeded > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((tally.succeeded, tally.set_aside), (20, 0));
    each_applied_once(&bench.db, 41).await;
    assert_eq!(
        bench
            .db
            .count("webhook_events WHERE error_message IS NOT NULL")
            .await,
        0
    );
}

#[tokio::test]
async fn a_locked_chain_holds_up_nobody_else() {
    one_organization_is_held_by(|id| {
        format!("SELECT FROM billing_audit_chain_heads WHERE organization_id = '{id}' FOR UPDATE")
    })
    .await;
}

#[tokio::test]
async fn an_open_transaction_of_an_operator_holds_up_nobody_else() {
    one_organization_is_held_by(|id| {
        format!("SELECT log_billing_action(p_organization_id => '{id}', p_action => 'looked', p_actor_type => 'system', p_resource_type => 'organization', p_resource_id => '1')")
    })
    .await;
}

#[tokio::test]
async fn locked_rows_of_an_organization_hold_up_nobody_else() {
    // Not by its chain: by rows that its events want to write.
    one_organization_is_held_by(|id| {
        format!(
            "INSERT INTO billing_applied_events (organization_id, stripe_event_id, event_type, resource_id)
             SELECT '{id}', 'evt_' || lpad(n::text, 5, '0'), 'invoice.payment_failed', 'in_' || n
               FROM generate_series(0, 38, 2) n"
        )
    })
    .await;
}

#[tokio::test]
async fn events_that_another_worker_took_over_are_left_to_it_in_one_go() {
    let bench = Workbench::new().await;
    let events: Vec<_> = (0..256).map(|n| failed_payment(n, "cus_1")).collect();
    bench.store(&events).await;
    // Each attempt counts itself, and its lease is gone when it ends.
    bench
        .db
        .execute(
            "CREATE SEQUENCE attempts_made;
             GRANT USAGE ON attempts_made TO billing_worker;
             CREATE FUNCTION taken_over() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
               BEGIN
                 PERFORM nextval('attempts_made');
                 UPDATE webhook_events SET lease_id = gen_random_uuid();
                 RETURN NULL;
               END $$;
             CREATE TRIGGER taken_over AFTER INSERT ON billing_applied_events
               FOR EACH STATEMENT EXECUTE FUNCTION taken_over()",
        )
        .await;
    let tally = bench.processor.process_due(None).await.unwrap();
    assert_eq!(tally, Tally::default());
    assert_eq!(
        bench.db.value("SELECT last_value FROM attempts_made").await,
        "1"
    );
    assert_eq!(bench.db.count("billing_alerts").await, 0);
}

#[tokio::test]
async fn grace_periods_of_others_end_while_an_organization_is_held() {
    let bench = Workbench::new().await;
    let other = bench.db.organization("cus_2").await;
    let (held, other) = (bench.organization, other);
    bench
        .db
        .execute(&format!(
            "INSERT INTO grace_periods (organization_id, metric, period_start, period_end, quota,
                                        usage_at_start, started_at, expires_at)
             SELECT id, 'api_calls', now() - interval '2 days', now() + interval '20 days', 1, 2,
                    now() - interval '2 days', now() - interval '1 day'
               FROM unnest(ARRAY['{held}', '{other}']::uuid[]) id"
        ))
        .await;
    for lock in ["billing_audit_chain_heads", "grace_periods"] {
        let holder = holding(
            &bench.db,
            &format!("SELECT FROM {lock} WHERE organization_id = '{held}' FOR UPDATE"),
        )
        .await;
        let ended = grace::sweep(&bench.processor.pool).await.unwrap();
        assert!(ended <= 1, "{lock}");
        let left = format!("grace_periods WHERE ended_at IS NULL AND organization_id = '{held}'");
        assert_eq!(bench.db.count(&left).await, 1, "{lock}");
        holder.rollback().await.unwrap();
    }
    assert_eq!(
        bench.db.count("grace_periods WHERE ended_at IS NULL").await,
        1
    );
    assert_eq!(grace::sweep(&bench.processor.pool).await.unwrap(), 1);
}

#[tokio::test]
async fn quotas_of_others_follow_the_catalogue_while_an_organization_is_held() {
    let bench = Workbench::new().await;
    bench.db.organization("cus_2").await;
    let id = bench.organization;
    for lock in [
        format!("SELECT FROM organizations WHERE id = '{id}' FOR UPDATE"),
        format!("SELECT FROM usage_quotas WHERE organization_id = '{id}' FOR UPDATE"),
    ] {
        bench
            .db
            .execute("UPDATE usage_quotas SET quota = 7 WHERE metric = 'api_calls'")
            .await;
        let holder = holding(&bench.db, &lock).await;
        let catalogue = Catalogue::load(None).unwrap();
        let applied = quotas::apply_catalogue(&bench.processor.pool, &catalogue)
            .await
            .unwrap();
        assert_eq!((applied.changed, applied.skipped), (1, 1), "{lock}");
        holder.rollback().await.unwrap();
        let applied = quotas::apply_catalogue(&bench.processor.pool, &catalogue)
            .await
            .unwrap();
        assert_eq!((applied.changed, applied.skipped), (1, 0), "{lock}");
    }
}

/// Whoever asks Stripe waits, and the other events of its batch with it.
#[tokio::test]
async fn a_stripe_that_never_answers_is_asked_once_for_the_keys_account() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", silent.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let counting = asked.clone();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((connection, _)) = silent.accept().await {
            counting.fetch_add(1, Ordering::SeqCst);
            open.push(connection);
        }
    });
    let key = SecretKey::new("sk_test_secret");
    let client = Client::new(base.parse().unwrap(), key, Patience::default()).unwrap();
    let mut bench = Workbench::new().await;
    bench.processor.account = OwnAccount::of(Some(client));
    for round in 0..3 {
        let mut named = failed_payment(2 * round, "cus_1");
        named["account"] = json!("acct_other");
        bench
            .store(&[named, failed_payment(2 * round + 1, "cus_1")])
            .await;
        bench.let_retries_be_due().await;
        let tally = bench.processor.process_due(None).await.unwrap();
        assert_eq!((tally.succeeded, tally.failed), (1, round as u64 + 1));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    bench
        .shows(
            "SELECT count(*) AS waiting, count(*) FILTER (WHERE error_message ~ 'ask Stripe')
                      AS told
               FROM webhook_events WHERE NOT processed",
            json!({"waiting": 3, "told": 3}),
        )
        .await;
}
