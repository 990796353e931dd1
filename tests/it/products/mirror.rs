//! All that is mirrored of Stripe, and what follows from it.

use serde_json::Value;

use crate::support::TestDatabase;

/// The tables of docs/schema.md with what Stripe has, and what an organization has by it. Not
/// among them is `billing_subscription_payments`, which has what events alone tell, and shows in
/// a subscription's status.
const TABLES: [&str; 17] = [
    "billing_customers",
    "billing_subscriptions",
    "billing_subscription_items",
    "billing_subscription_schedules",
    "billing_discounts",
    "billing_invoices",
    "billing_invoice_items",
    "billing_invoice_payments",
    "billing_charges",
    "billing_refunds",
    "billing_disputes",
    "billing_payment_methods",
    "checkout_sessions",
    "organizations",
    "usage_quotas",
    "organization_features",
    "usage_totals",
];

/// Columns that say how a row came to be as it is, and not what it is: by which event, when
/// Stripe is asked again, and when a payment failed first, which its event alone tells.
const ORIGINS: &str = "'{last_event_at,last_event_rank,last_event_id,tied_event_ids,known_tier,\
                       updated_at,ask_again_since,first_failed_at}'";

/// The rows of each table, in an order of their own.
pub async fn rows(db: &TestDatabase) -> Value {
    let mut all = serde_json::Map::new();
    for table in TABLES {
        let rows = format!(
            "SELECT coalesce(jsonb_agg(one ORDER BY one::text), '[]')
               FROM (SELECT to_jsonb(t) - {ORIGINS}::text[] AS one FROM {table} t) AS rows"
        );
        let rows = serde_json::from_str(&db.value(&rows).await).unwrap();
        all.insert(table.to_owned(), rows);
    }
    Value::Object(all)
}

/// What differs, by table: a row that is in one only.
pub fn differences(before: &Value, after: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for table in TABLES {
        let rows = |of: &Value| of[table].as_array().unwrap().clone();
        let (before, after) = (rows(before), rows(after));
        for (here, there, sign) in [(&before, &after, "-"), (&after, &before, "+")] {
            let only = here.iter().filter(|row| !there.contains(row));
            found.extend(only.map(|row| format!("{sign} {table}: {row}")));
        }
    }
    found
}
