//! SQL for organizations and their Stripe customers.

pub mod erasure;
pub mod managed;
pub mod overview;

use std::collections::HashMap;

use jiff_sqlx::ToSqlx as _;
use serde::Serialize;
use sqlx::PgConnection;
use sqlx::types::Json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::sample::Progress;
use crate::audit;
use crate::db::TenantTx;

/// The product's own notes about an organization.
pub type Metadata = serde_json::Map<String, serde_json::Value>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Organization {
    pub id: Uuid,
    pub name: String,
    /// The plan in force.
    #[schema(example = "free")]
    pub plan_tier: String,
    /// The customer of new subscriptions.
    #[schema(required)]
    pub stripe_customer_id: Option<String>,
    /// The product's own id for the organization.
    #[schema(required)]
    pub external_id: Option<String>,
    #[schema(required)]
    pub email: Option<String>,
    /// The product's own notes.
    #[schema(value_type = HashMap<String, String>)]
    pub metadata: Metadata,
    pub created_at: jiff::Timestamp,
    /// When its personal data was erased; it takes no more changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erased_at: Option<jiff::Timestamp>,
    /// Since when it can only be read.
    #[schema(required)]
    pub archived_at: Option<jiff::Timestamp>,
}

/// Inserts the organization of `tx`; `None` if another one has its external id.
pub async fn insert(
    tx: &mut TenantTx,
    name: &str,
    plan_tier: &str,
    identity: &Identity,
) -> Result<Option<Organization>, sqlx::Error> {
    let id = tx.organization_id();
    let row = sqlx::query!(
        "INSERT INTO organizations (id, name, plan_tier, base_plan_tier, external_id, email, metadata)
         VALUES ($1, $2, $3, $3, $4, $5, $6)
         ON CONFLICT (external_id) WHERE external_id IS NOT NULL DO NOTHING
         RETURNING created_at",
        id,
        name,
        plan_tier,
        identity.external_id,
        identity.email,
        Json(&identity.metadata) as _
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(row.map(|row| Organization {
        id,
        name: name.to_owned(),
        plan_tier: plan_tier.to_owned(),
        stripe_customer_id: None,
        external_id: identity.external_id.clone(),
        email: identity.email.clone(),
        metadata: identity.metadata.clone(),
        created_at: row.created_at.to_jiff(),
        archived_at: None,
        erased_at: None,
    }))
}

/// Links a Stripe customer to the organization of `tx`; false if it is linked
/// already.
pub async fn insert_customer(tx: &mut TenantTx, customer_id: &str) -> Result<bool, sqlx::Error> {
    let organization_id = tx.organization_id();
    let inserted = sqlx::query_scalar!(
        "INSERT INTO billing_customers (stripe_customer_id, organization_id) VALUES ($1, $2)
         ON CONFLICT DO NOTHING RETURNING organization_id",
        customer_id,
        organization_id
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(inserted.is_some())
}

/// Lists all organizations, oldest first.
pub async fn list(conn: &mut PgConnection) -> Result<Vec<Organization>, sqlx::Error> {
    page(conn, None, i64::MAX).await
}

/// Lists up to `limit` organizations after a position, oldest first.
pub async fn page(
    conn: &mut PgConnection,
    after: Option<(jiff::Timestamp, Uuid)>,
    limit: i64,
) -> Result<Vec<Organization>, sqlx::Error> {
    let (created_at, id) = after.unzip();
    let rows = sqlx::query!(
        r#"SELECT o.id, o.name, o.plan_tier, o.created_at, o.external_id, o.email, o.archived_at,
                  o.erased_at,
                  o.metadata AS "metadata: Json<Metadata>",
                  (SELECT c.stripe_customer_id FROM billing_customers c
                    WHERE c.organization_id = o.id AND c.deleted_at IS NULL
                    ORDER BY c.linked_at DESC NULLS LAST, c.created_at, c.stripe_customer_id
                    LIMIT 1) AS customer
             FROM organizations o
            WHERE o.created_at >= coalesce($1::timestamptz, '-infinity')
              AND ($1 IS NULL OR (o.created_at, o.id) > ($1, $2))
            ORDER BY o.created_at, o.id LIMIT $3"#,
        created_at.map(|at| at.to_sqlx()) as _,
        id,
        limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Organization {
            id: row.id,
            name: row.name,
            plan_tier: row.plan_tier,
            stripe_customer_id: row.customer,
            external_id: row.external_id,
            email: row.email,
            metadata: row.metadata.0,
            created_at: row.created_at.to_jiff(),
            erased_at: row.erased_at.map(|at| at.to_jiff()),
            archived_at: row.archived_at.map(|at| at.to_jiff()),
        })
        .collect())
}

/// The plan of an organization; `None` if it does not exist.
pub async fn plan_tier(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT plan_tier FROM organizations WHERE id = $1",
        organization_id
    )
    .fetch_optional(conn)
    .await
}

/// Counts an organization's ended subscriptions, closed invoices and charges.
pub async fn sample_progress(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<Progress, sqlx::Error> {
    sqlx::query_as!(
        Progress,
        r#"SELECT (SELECT count(*) FROM billing_subscriptions
                    WHERE organization_id = $1 AND status IN ('canceled', 'incomplete_expired'))
                    AS "ended_subscriptions!",
                  (SELECT count(*) FROM billing_invoices
                    WHERE organization_id = $1 AND status IN ('paid', 'void', 'uncollectible'))
                    AS "closed_invoices!",
                  (SELECT count(*) FROM billing_charges WHERE organization_id = $1) AS "charges!""#,
        organization_id
    )
    .fetch_one(conn)
    .await
}

/// Appends `mark` to the names of the organizations called one of `names`; the
/// connection is the database owner's.
pub async fn mark(conn: &mut PgConnection, names: &[&str], mark: &str) -> Result<u64, sqlx::Error> {
    let marked = sqlx::query!(
        "UPDATE organizations SET name = name || $2 WHERE name = ANY($1)",
        names as &[&str],
        mark
    )
    .execute(conn)
    .await?;
    Ok(marked.rows_affected())
}

/// What the product says of an organization, besides its name.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// The product's own id for the organization.
    pub external_id: Option<String>,
    pub email: Option<String>,
    pub metadata: Metadata,
}

/// Finds an organization by its id or, failing that, its external id.
pub async fn find(conn: &mut PgConnection, named: &str) -> Result<Option<Uuid>, sqlx::Error> {
    let id: Option<Uuid> = named.parse().ok();
    sqlx::query_scalar!(
        "SELECT id FROM organizations WHERE id = $1 OR external_id = $2
          ORDER BY (id = $1) DESC NULLS LAST LIMIT 1",
        id,
        named
    )
    .fetch_optional(conn)
    .await
}

/// The organization that is named as [`find`] does, or else one that is gone and whose audit
/// log is still there.
pub async fn find_logged(
    conn: &mut PgConnection,
    named: &str,
) -> Result<Option<Uuid>, sqlx::Error> {
    if let Some(id) = find(&mut *conn, named).await? {
        return Ok(Some(id));
    }
    let Ok(id) = named.parse() else {
        return Ok(None);
    };
    Ok(audit::has_log(conn, id).await?.then_some(id))
}

/// The names of these organizations.
pub async fn names(
    conn: &mut PgConnection,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, String>, sqlx::Error> {
    let rows = sqlx::query!("SELECT id, name FROM organizations WHERE id = ANY($1)", ids)
        .fetch_all(conn)
        .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.name)).collect())
}

/// The organization a Stripe customer is linked to.
pub async fn customer_owner(
    conn: &mut PgConnection,
    customer_id: &str,
) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT organization_id FROM billing_customers WHERE stripe_customer_id = $1",
        customer_id
    )
    .fetch_optional(conn)
    .await
}

/// The organization that has a subscription of Stripe's.
pub async fn subscription_owner(
    conn: &mut PgConnection,
    subscription_id: &str,
) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT organization_id FROM billing_subscriptions WHERE stripe_subscription_id = $1 LIMIT 1",
        subscription_id
    )
    .fetch_optional(conn)
    .await
}

/// Makes this the customer of new subscriptions of the organization of `tx`.
pub async fn prefer_customer(tx: &mut TenantTx, customer_id: &str) -> Result<(), sqlx::Error> {
    let organization_id = tx.organization_id();
    sqlx::query!(
        "UPDATE billing_customers SET linked_at = clock_timestamp()
          WHERE organization_id = $1 AND stripe_customer_id = $2",
        organization_id,
        customer_id
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// The customer of an organization's new subscriptions.
pub async fn current_customer(
    conn: &mut PgConnection,
    organization_id: Uuid,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT stripe_customer_id FROM billing_customers
          WHERE organization_id = $1 AND deleted_at IS NULL
            AND stripe_customer_id NOT LIKE 'acct\\_%'
          ORDER BY linked_at DESC NULLS LAST, created_at, stripe_customer_id LIMIT 1",
        organization_id
    )
    .fetch_optional(conn)
    .await
}

/// The subscriptions of an organization that run on another customer: their ids and customers.
pub async fn running_elsewhere(
    conn: &mut PgConnection,
    organization_id: Uuid,
    customer_id: &str,
) -> Result<Vec<(String, String)>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT stripe_subscription_id, stripe_customer_id FROM billing_subscriptions
          WHERE organization_id = $1 AND stripe_customer_id <> $2
            AND status NOT IN ('canceled', 'incomplete_expired')
          ORDER BY 1",
        organization_id,
        customer_id
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.stripe_subscription_id, row.stripe_customer_id))
        .collect())
}

/// A subscription of the organization that this customer pays for.
pub async fn running_on(
    conn: &mut PgConnection,
    organization_id: Uuid,
    customer_id: &str,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT min(stripe_subscription_id) AS "id" FROM billing_subscriptions
            WHERE organization_id = $1 AND stripe_customer_id = $2
              AND status NOT IN ('canceled', 'incomplete_expired')"#,
        organization_id,
        customer_id
    )
    .fetch_one(conn)
    .await
}

/// An invoice of this customer that may still be paid, and its status.
pub async fn unpaid_of(
    conn: &mut PgConnection,
    organization_id: Uuid,
    customer_id: &str,
) -> Result<Option<(String, String)>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT stripe_invoice_id, status AS "status!" FROM billing_invoices
            WHERE organization_id = $1 AND stripe_customer_id = $2
              AND status IN ('draft', 'open', 'uncollectible')
            ORDER BY 1 LIMIT 1"#,
        organization_id,
        customer_id
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| (row.stripe_invoice_id, row.status)))
}

/// Takes the link to a customer back; false if there is none.
pub async fn delete_customer(tx: &mut TenantTx, customer_id: &str) -> Result<bool, sqlx::Error> {
    let organization_id = tx.organization_id();
    let deleted = sqlx::query!(
        "DELETE FROM billing_customers WHERE organization_id = $1 AND stripe_customer_id = $2",
        organization_id,
        customer_id
    );
    Ok(deleted.execute(tx.conn()).await?.rows_affected() > 0)
}

/// Whether a customer of the organization was deleted in Stripe.
pub async fn is_deleted(
    conn: &mut PgConnection,
    organization_id: Uuid,
    customer_id: &str,
) -> Result<bool, sqlx::Error> {
    let deleted = sqlx::query_scalar!(
        r#"SELECT deleted_at IS NOT NULL AS "deleted!" FROM billing_customers
            WHERE organization_id = $1 AND stripe_customer_id = $2"#,
        organization_id,
        customer_id
    )
    .fetch_optional(conn)
    .await?;
    Ok(deleted.unwrap_or(false))
}

/// Records that a customer was deleted in Stripe; false if that was known.
pub async fn mark_customer_deleted(
    tx: &mut TenantTx,
    customer_id: &str,
) -> Result<bool, sqlx::Error> {
    let organization_id = tx.organization_id();
    let marked = sqlx::query_scalar!(
        "UPDATE billing_customers SET deleted_at = now()
          WHERE organization_id = $1 AND stripe_customer_id = $2 AND deleted_at IS NULL
          RETURNING stripe_customer_id",
        organization_id,
        customer_id
    )
    .fetch_optional(tx.conn())
    .await?;
    Ok(marked.is_some())
}
