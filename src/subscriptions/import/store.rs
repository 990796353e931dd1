//! SQL of an import: how far it is, and what is here already.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::progress::{Phase, Terms};
use super::report::Counts;
use crate::db::words;
use crate::tenancy::organizations::sample;

/// An import that has begun.
#[derive(Debug, Clone)]
pub struct Import {
    pub id: Uuid,
    pub terms: Terms,
    pub phase: Phase,
    /// After which object the phase goes on.
    pub cursor: Option<String>,
    pub counts: Counts,
    /// When that was entered: nobody else has gone on with it since.
    pub entered_at: Timestamp,
}

/// Enters a new import. One that was not finished is not gone on with any more.
/// Returns when that was.
pub async fn begin(conn: &mut PgConnection, import: &Import) -> Result<Timestamp, sqlx::Error> {
    let entered_at = sqlx::query_scalar!(
        "WITH given_up AS (
           UPDATE stripe_imports SET ended_at = now() WHERE ended_at IS NULL
         )
         INSERT INTO stripe_imports (id, terms, phase) VALUES ($1, $2, $3)
         RETURNING updated_at",
        import.id,
        Json(&import.terms) as _,
        import.phase.as_str()
    )
    .fetch_one(conn)
    .await?;
    Ok(entered_at.to_jiff())
}

/// The import that was begun last, if it is not finished.
pub async fn unfinished(conn: &mut PgConnection) -> Result<Option<Import>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT id, terms AS "terms: Json<Terms>", phase, cursor, updated_at,
                  counts AS "counts: Json<Counts>"
             FROM stripe_imports WHERE ended_at IS NULL ORDER BY id DESC LIMIT 1"#
    )
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        let phase = words::decode("stripe_imports.phase", &row.phase)?;
        Ok(Import {
            id: row.id,
            terms: row.terms.0,
            phase,
            cursor: row.cursor,
            counts: row.counts.0,
            entered_at: row.updated_at.to_jiff(),
        })
    })
    .transpose()
}

/// Enters how far it is, and returns when that was; `None` if another process goes on with
/// it, or began anew.
pub async fn advance(
    conn: &mut PgConnection,
    import: &Import,
    ended: bool,
) -> Result<Option<Timestamp>, sqlx::Error> {
    let entered_at = sqlx::query_scalar!(
        "UPDATE stripe_imports SET phase = $2, cursor = $3, counts = $4,
                updated_at = clock_timestamp(), ended_at = CASE WHEN $5 THEN now() END
          WHERE id = $1 AND ended_at IS NULL AND updated_at = $6
         RETURNING updated_at",
        import.id,
        import.phase.as_str(),
        import.cursor,
        Json(&import.counts) as _,
        ended,
        import.entered_at.to_sqlx() as _
    )
    .fetch_optional(conn)
    .await?;
    Ok(entered_at.map(|at| at.to_jiff()))
}

/// Whether something of the other mode, test or live, is mirrored.
pub async fn has_other_mode(conn: &mut PgConnection, live: bool) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT (EXISTS (SELECT FROM billing_subscriptions
                            WHERE livemode <> $1 AND organization_id <> $2)
                   OR EXISTS (SELECT FROM billing_invoices
                               WHERE livemode <> $1 AND organization_id <> $2)) AS "other!""#,
        live,
        sample::ID
    )
    .fetch_one(conn)
    .await
}

/// The organizations that have a customer, which was not deleted.
pub async fn taken(conn: &mut PgConnection) -> Result<BTreeSet<Uuid>, sqlx::Error> {
    let ids = sqlx::query_scalar!(
        "SELECT DISTINCT organization_id FROM billing_customers
          WHERE deleted_at IS NULL AND stripe_customer_id LIKE 'cus\\_%' AND organization_id <> $1",
        sample::ID
    )
    .fetch_all(conn)
    .await?;
    Ok(ids.into_iter().collect())
}

/// Those of these organizations for which usage is counted already.
pub async fn metered(conn: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT DISTINCT organization_id FROM usage_totals WHERE organization_id = ANY($1)",
        ids
    )
    .fetch_all(conn)
    .await
}

/// The organizations of customers; of all that are known without `customers`.
pub async fn owners(
    conn: &mut PgConnection,
    customers: Option<&[&str]>,
) -> Result<HashMap<String, Uuid>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT stripe_customer_id, organization_id FROM billing_customers
          WHERE ($1::text[] IS NULL OR stripe_customer_id = ANY($1)) AND organization_id <> $2",
        customers as Option<&[&str]>,
        sample::ID
    )
    .fetch_all(conn)
    .await?;
    let owners = rows.into_iter();
    Ok(owners
        .map(|row| (row.stripe_customer_id, row.organization_id))
        .collect())
}

/// Which of these customers no event or answer has shown yet.
pub async fn unseen(
    conn: &mut PgConnection,
    customers: &[&str],
) -> Result<BTreeSet<String>, sqlx::Error> {
    let ids = sqlx::query_scalar!(
        "SELECT stripe_customer_id FROM billing_customers
          WHERE stripe_customer_id = ANY($1) AND last_event_id IS NULL",
        customers as &[&str]
    )
    .fetch_all(conn)
    .await?;
    Ok(ids.into_iter().collect())
}

/// Customers with their organizations, by id, from behind `after`: those that were not
/// deleted, of organizations that were not erased.
pub async fn customers_after(
    conn: &mut PgConnection,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<(String, Uuid)>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT c.stripe_customer_id, c.organization_id
           FROM billing_customers c JOIN organizations o ON o.id = c.organization_id
          WHERE c.stripe_customer_id > coalesce($1, '') AND c.deleted_at IS NULL
            AND o.erased_at IS NULL AND o.id <> $3
            AND c.stripe_customer_id LIKE 'cus\\_%'
          ORDER BY c.stripe_customer_id LIMIT $2",
        after,
        limit,
        sample::ID
    )
    .fetch_all(conn)
    .await?;
    let customers = rows.into_iter();
    Ok(customers
        .map(|row| (row.stripe_customer_id, row.organization_id))
        .collect())
}
