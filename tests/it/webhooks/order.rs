//! Any order, any repetition, any interleaving and any failure on the way end
//! in one state.

mod changes;
mod delivery;
mod further;
mod stripe;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};

use super::workbench::{Workbench, rows, verify_audit};
use crate::support::TestDatabase;
use crate::support::service::organization;
use stripe::{History, Organization, Step};

/// `VCB_CASES` raises the number of histories.
fn cases(default: u32) -> u32 {
    let asked = std::env::var("VCB_CASES").ok();
    asked.map_or(default, |cases| {
        cases.parse().expect("VCB_CASES is a number")
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0_usize..3, any::<u8>(), any::<u8>(), 0_i64..4);
    prop::collection::vec(step, 6..30).prop_map(|steps| {
        let step = |(organization, action, choice, seconds): (usize, u8, u8, i64)| Step {
            organization,
            action,
            choice,
            // Many steps share their second with the one before.
            seconds: (seconds - 1).max(0),
        };
        steps.into_iter().map(step).collect()
    })
}

#[test]
fn any_delivery_ends_in_the_state_of_an_orderly_one() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (bench, organizations) = runtime.block_on(arena());
    let config = Config {
        cases: cases(10),
        max_shrink_iters: 100,
        failure_persistence: None,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&(steps(), any::<u64>()), |(steps, seed)| {
        let history = History::write(&steps, seed, &organizations);
        runtime.block_on(async {
            reset(&bench.db).await;
            for event in &history.events {
                bench.store(std::slice::from_ref(event)).await;
                bench.work().await;
            }
            delivery::finish(&bench).await;
            same(&history.truth, &mirrored(&bench.db, &history).await)?;
            let orderly = dump(&bench.db).await;
            reset(&bench.db).await;
            delivery::deliver(&bench, &history.events, seed).await;
            verify_audit(&bench.db).await;
            same(&orderly, &dump(&bench.db).await)
        })
    });
    // The database goes before the runtime that its connections belong to.
    runtime.block_on(async { drop(bench) });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

/// Two organizations with customers, and one that only metadata names.
async fn arena() -> (Workbench, [Organization; 3]) {
    let mut bench = Workbench::new().await;
    bench.processor.max_retries = 1_000;
    let second = bench.db.organization("cus_2").await;
    let third = organization(&bench.db, "Named by metadata").await;
    for table in RESTORED {
        let keep = format!("CREATE TABLE kept_{table} AS SELECT * FROM {table}");
        bench.db.execute(&keep).await;
    }
    let of = |customer, named_by_metadata| Organization {
        customer,
        named_by_metadata,
    };
    let organizations = [
        of("cus_1", None),
        of("cus_2", Some(second)),
        of("cus_3", Some(third)),
    ];
    (bench, organizations)
}

const RESTORED: [&str; 3] = ["organizations", "billing_customers", "usage_quotas"];

/// Everything that events decide, and what of it they do not.
const DECIDED: [&str; 18] = [
    "organizations",
    "billing_customers",
    "usage_quotas",
    "billing_subscriptions",
    "billing_subscription_items",
    "billing_subscription_payments",
    "billing_subscription_schedules",
    "billing_invoices",
    "billing_invoice_items",
    "billing_charges",
    "billing_payment_methods",
    "billing_disputes",
    "billing_refunds",
    "billing_invoice_payments",
    "billing_checkout_sessions",
    "billing_deleted_invoices",
    "billing_applied_events",
    "billing_alerts",
];
const UNDECIDED: &str = "{created_at,updated_at,applied_at,ask_again_since,extract}";

async fn reset(db: &TestDatabase) {
    let tables = DECIDED.join(", ");
    let mut sql = format!(
        "SET session_replication_role = replica;
         TRUNCATE {tables}, webhook_events, webhook_dead_letter_queue, billing_audit_log,
                  webhook_unclaimed_events, billing_audit_chain_heads;"
    );
    for table in RESTORED {
        // Generated columns cannot be given.
        let columns = format!(
            "SELECT string_agg(quote_ident(column_name), ', ') FROM information_schema.columns
              WHERE table_name = '{table}' AND is_generated = 'NEVER'"
        );
        let columns = db.value(&columns).await;
        sql += &format!("INSERT INTO {table} ({columns}) SELECT {columns} FROM kept_{table};");
    }
    sql += "SET session_replication_role = DEFAULT";
    db.execute(&sql).await;
}

async fn dump(db: &TestDatabase) -> Value {
    let mut tables = json!({});
    for table in DECIDED {
        let query = format!(
            "SELECT to_jsonb(row) - '{UNDECIDED}'::text[] AS row FROM {table} row
              ORDER BY 1"
        );
        tables[table] = rows(db, &query).await;
    }
    tables
}

/// What the mirror shows of the objects whose true state is known.
async fn mirrored(db: &TestDatabase, history: &History) -> Value {
    let known = rows(
        db,
        "SELECT stripe_subscription_id AS id, stripe_status AS status,
                jsonb_build_array(quantity, cancel_at_period_end, s.metadata) AS detail
           FROM billing_subscriptions s
           JOIN billing_subscription_items USING (organization_id, stripe_subscription_id)
         UNION ALL
         SELECT stripe_invoice_id, status, jsonb_build_array(attempt_count, amount_paid)
           FROM billing_invoices
         UNION ALL
         SELECT stripe_charge_id, status,
                jsonb_build_array(amount, amount_refunded, disputed, stripe_invoice_id)
           FROM billing_charges
         UNION ALL
         SELECT stripe_payment_method_id, status, jsonb_build_array(last4, exp_year)
           FROM billing_payment_methods
         UNION ALL
         SELECT stripe_dispute_id, status, jsonb_build_array(amount) FROM billing_disputes
         UNION ALL
         SELECT stripe_refund_id, status, jsonb_build_array(amount) FROM billing_refunds
         UNION ALL
         SELECT stripe_invoice_payment_id, status, jsonb_build_array(stripe_invoice_id)
           FROM billing_invoice_payments
         UNION ALL
         SELECT stripe_checkout_session_id, status, jsonb_build_array(payment_status)
           FROM billing_checkout_sessions
         UNION ALL
         SELECT stripe_customer_id, CASE WHEN deleted_at IS NULL THEN 'there' ELSE 'deleted' END,
                jsonb_build_array(default_payment_method_id)
           FROM billing_customers WHERE last_event_id IS NOT NULL
         ORDER BY 1",
    )
    .await;
    let mut tables = json!({"objects": known});
    let objects = tables["objects"].as_array_mut().unwrap();
    objects.retain(|row| !history.ambiguous.iter().any(|id| row["id"] == **id));
    tables
}

/// Two sets of tables are the same, or here is what only one of them has.
fn same(expected: &Value, found: &Value) -> Result<(), TestCaseError> {
    let mut differences = String::new();
    for (table, expected) in expected.as_object().unwrap() {
        let (expected, found) = (list(expected), list(&found[table]));
        for row in expected.iter().filter(|row| !found.contains(row)) {
            differences += &format!("\n{table} should have {row}");
        }
        for row in found.iter().filter(|row| !expected.contains(row)) {
            differences += &format!("\n{table} should not have {row}");
        }
    }
    if differences.is_empty() {
        Ok(())
    } else {
        Err(TestCaseError::fail(differences))
    }
}

fn list(rows: &Value) -> &[Value] {
    rows.as_array().unwrap()
}
