//! Rehearsal: a replay that is rolled back, and what it would have changed.
//!
//! It shows rows and audit entries. What follows from them later, by other parts of the service,
//! it cannot show: events out, what is asked of Stripe or told to it, other events that are
//! woken.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::Semaphore;
use utoipa::ToSchema;
use uuid::Uuid;

use super::replay::{self, Replayed, WAIT, context, find, handle};
use crate::audit;
use crate::db::WorkerTx;
use crate::tenancy::auth::Operator;
use crate::webhooks::store::differences::{self, Cell, Entered};
use crate::webhooks::store::replays;
use crate::webhooks::worker::{Processor, processed};

/// The audit action of an operator's rehearsal.
pub const ACTION: &str = "webhook_event_rehearsed";

/// One at a time: each needs a second connection while it holds its first, and many at once
/// would wait for each other's.
static IN_TURN: Semaphore = Semaphore::const_new(1);

/// What a replay would come to.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rehearsed {
    #[serde(flatten)]
    pub result: Replayed,
    #[serde(flatten)]
    pub difference: Difference,
    /// Whose the event is, if that is known.
    #[serde(skip)]
    organization: Option<Uuid>,
}

/// What it would change.
#[derive(Debug, Default, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RehearsedDifference)]
pub struct Difference {
    /// Rows, by table and key.
    pub changes: Vec<RowChange>,
    /// Entries of the audit log, in order.
    pub entries: Vec<Entered>,
}

/// A row that is added, changed or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RowChange {
    #[schema(example = "billing_subscriptions")]
    pub table: String,
    #[schema(example = "sub_1")]
    pub row: String,
    #[schema(inline)]
    pub change: Change,
    /// Those that differ.
    pub columns: Vec<ColumnChange>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Added,
    Changed,
    Removed,
}

impl Change {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

/// A column's value before and after, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ColumnChange {
    pub column: String,
    #[schema(required)]
    pub before: Option<String>,
    #[schema(required)]
    pub after: Option<String>,
}

/// Applies an event as a replay would and rolls back, to show the result of a replay.
pub async fn rehearse(processor: &Processor, event_id: &str) -> Result<Rehearsed, sqlx::Error> {
    let context = context(processor, event_id).await?;
    let _turn = IN_TURN.acquire().await;
    let mut tx = WorkerTx::begin_impatient(&processor.pool, WAIT).await?;
    let nothing = |result, organization| Rehearsed {
        result,
        difference: Difference::default(),
        organization,
    };
    let (event, location, known) = match find(&mut tx, event_id).await? {
        Ok(found) => found,
        Err(replayed) => return Ok(nothing(replayed, None)),
    };
    let (result, _) = handle(&mut tx, &context, &event).await?;
    let rehearsed = match result {
        Ok(handled) => {
            replays::finish(tx.conn(), location, processed(&event, &handled)).await?;
            let organization = handled.organization_id();
            let difference = match organization {
                Some(organization) => difference(processor, &mut tx, organization).await?,
                None => Difference::default(),
            };
            Rehearsed {
                result: Replayed::Succeeded {
                    outcome: handled.outcome(),
                },
                difference,
                organization,
            }
        }
        Err(error) => {
            let error = error.to_string();
            nothing(Replayed::Failed { error }, known)
        }
    };
    tx.rollback().await?;
    Ok(rehearsed)
}

/// What `tx` has changed of the organization, beside what others still see.
async fn difference(
    processor: &Processor,
    tx: &mut WorkerTx,
    organization: Uuid,
) -> Result<Difference, sqlx::Error> {
    let id = differences::transaction(tx.conn()).await?;
    let after = differences::rows(tx.conn(), organization, &id, &[]).await?;
    let keys: Vec<String> = after.iter().map(Cell::key).collect();
    let mut beside = WorkerTx::begin(&processor.pool).await?;
    let before = differences::rows(beside.conn(), organization, &id, &keys).await?;
    let last = differences::last_entry(beside.conn(), organization).await?;
    beside.commit().await?;
    Ok(Difference {
        changes: compare(before, after),
        entries: differences::entries(tx.conn(), organization, last).await?,
    })
}

type Rows = BTreeMap<(String, String), BTreeMap<String, Option<String>>>;

fn by_row(cells: Vec<Cell>) -> Rows {
    let mut rows = Rows::new();
    for cell in cells {
        let row = rows.entry((cell.table, cell.row)).or_default();
        row.insert(cell.column, cell.value);
    }
    rows
}

/// The rows that differ, and in what.
fn compare(before: Vec<Cell>, after: Vec<Cell>) -> Vec<RowChange> {
    let (before, after) = (by_row(before), by_row(after));
    let mut keys: Vec<_> = before.keys().chain(after.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let changes = keys.into_iter().filter_map(|key| {
        let (was, is) = (before.get(key), after.get(key));
        let change = match (was, is) {
            (None, _) => Change::Added,
            (_, None) => Change::Removed,
            _ => Change::Changed,
        };
        let columns = columns(was, is);
        let (table, row) = key.clone();
        (!columns.is_empty()).then_some(RowChange {
            table,
            row,
            change,
            columns,
        })
    });
    changes.collect()
}

fn columns(
    was: Option<&BTreeMap<String, Option<String>>>,
    is: Option<&BTreeMap<String, Option<String>>>,
) -> Vec<ColumnChange> {
    let value = |row: Option<&BTreeMap<String, Option<String>>>, name: &str| {
        row.and_then(|row| row.get(name).cloned().flatten())
    };
    let either = is.or(was).into_iter().flatten();
    let columns = either.filter_map(|(name, _)| {
        let (before, after) = (value(was, name), value(is, name));
        (before != after).then(|| ColumnChange {
            column: name.clone(),
            before,
            after,
        })
    });
    columns.collect()
}

/// Rehearses one event for an operator, on a blocking thread like a replay; the look is in the
/// audit log.
pub async fn rehearse_apart(
    processor: Arc<Processor>,
    event_id: String,
    operator: Operator,
) -> Result<Rehearsed, sqlx::Error> {
    replay::apart(async move || {
        let rehearsed = rehearse(&processor, &event_id).await?;
        if rehearsed.result == Replayed::Unknown {
            return Ok(rehearsed);
        }
        let entry = operator.did(ACTION, rehearsed.organization, "webhook_event", event_id);
        let mut tx = WorkerTx::begin(&processor.pool).await?;
        audit::record_one(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(rehearsed)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(row: &str, columns: &[(&str, &str)]) -> Vec<Cell> {
        let cell = |(column, value): &(&str, &str)| Cell {
            table: "t".to_owned(),
            row: row.to_owned(),
            column: (*column).to_owned(),
            value: Some((*value).to_owned()),
        };
        columns.iter().map(cell).collect()
    }

    #[test]
    fn rows_are_added_changed_and_removed_and_those_that_stay_are_left_out() {
        let mut before = cells("changed", &[("a", "1"), ("b", "1")]);
        before.extend(cells("removed", &[("a", "1")]));
        before.extend(cells("stays", &[("a", "1")]));
        let mut after = cells("changed", &[("a", "1"), ("b", "2")]);
        after.extend(cells("stays", &[("a", "1")]));
        after.extend(cells("added", &[("a", "1")]));
        let found = compare(before, after);
        let found: Vec<_> = found
            .iter()
            .map(|one| (&*one.row, one.change, one.columns.len()))
            .collect();
        let expected = [
            ("added", Change::Added, 1),
            ("changed", Change::Changed, 1),
            ("removed", Change::Removed, 1),
        ];
        assert_eq!(found, expected);
    }
}
