//! Two organizations with rows in every table; those of the second have a
//! secret in them.

use std::sync::Arc;

use sqlx::Row as _;
use uuid::Uuid;

use crate::database::tenants::{column, insert, tables};
use crate::support::TestDatabase;

/// In the other organization's rows, and in nothing that a probe says.
pub const SECRET: &str = "7f3a9c51e0b24d68";
/// Keys that anybody may know, which are in use on the other side only.
pub const THEIR_KEY: &str = "theirs";

pub const US: Uuid = Uuid::from_u128(0xa);
pub const THEM: Uuid = Uuid::from_u128(0xb);

/// A table of the tenants', as the catalog has it.
#[derive(Debug, Clone)]
pub struct Table {
    pub name: String,
    pub columns: Vec<String>,
}

impl Table {
    /// Says whose a row is.
    pub fn owner(&self) -> &'static str {
        column(&self.name)
    }
}

pub struct World {
    pub db: Arc<TestDatabase>,
    pub tables: Vec<Table>,
}

impl World {
    pub async fn new() -> Self {
        let db = TestDatabase::new().await;
        let mut found = Vec::new();
        for name in tables(&db).await {
            db.execute(&insert(&name, US, "ours")).await;
            db.execute(&insert(&name, THEM, THEIR_KEY)).await;
            // These have one row of an organization.
            let alone = [
                "organizations",
                "billing_audit_chain_heads",
                "outbound_streams",
            ];
            if !alone.contains(&name.as_str()) {
                db.execute(&insert(&name, THEM, SECRET)).await;
            }
            hide_secrets(&db, &name).await;
            let columns = columns(&db, &name).await;
            found.push(Table { name, columns });
        }
        // What the planner knows of values must not be told either.
        db.execute("ANALYZE").await;
        let db = Arc::new(db);
        Self { db, tables: found }
    }

    /// All that the other organization has, as one value.
    pub fn their_state(&self) -> String {
        let of_table = |table: &Table| {
            let (name, owner) = (&table.name, table.owner());
            format!(
                "SELECT '{name}' || t::text AS line FROM public.{name} t WHERE {owner} = '{THEM}'"
            )
        };
        let all: Vec<String> = self.tables.iter().map(of_table).collect();
        let all = all.join(" UNION ALL ");
        format!("SELECT md5(string_agg(line, ',' ORDER BY line)) FROM ({all}) every")
    }
}

/// Puts the secret into every text of their rows that takes it.
async fn hide_secrets(db: &TestDatabase, table: &str) {
    let owner = column(table);
    db.execute(&format!(
        "DO $$ DECLARE name text; BEGIN
           FOR name IN SELECT attname FROM pg_attribute
                        WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped
                          AND atttypid = 'text'::regtype AND attgenerated = ''
                          AND NOT attnum = ANY (SELECT unnest(indkey) FROM pg_index
                                                 WHERE indrelid = '{table}'::regclass AND indisunique)
           LOOP
             BEGIN
               EXECUTE format('UPDATE {table} SET %I = coalesce(%I, '''') || ''{SECRET}'' WHERE {owner} = ''{THEM}''',
                              name, name);
             EXCEPTION WHEN check_violation OR insufficient_privilege THEN NULL;
             END;
           END LOOP;
         END $$"
    ))
    .await;
}

async fn columns(db: &TestDatabase, table: &str) -> Vec<String> {
    let rows = sqlx::query(
        "SELECT attname::text FROM pg_attribute
          WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
    )
    .bind(table)
    .fetch_all(&db.pool)
    .await
    .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}
