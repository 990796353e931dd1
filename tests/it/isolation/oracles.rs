//! Keys tell nothing: what another organization has in use is answered as what
//! nobody has.

use sqlx::Row as _;

use super::attempts::{PROBERS, Rig};
use super::world::{THEIR_KEY, THEM, US, World};
use crate::database::tenants::insert;

/// Ids that Stripe makes are one organization's, and known beyond it: that
/// there is such a customer or event is no secret to the worker, which alone
/// may insert one.
const BEYOND: [&str; 3] = [
    "billing_customers",
    "webhook_dead_letter_queue",
    "webhook_events",
];

#[tokio::test]
async fn a_row_with_their_key_is_answered_as_one_with_nobodys() {
    let world = World::new().await;
    let mut rig = Rig::new(&world).await;
    for table in &world.tables {
        for prober in PROBERS {
            let row = |key| insert(&table.name, US, key);
            let taken = rig.outcome(prober, &row(THEIR_KEY)).await;
            let free = rig.outcome(prober, &row("nobodys")).await;
            assert_eq!(taken, free, "{prober:?}: {}", row(THEIR_KEY));
        }
    }
}

/// The columns that keys and references are of, by table, without whose it is.
const KEYS: &str = "
SELECT DISTINCT c.relname::text, a.attname::text
  FROM (SELECT indrelid AS relation, unnest(indkey) AS number FROM pg_index WHERE indisunique
        UNION SELECT conrelid, unnest(conkey) FROM pg_constraint WHERE contype = 'f') keys
  JOIN pg_class c ON c.oid = relation AND c.relnamespace = 'public'::regnamespace
  JOIN pg_attribute a ON a.attrelid = relation AND a.attnum = number
 WHERE a.atttypid IN ('text'::regtype, 'uuid'::regtype) AND a.attname NOT IN ('organization_id', 'id', 'bucket') ORDER BY 1, 2";

#[tokio::test]
async fn a_row_that_takes_their_value_is_answered_as_one_that_takes_nobodys() {
    let world = World::new().await;
    let mut rig = Rig::new(&world).await;
    let keys = sqlx::query(KEYS).fetch_all(&world.db.pool).await.unwrap();
    let mut tried = 0;
    for key in &keys {
        let (table, column): (String, String) = (key.get(0), key.get(1));
        let ours = world.tables.iter().any(|known| known.name == table);
        if !ours || BEYOND.contains(&&*table) {
            continue;
        }
        let tenant = if table == "organizations" {
            "id"
        } else {
            "organization_id"
        };
        let of_them = format!("SELECT min({column}::text) FROM {table} WHERE {tenant} = '{THEM}'");
        let theirs = world.db.value(&of_them).await;
        // As long, of the same type, and nobody's.
        let free: String = theirs.chars().rev().collect();
        for prober in PROBERS {
            let take = |value: &str| {
                format!("UPDATE {table} SET {column} = '{value}' WHERE {tenant} = '{US}'")
            };
            let taken = rig.outcome(prober, &take(&theirs)).await;
            let unknown = rig.outcome(prober, &take(&free)).await;
            // Of a list of words there is none that nobody has.
            if unknown == "23514" {
                continue;
            }
            assert_eq!(taken, unknown, "{prober:?}: {}", take(&theirs));
            tried += 1;
        }
    }
    assert!(tried >= 60, "{tried}");
}
