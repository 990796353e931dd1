//! Statements that a hostile organization would try, made by chance from the
//! catalog. Each answers with one column of text.

use super::attempts::Probe;
use super::world::{THEIR_KEY, THEM, Table, US};
use crate::database::tenants::insert;
use crate::support::dice::Dice;

/// One statement, on one table.
pub fn any(dice: &mut Dice, tables: &[Table]) -> Probe {
    let table = &tables[dice.below(tables.len())];
    let other = &tables[dice.below(tables.len())];
    match dice.below(3) {
        0 => read(dice, table, other),
        1 => write(dice, table, other),
        _ => plain(table, dice.below(PLAIN)),
    }
}

/// The statements that need no chance, for each table.
pub fn all_plain(table: &Table) -> impl Iterator<Item = Probe> {
    (0..PLAIN).map(|n| plain(table, n))
}

const PLAIN: usize = 15;

fn plain(table: &Table, n: usize) -> Probe {
    let Table { name, .. } = table;
    let owner = table.owner();
    let theirs = format!("WHERE {owner} = '{THEM}'");
    match n {
        0 => Probe::of(format!("SELECT t::text FROM {name} t {theirs}")),
        1 => Probe::of(format!("SELECT t::text FROM {name} t")),
        2 => Probe::of(format!(
            "UPDATE {name} t SET {owner} = {owner} {theirs} RETURNING t::text"
        )),
        3 => Probe::of(format!(
            "UPDATE {name} t SET {owner} = '{US}' {theirs} RETURNING t::text"
        )),
        4 => Probe::of(format!("DELETE FROM {name} t {theirs} RETURNING t::text")),
        5 => Probe::to_be_refused(insert(name, THEM, "forged")),
        6 => Probe::to_be_refused(format!("TRUNCATE {name} CASCADE")),
        7 => Probe::to_be_refused(format!("ALTER TABLE {name} DISABLE ROW LEVEL SECURITY")),
        8 => Probe::to_be_refused(format!("CREATE POLICY mine ON {name} USING (true)")),
        9 => Probe::to_be_refused(format!("DROP TABLE {name} CASCADE")),
        10 => Probe::to_be_refused(format!("COPY {name} TO PROGRAM 'cat'")),
        11 => Probe::to_be_refused(format!(
            "CREATE TRIGGER mine BEFORE INSERT ON {name} EXECUTE FUNCTION suppress_redundant_updates_trigger()"
        )),
        12 => Probe::of(format!(
            "SELECT s::text FROM pg_stats s WHERE tablename = '{name}' AND schemaname = 'public'"
        )),
        13 => Probe::of(format!(
            "SELECT table_to_xml('{name}'::regclass, true, false, '')::text"
        )),
        _ => Probe::to_be_refused("SET LOCAL ROLE billing_owner"),
    }
}

fn read(dice: &mut Dice, table: &Table, other: &Table) -> Probe {
    let Table { name, .. } = table;
    let Table { name: theirs, .. } = other;
    let condition = condition(dice, table, other, 3);
    let (owner, others_owner) = (table.owner(), other.owner());
    let column = column(dice, table);
    let sql = match dice.below(10) {
        0 => format!("SELECT t::text FROM {name} t WHERE {condition}"),
        1 => format!("SELECT max(t.{column}::text) FROM {name} t WHERE {condition}"),
        2 => format!(
            "WITH seen AS MATERIALIZED (SELECT * FROM {name}) SELECT t::text FROM seen t WHERE {condition}"
        ),
        3 => format!("SELECT (SELECT string_agg(t::text, ',') FROM {name} t WHERE {condition})"),
        4 => format!(
            "SELECT t::text FROM {theirs} x
               LEFT JOIN LATERAL (SELECT * FROM {name} y WHERE y.{owner} IS DISTINCT FROM x.{others_owner}) t
               ON true WHERE {condition} OR t IS NULL"
        ),
        5 => format!("SELECT t::text FROM ONLY {name} t TABLESAMPLE BERNOULLI (100) WHERE {condition}"),
        6 => format!("SELECT t::text FROM {name} t WHERE {condition} FOR KEY SHARE"),
        7 => format!(
            "SELECT query_to_xml($q$SELECT * FROM {name} t WHERE {condition}$q$, true, false, '')::text"
        ),
        8 => format!(
            "SELECT DISTINCT ON (t.{column}::text) t::text FROM {name} t
              FULL JOIN {theirs} x ON x.{others_owner} = t.{owner} WHERE {condition}"
        ),
        _ => format!(
            "SELECT lag(t::text) OVER (ORDER BY t.{column}::text) FROM {name} t WHERE {condition}
              UNION ALL SELECT t::text FROM {name} t WHERE NOT ({condition})"
        ),
    };
    Probe::of(sql)
}

fn write(dice: &mut Dice, table: &Table, other: &Table) -> Probe {
    let Table { name, .. } = table;
    let Table { name: theirs, .. } = other;
    let condition = condition(dice, table, other, 2);
    let (owner, others_owner) = (table.owner(), other.owner());
    let column = column(dice, table);
    let sql = match dice.below(9) {
        0 => format!("UPDATE {name} t SET {column} = t.{column} WHERE {condition} RETURNING t::text"),
        1 => format!(
            "UPDATE {name} t SET {column} = x.{column} FROM {name} x
              WHERE {condition} AND x.{owner} <> t.{owner} RETURNING x::text"
        ),
        2 => format!("UPDATE {name} t SET {owner} = '{THEM}' WHERE {condition} RETURNING 'done'"),
        3 => format!("DELETE FROM {name} t WHERE {condition} RETURNING t::text"),
        4 => format!(
            "DELETE FROM {name} t USING {theirs} x WHERE x.{others_owner} <> t.{owner} AND {condition}
             RETURNING x::text"
        ),
        5 => format!(
            "{} ON CONFLICT DO NOTHING RETURNING '{name}'::text",
            insert(name, THEM, "forged")
        ),
        6 => format!("INSERT INTO {name} SELECT t.* FROM {name} t WHERE {condition} ON CONFLICT DO NOTHING"),
        7 => format!(
            "MERGE INTO {name} t USING (SELECT 1) one ON {condition} AND t.{owner} = '{THEM}'
              WHEN MATCHED THEN DELETE"
        ),
        _ => format!(
            "WITH gone AS (DELETE FROM {name} t WHERE {condition} RETURNING t.*)
             SELECT g::text FROM gone g UNION ALL SELECT t::text FROM {name} t"
        ),
    };
    Probe::of(sql)
}

/// A condition on `t`, which is not to be asked of their rows.
fn condition(dice: &mut Dice, table: &Table, other: &Table, depth: usize) -> String {
    if depth > 0 && dice.one_in(2) {
        let one = condition(dice, table, other, depth - 1);
        let two = condition(dice, table, other, depth - 1);
        return match dice.below(3) {
            0 => format!("({one} AND {two})"),
            1 => format!("({one} OR {two})"),
            _ => format!("(NOT {one})"),
        };
    }
    let owner = table.owner();
    let column = column(dice, table);
    match dice.below(13) {
        0 => "true".to_owned(),
        1 => format!("t.{owner} = '{THEM}'"),
        2 => format!("t.{owner} <> '{US}'"),
        3 => format!("t.{owner}::text = '{THEM}'"),
        4 => format!("t.{owner} = ANY (ARRAY['{THEM}', '{US}']::uuid[])"),
        5 => format!("t.{column} IS NOT NULL"),
        6 => format!("t.{column}::text LIKE '%{THEIR_KEY}%'"),
        7 => format!("pg_temp.leak(t.{column}::text)"),
        8 => format!("t.{column}::text OPERATOR(pg_temp.===) 'x'"),
        9 => format!("1 / (CASE WHEN t.{owner} = '{THEM}' THEN 0 ELSE 1 END) = 1"),
        10 => "pg_temp.leak(t::text)".to_owned(),
        11 => format!(
            "EXISTS (SELECT FROM {} x WHERE x.{} = '{THEM}')",
            other.name,
            other.owner()
        ),
        _ => format!(
            "t.{owner} IN (SELECT x.{} FROM {} x WHERE pg_temp.leak(x::text))",
            other.owner(),
            other.name
        ),
    }
}

fn column(dice: &mut Dice, table: &Table) -> String {
    table.columns[dice.below(table.columns.len())].clone()
}
