//! The columns of each table and the migrations that add them, against which
//! `migrate verify` checks a database.

mod added;
mod since_catalogue;

use std::collections::HashMap;

use sqlx::postgres::PgConnection;

/// A migration, with the tables and columns that it adds.
type Added = (&'static str, &'static [(&'static str, &'static str)]);

/// What each migration adds: the first that names a table creates it. A test compares
/// this with the files.
pub fn added() -> impl Iterator<Item = &'static Added> {
    added::COLUMNS.iter().chain(since_catalogue::COLUMNS)
}

/// Columns that a later migration moved elsewhere. They stay for older programs; a
/// table may lack them.
const SUPERSEDED: &[(&str, &str)] = &[("webhook_dead_letter_queue", "source")];

/// The columns of every table in `public`.
pub type Present = HashMap<String, Vec<String>>;

/// Reads the columns from the catalog: the information schema omits those that the
/// login has no privileges on.
pub async fn present(conn: &mut PgConnection) -> Result<Present, sqlx::Error> {
    // Not checked at compile time, like the rest of `verify`: the database may have
    // any shape.
    let tables: Vec<(String, Vec<String>)> = sqlx::query_as(
        "SELECT relname::text,
                ARRAY(SELECT attname::text FROM pg_attribute
                       WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum)
           FROM pg_class c
          WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')",
    )
    .fetch_all(conn)
    .await?;
    Ok(tables.into_iter().collect())
}

/// All tables that the migrations create, in order.
pub fn tables() -> Vec<&'static str> {
    let mut tables = Vec::new();
    for (_, made) in added() {
        for (table, _) in *made {
            if !tables.contains(table) {
                tables.push(*table);
            }
        }
    }
    tables
}

/// What `table` lacks, and how to fix it.
pub fn problem(table: &str, present: &Present) -> Option<String> {
    let is_needed = |column: &&str| !SUPERSEDED.contains(&(table, *column));
    let makers = || {
        added().flat_map(|(migration, made)| {
            made.iter()
                .filter(|(name, columns)| {
                    *name == table && columns.split(' ').any(|c| is_needed(&c))
                })
                .map(|(_, columns)| (file(migration), *columns))
        })
    };
    let Some(columns) = present.get(table) else {
        let files: Vec<String> = makers().map(|(file, _)| file).collect();
        return Some(format!("is missing: run {} again", files.join(", then ")));
    };
    let lacks: Vec<String> = makers()
        .enumerate()
        .filter_map(|(index, (file, wanted))| {
            let missing: Vec<&str> = wanted
                .split(' ')
                .filter(is_needed)
                .filter(|wanted| !columns.iter().any(|column| column == wanted))
                .collect();
            if missing.is_empty() {
                return None;
            }
            let missing = missing.join(", ");
            Some(if index == 0 {
                // The file does not change an existing table.
                format!("lacks {missing}: ALTER TABLE {table} ADD COLUMN, as CREATE TABLE in {file} has it")
            } else {
                format!("lacks {missing}: run {file} again")
            })
        })
        .collect();
    (!lacks.is_empty()).then(|| lacks.join("; it "))
}

fn file(migration: &str) -> String {
    format!("supabase/migrations/{migration}.sql")
}
