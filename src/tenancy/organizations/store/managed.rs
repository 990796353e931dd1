//! SQL for organizations as the product manages them.

use jiff::Timestamp;
use jiff_sqlx::ToSqlx as _;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::{Metadata, Organization};
use crate::db::TenantTx;

/// An organization, and its plan while no subscription runs.
#[derive(Debug, Clone)]
pub struct Managed {
    pub organization: Organization,
    pub base_plan_tier: String,
}

/// An organization of a row with its columns.
macro_rules! organization {
    ($row:expr) => {
        Organization {
            id: $row.id,
            name: $row.name,
            plan_tier: $row.plan_tier,
            stripe_customer_id: $row.customer,
            external_id: $row.external_id,
            email: $row.email,
            metadata: $row.metadata.0,
            created_at: $row.created_at.to_jiff(),
            archived_at: $row.archived_at.map(|at| at.to_jiff()),
            // None that is erased is read here.
            erased_at: None,
        }
    };
}

/// Reads an organization; `None` if there is none, or it is erased.
pub async fn read(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<Option<Managed>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT o.id, o.name, o.plan_tier, o.base_plan_tier, o.external_id, o.email,
                  o.metadata AS "metadata: Json<Metadata>", o.created_at, o.archived_at,
                  (SELECT c.stripe_customer_id FROM billing_customers c
                    WHERE c.organization_id = o.id AND c.deleted_at IS NULL
                      AND c.stripe_customer_id NOT LIKE 'acct\_%'
                    ORDER BY c.linked_at DESC NULLS LAST, c.created_at, c.stripe_customer_id
                    LIMIT 1) AS customer
             FROM organizations o WHERE o.id = $1 AND o.erased_at IS NULL"#,
        organization_id
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Managed {
        base_plan_tier: row.base_plan_tier,
        organization: organization!(row),
    }))
}

/// Writes what the product says of the organization of `tx`; false if another one has
/// its external id.
pub async fn write(
    tx: &mut TenantTx,
    organization: &Organization,
    base_plan_tier: &str,
) -> Result<bool, sqlx::Error> {
    let organization_id = tx.organization_id();
    let written = sqlx::query!(
        "UPDATE organizations
            SET external_id = $2, name = $3, email = $4, metadata = $5, base_plan_tier = $6,
                archived_at = NULL, updated_at = now()
          WHERE id = $1",
        organization_id,
        organization.external_id,
        organization.name,
        organization.email,
        Json(&organization.metadata) as _,
        base_plan_tier
    )
    .execute(tx.conn())
    .await;
    match written {
        Err(error) if crate::db::is_duplicate(&error) => Ok(false),
        written => written.map(|_| true),
    }
}

pub async fn archive(tx: &mut TenantTx) -> Result<(), sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query!(
        "UPDATE organizations SET archived_at = now(), updated_at = now() WHERE id = $1",
        organization_id
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Whether the customer is linked to the organization of `tx`.
pub async fn has_customer(tx: &mut TenantTx, customer_id: &str) -> Result<bool, sqlx::Error> {
    let organization_id = tx.organization_id();
    let linked = sqlx::query_scalar!(
        "SELECT stripe_customer_id FROM billing_customers
          WHERE organization_id = $1 AND stripe_customer_id = $2",
        organization_id,
        customer_id
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(linked.is_some())
}

/// What a search looks for: an organization with this id, or this Stripe customer, or
/// whose external id, name or address begins like this.
pub struct Search<'a> {
    pub text: &'a str,
    pub id: Option<Uuid>,
    /// The organization of the Stripe customer of this id.
    pub owner: Option<Uuid>,
}

/// Lists up to `limit` organizations after a position, oldest first, but for erased ones.
pub async fn page(
    conn: &mut PgConnection,
    after: Option<(Timestamp, Uuid)>,
    limit: i64,
) -> Result<Vec<Organization>, sqlx::Error> {
    let (created_at, id) = after.unzip();
    let rows = sqlx::query!(
        r#"SELECT o.id, o.name, o.plan_tier, o.external_id, o.email,
                  o.metadata AS "metadata: Json<Metadata>", o.created_at, o.archived_at,
                  (SELECT c.stripe_customer_id FROM billing_customers c
                    WHERE c.organization_id = o.id AND c.deleted_at IS NULL
                      AND c.stripe_customer_id NOT LIKE 'acct\_%'
                    ORDER BY c.linked_at DESC NULLS LAST, c.created_at, c.stripe_customer_id
                    LIMIT 1) AS customer
             FROM organizations o
            WHERE o.erased_at IS NULL AND o.created_at >= coalesce($1::timestamptz, '-infinity')
              AND ($1 IS NULL OR (o.created_at, o.id) > ($1, $2))
            ORDER BY o.created_at, o.id LIMIT $3"#,
        created_at.map(|at| at.to_sqlx()) as _,
        id,
        limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| organization!(row)).collect())
}

/// The same of those that a search finds. Each of its conditions has an index; the
/// texts are compared by their bytes, from the first that begins so to the last.
pub async fn search(
    conn: &mut PgConnection,
    search: &Search<'_>,
    after: Option<(Timestamp, Uuid)>,
    limit: i64,
) -> Result<Vec<Organization>, sqlx::Error> {
    let (created_at, id) = after.unzip();
    let rows = sqlx::query!(
        r#"SELECT o.id, o.name, o.plan_tier, o.external_id, o.email,
                  o.metadata AS "metadata: Json<Metadata>", o.created_at, o.archived_at,
                  (SELECT c.stripe_customer_id FROM billing_customers c
                    WHERE c.organization_id = o.id AND c.deleted_at IS NULL
                      AND c.stripe_customer_id NOT LIKE 'acct\_%'
                    ORDER BY c.linked_at DESC NULLS LAST, c.created_at, c.stripe_customer_id
                    LIMIT 1) AS customer
             FROM organizations o
            WHERE o.erased_at IS NULL
              AND (o.id = $1 OR o.id = $2
                   OR (o.external_id COLLATE "C" >= $3::text
                       AND o.external_id COLLATE "C" < $3::text || chr(1114111))
                   OR (o.folded_name COLLATE "C" >= lower($3::text)
                       AND o.folded_name COLLATE "C" < lower($3::text) || chr(1114111))
                   OR (o.folded_email COLLATE "C" >= lower($3::text)
                       AND o.folded_email COLLATE "C" < lower($3::text) || chr(1114111)))
              AND ($4::timestamptz IS NULL OR (o.created_at, o.id) > ($4, $5))
            ORDER BY o.created_at, o.id LIMIT $6"#,
        search.id,
        search.owner,
        search.text,
        created_at.map(|at| at.to_sqlx()) as _,
        id,
        limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| organization!(row)).collect())
}
