//! What an event has done, and what a replay of it would: rows before and after, column by
//! column, and the entries of the audit log.

use serde_json::Value;

use super::screen::{Block, Cell, Grid, Tone};
use super::webhooks::page_of;
use crate::explain::{CauseKind, Explanation};
use crate::webhooks::dead_letters::rehearsal::{Change, Difference, RowChange};

/// What the audit log has of an event: each entry with what it changed.
pub fn of_event(explained: &Explanation) -> Block {
    let entries = explained.causes.iter();
    let entries = entries.filter(|cause| cause.kind == CauseKind::AuditEntry);
    let rows = entries.flat_map(|entry| {
        let facts = &entry.facts;
        let (before, after) = (&facts["before"], &facts["after"]);
        let changed = fields(before, after).into_iter();
        let mut rows: Vec<Vec<Cell>> = changed
            .map(|(name, was, is)| row(facts, Cell::text(name), was, is))
            .collect();
        if rows.is_empty() {
            rows.push(row(facts, Cell::None, Cell::None, Cell::None));
        }
        rows
    });
    Block::Grid(Grid {
        title: "What it changed".to_owned(),
        note: Some("As the audit log has it; unchanged fields are left out.".to_owned()),
        columns: vec!["When", "Entry", "Field", "Before", "After"],
        rows: rows.collect(),
        empty: "The audit log has nothing of it.",
        next: None,
    })
}

fn row(facts: &Value, field: Cell, was: Cell, is: Cell) -> Vec<Cell> {
    vec![
        Cell::of(facts, "createdAt"),
        Cell::of(facts, "action"),
        field,
        was,
        is,
    ]
}

/// The fields of two states that differ.
fn fields<'a>(before: &'a Value, after: &'a Value) -> Vec<(&'a str, Cell, Cell)> {
    let members = |state: &'a Value| state.as_object().into_iter().flatten();
    let mut names: Vec<&str> = members(before)
        .chain(members(after))
        .map(|(name, _)| name.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    let differing = names.into_iter();
    let differing = differing.filter(|name| before[*name] != after[*name]);
    differing
        .map(|name| (name, value(&before[name]), value(&after[name])))
        .collect()
}

fn value(value: &Value) -> Cell {
    match value {
        Value::Null => Cell::None,
        Value::String(text) => Cell::text(text),
        other => Cell::Code(other.to_string()),
    }
}

/// The newer event of the same object, if the explanation names one.
pub fn newer(explained: &Explanation) -> Option<Cell> {
    let events = explained.causes.iter();
    let mut events = events.filter(|cause| cause.kind == CauseKind::Event);
    let newer = events.find_map(|cause| cause.facts["eventId"].as_str())?;
    Some(Cell::link(page_of(newer), newer))
}

/// What a replay would change, and what cannot be shown of it.
pub fn of_rehearsal(difference: &Difference) -> Vec<Block> {
    let rows = difference.changes.iter().flat_map(columns);
    let entries = difference.entries.iter().map(|entry| {
        let about = [&entry.resource_type, &entry.resource_id];
        let about = about.into_iter().flatten().map(Cell::text);
        vec![Cell::text(&entry.action), Cell::Many(about.collect())]
    });
    vec![
        Block::Grid(Grid {
            title: "Rows that would differ".to_owned(),
            columns: vec!["Table", "Row", "Change", "Column", "Before", "After"],
            rows: rows.collect(),
            empty: "No row of the organization would differ.",
            ..Grid::default()
        }),
        Block::Grid(Grid {
            title: "Entries of the audit log".to_owned(),
            columns: vec!["Action", "About"],
            rows: entries.collect(),
            empty: "There would be none.",
            ..Grid::default()
        }),
        Block::Notice {
            tone: Tone::Plain,
            title: "What this cannot show".to_owned(),
            text:
                "The handler ran for real, on the rows as they are now, and was rolled back. What \
                   other parts of the service do after a replay is not here: events out to the \
                   product, calls to Stripe and usage that is told to it, other events that waited \
                   for this one. Until it is replayed, rows may change."
                    .to_owned(),
        },
    ]
}

fn columns(row: &RowChange) -> Vec<Vec<Cell>> {
    let tone = match row.change {
        Change::Added => Tone::Good,
        Change::Changed => Tone::Plain,
        Change::Removed => Tone::Bad,
    };
    let text = |value: &Option<String>| Cell::maybe(value.as_deref(), Cell::text);
    let columns = row.columns.iter().map(|column| {
        vec![
            Cell::text(&row.table),
            Cell::text(&row.row),
            Cell::Badge(tone, row.change.as_str().to_owned()),
            Cell::text(&column.column),
            text(&column.before),
            text(&column.after),
        ]
    });
    columns.collect()
}
