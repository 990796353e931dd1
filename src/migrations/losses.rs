//! What a rollback would lose: the rows of dropped tables, and the values of dropped
//! columns.

use std::collections::BTreeSet;
use std::fmt;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};

use super::runner::to_undo;
use super::{Migration, MigrationError};

/// A table or column that would be dropped and is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    pub table: String,
    /// `None` for the whole table.
    pub column: Option<String>,
    /// The number of rows, or of those whose value differs from the default.
    pub rows: i64,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = crate::telemetry::terminal::counted(self.rows, "row");
        match &self.column {
            None => write!(f, "table {}: {rows}", self.table),
            Some(column) => write!(f, "column {}.{column}: its values in {rows}", self.table),
        }
    }
}

/// Counts what `rollback` to `to` would lose.
pub async fn losses(
    conn: &mut PgConnection,
    to: Option<&str>,
) -> Result<Vec<Loss>, MigrationError> {
    let mut dropped = Dropped::default();
    for migration in to_undo(conn, to).await? {
        dropped.read(migration.down);
    }
    let mut losses = Vec::new();
    for table in &dropped.tables {
        // The ledger only records the migrations themselves.
        let counted = table != "billing_schema_migrations" && exists(conn, table).await?;
        if counted {
            let rows = count(conn, &format!("SELECT count(*) FROM public.{table}")).await?;
            losses.extend(loss(table, None, rows));
        }
    }
    for (table, column) in &dropped.columns {
        if dropped.tables.contains(table) {
            continue;
        }
        if let Some(default) = default_of(conn, table, column).await? {
            let rows = format!(
                "SELECT count(*) FROM public.{table}
                  WHERE ({column})::text IS DISTINCT FROM ({default})::text"
            );
            let rows = count(conn, &rows).await?;
            losses.extend(loss(table, Some(column), rows));
        }
    }
    Ok(losses)
}

fn loss(table: &str, column: Option<&String>, rows: i64) -> Option<Loss> {
    (rows > 0).then(|| Loss {
        table: table.to_owned(),
        column: column.cloned(),
        rows,
    })
}

async fn exists(conn: &mut PgConnection, table: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT to_regclass('public.' || $1) IS NOT NULL")
        .bind(table)
        .fetch_one(conn)
        .await
}

/// A column's default as SQL; `None` if the column does not exist.
async fn default_of(
    conn: &mut PgConnection,
    table: &str,
    column: &str,
) -> Result<Option<String>, sqlx::Error> {
    let found = sqlx::query(
        "SELECT coalesce(pg_get_expr(d.adbin, d.adrelid), 'NULL') AS expression
           FROM pg_attribute a
           LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
          WHERE a.attrelid = to_regclass('public.' || $1) AND a.attname = $2
            AND a.attnum > 0 AND NOT a.attisdropped",
    )
    .bind(table)
    .bind(column)
    .fetch_optional(conn)
    .await?;
    found.map(|row| row.try_get("expression")).transpose()
}

/// The names in `sql` come from our own files, defaults from the catalog.
async fn count(conn: &mut PgConnection, sql: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(conn)
        .await
}

/// The tables, and columns as `table.column`, that the rollback of `migration` drops.
pub fn dropped(migration: &Migration) -> BTreeSet<String> {
    let mut dropped = Dropped::default();
    dropped.read(migration.down);
    let columns = dropped.columns.into_iter();
    let columns = columns.map(|(table, column)| format!("{table}.{column}"));
    dropped.tables.into_iter().chain(columns).collect()
}

/// What rollback files drop, read from their statements. A test compares this with
/// what they do.
#[derive(Debug, Default)]
struct Dropped {
    tables: BTreeSet<String>,
    columns: BTreeSet<(String, String)>,
}

impl Dropped {
    fn read(&mut self, sql: &str) {
        let code: String = sql
            .lines()
            .map(|line| line.split("--").next().unwrap_or_default())
            .flat_map(|line| [line, " "])
            .collect();
        for statement in code.split(';') {
            let spaced = statement.replace(',', " , ");
            let words: Vec<String> = spaced
                .split_whitespace()
                .map(str::to_ascii_lowercase)
                .filter(|word| !matches!(&**word, "if" | "exists" | "only" | "cascade"))
                .map(|word| word.trim_start_matches("public.").to_owned())
                .collect();
            self.statement(&words);
        }
    }

    fn statement(&mut self, words: &[String]) {
        let starts = |at: usize, first: &str, second: &str| {
            words.get(at).is_some_and(|word| word == first)
                && words.get(at + 1).is_some_and(|word| word == second)
        };
        for at in 0..words.len() {
            if starts(at, "drop", "table") {
                let names = words[at + 2..].iter().filter(|word| *word != ",");
                self.tables.extend(names.cloned());
            }
            if starts(at, "alter", "table")
                && let Some(table) = words.get(at + 2)
            {
                let columns = (at..words.len()).filter(|at| starts(*at, "drop", "column"));
                let columns = columns.filter_map(|at| words.get(at + 2));
                let columns = columns.map(|column| (table.clone(), column.clone()));
                self.columns.extend(columns);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_read_whatever_their_form() {
        let mut dropped = Dropped::default();
        dropped.read(
            "BEGIN; -- DROP TABLE not_this;
             DROP TABLE IF EXISTS public.a, b CASCADE;
             drop table c;
             ALTER TABLE IF EXISTS d DROP COLUMN IF EXISTS x,
               DROP COLUMN y;
             ALTER TABLE ONLY public.e DROP CONSTRAINT z;
             COMMIT;",
        );
        let tables: Vec<&str> = dropped.tables.iter().map(String::as_str).collect();
        assert_eq!(tables, ["a", "b", "c"]);
        let columns: Vec<String> = dropped
            .columns
            .iter()
            .map(|(table, column)| format!("{table}.{column}"))
            .collect();
        assert_eq!(columns, ["d.x", "d.y"]);
    }
}
