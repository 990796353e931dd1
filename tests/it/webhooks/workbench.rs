//! An event log whose events are put there and processed by hand.

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;
use valuecanvas_billing::audit;
use valuecanvas_billing::db::WorkerTx;
use valuecanvas_billing::event_log::bucket_of;
use valuecanvas_billing::webhooks::worker::{Processor, Tally};

use crate::support::TestDatabase;
use crate::support::events::{event, invoice, subscription};
use crate::support::service::{organization, processor};

pub const CUSTOMER: &str = "cus_1";

pub struct Workbench {
    pub db: TestDatabase,
    pub processor: Processor,
    /// The organization of [`CUSTOMER`].
    pub organization: Uuid,
}

impl Workbench {
    pub async fn new() -> Self {
        let db = TestDatabase::new().await;
        let organization = db.organization(CUSTOMER).await;
        Self::on(db, organization)
    }

    /// The organization has no customer in Stripe yet.
    pub async fn unlinked() -> Self {
        let db = TestDatabase::new().await;
        let organization = organization(&db, "Not linked").await;
        Self::on(db, organization)
    }

    /// Nobody is a customer yet.
    pub async fn without_customers() -> Self {
        Self::on(TestDatabase::new().await, Uuid::nil())
    }

    fn on(db: TestDatabase, organization: Uuid) -> Self {
        let processor = processor(&db);
        Self {
            db,
            processor,
            organization,
        }
    }

    /// Puts events into the event log, those that are there already left alone.
    pub async fn store(&self, events: &[Value]) {
        store(&self.db, events).await;
    }

    /// Processes what is due.
    pub async fn work(&self) -> Tally {
        let mut tally = Tally::default();
        loop {
            let batch = self.processor.process_due(None).await.unwrap();
            if batch.processed == 0 {
                return tally;
            }
            tally += batch;
        }
    }

    /// Stores `events`, and processes each of them successfully.
    pub async fn process(&self, events: &[Value]) {
        self.store(events).await;
        let tally = self.work().await;
        if tally.failed > 0 {
            panic!("{:#}", self.rows("SELECT error_message FROM webhook_events WHERE NOT processed UNION ALL SELECT error_message FROM webhook_dead_letter_queue").await);
        }
    }

    /// What would come in time is due now.
    pub async fn let_retries_be_due(&self) {
        self.db
            .execute(
                "UPDATE webhook_events SET next_retry_at = now() - interval '1 ms' WHERE NOT processed",
            )
            .await;
    }

    pub async fn rows(&self, query: &str) -> Value {
        rows(&self.db, query).await
    }

    /// Asserts that the one row of `query` is `expected`.
    pub async fn shows(&self, query: &str, expected: Value) {
        assert_eq!(self.rows(query).await, json!([expected]), "{query}");
    }

    /// What became of each event, by id.
    pub async fn outcomes(&self) -> Value {
        self.rows("SELECT stripe_event_id AS id, outcome FROM webhook_events ORDER BY 1")
            .await
    }

    pub async fn verify_audit(&self) {
        verify_audit(&self.db).await;
    }
}

pub async fn store(db: &TestDatabase, events: &[Value]) {
    let text = |event: &Value, key: &str| event[key].as_str().map(str::to_owned);
    let ids: Vec<String> = events.iter().map(|e| text(e, "id").unwrap()).collect();
    let buckets: Vec<i16> = ids.iter().map(|id| bucket_of(id)).collect();
    let types: Vec<Option<String>> = events.iter().map(|e| text(e, "type")).collect();
    let versions: Vec<Option<String>> = events.iter().map(|e| text(e, "api_version")).collect();
    let accounts: Vec<Option<String>> = events.iter().map(|e| text(e, "account")).collect();
    let payloads: Vec<String> = events.iter().map(Value::to_string).collect();
    sqlx::query(
        "INSERT INTO webhook_events (bucket, stripe_event_id, event_type, api_version, livemode,
                                     account, event_created_at, payload)
         SELECT bucket, id, type, version, (payload ->> 'livemode')::boolean, account,
                to_timestamp((payload ->> 'created')::bigint), payload
           FROM unnest($1::smallint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::json[])
             AS new(bucket, id, type, version, account, payload)
         ON CONFLICT DO NOTHING",
    )
    .bind(buckets)
    .bind(ids)
    .bind(types)
    .bind(versions)
    .bind(accounts)
    .bind(payloads)
    .execute(&db.pool)
    .await
    .unwrap();
}

pub async fn rows(db: &TestDatabase, query: &str) -> Value {
    let query = format!("SELECT coalesce(jsonb_agg(to_jsonb(t)), '[]') FROM ({query}) t");
    sqlx::query_scalar(AssertSqlSafe(query.clone()))
        .fetch_one(&db.pool)
        .await
        .unwrap_or_else(|e| panic!("{query}: {e}"))
}

/// Leases end, and retries are due. Rows that a worker is just marking are left
/// to it: waiting for them in another order than its own would be a deadlock.
pub const PASS_TIME: &str = "UPDATE webhook_events e
        SET lease_expires_at = least(e.lease_expires_at, now()),
            next_retry_at = least(e.next_retry_at, now())
       FROM (SELECT bucket, stripe_event_id FROM webhook_events WHERE NOT processed
                FOR UPDATE SKIP LOCKED) idle
      WHERE e.bucket = idle.bucket AND e.stripe_event_id = idle.stripe_event_id";

pub async fn verify_audit(db: &TestDatabase) {
    let mut tx = WorkerTx::begin(&db.service_pool()).await.unwrap();
    let report = audit::verify(tx.conn(), None).await.unwrap();
    assert_eq!(report.breaks, []);
}

/// A failed payment of an invoice of its own: each raises an alert.
pub fn failed_payment(n: usize, customer: &str) -> Value {
    let object = invoice(&format!("in_{n}"), customer, "sub_1", "open");
    let id = format!("evt_{n:05}");
    event(
        &id,
        "invoice.payment_failed",
        1_760_000_000 + n as i64,
        object,
    )
}

pub fn subscribed(id: &str, customer: &str) -> Value {
    let object = subscription(&format!("sub_{id}"), customer, "active", "standard");
    event(id, "customer.subscription.created", 100, object)
}

/// Each of `events` failed payments had its effects once.
pub async fn each_applied_once(db: &TestDatabase, events: i64) {
    for (table, condition) in [
        ("webhook_events", "processed AND outcome = 'applied'"),
        ("billing_applied_events", "true"),
        ("billing_alerts", "kind = 'payment_failed'"),
        ("billing_audit_log", "action = 'invoice_payment_failed'"),
    ] {
        assert_eq!(
            db.count(&format!("{table} WHERE {condition}")).await,
            events,
            "{table}"
        );
    }
    verify_audit(db).await;
}
