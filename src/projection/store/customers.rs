//! SQL of customers and their owners.

use std::collections::{HashMap, HashSet};

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{document, unzip, version};
use crate::projection::versions::merge::{MergedObject, ObjectKey, Stored, StoredRows};
use crate::stripe::objects::Customer;

/// The stored customers that an event has been applied to.
pub async fn load(conn: &mut PgConnection, keys: &[ObjectKey]) -> Result<StoredRows, sqlx::Error> {
    let (organizations, ids) = unzip(keys);
    let rows = sqlx::query!(
        r#"SELECT organization_id, stripe_customer_id, deleted_at IS NOT NULL AS "deleted!", delinquent,
                  currency, default_payment_method_id, discount_ids,
                  coalesce(tax_located, false) AS "tax_located!", last_event_at AS "last_event_at!",
                  last_event_rank AS "last_event_rank!", last_event_id AS "last_event_id!",
                  tied_event_ids AS "tied_event_ids!"
             FROM unnest($1::uuid[], $2::text[]) AS wanted(organization, id)
             JOIN billing_customers row
               ON row.organization_id = wanted.organization AND row.stripe_customer_id = wanted.id
            WHERE last_event_id IS NOT NULL"#,
        &organizations,
        &ids as &[&str]
    )
    .fetch_all(conn)
    .await?;
    let stored = rows.into_iter().map(|row| {
        let summary = json!({
            "deleted": row.deleted,
            "delinquent": row.delinquent,
            "currency": row.currency,
            "defaultPaymentMethodId": row.default_payment_method_id,
            "discounts": row.discount_ids.unwrap_or_default(),
            "taxLocated": row.tax_located,
        });
        let version = version(
            row.last_event_at,
            row.last_event_rank,
            row.last_event_id,
            row.tied_event_ids,
        );
        (
            (row.organization_id, row.stripe_customer_id),
            Stored { summary, version },
        )
    });
    Ok(stored.collect())
}

/// Writes customers that belong to an organization.
pub async fn save(
    conn: &mut PgConnection,
    changed: &[MergedObject<Customer>],
) -> Result<(), sqlx::Error> {
    if changed.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = changed.iter().map(MergedObject::row).collect();
    sqlx::query!(
        "UPDATE billing_customers c
            SET deleted_at = CASE WHEN new.deleted THEN new.last_event_at END,
                delinquent = new.delinquent, currency = new.currency,
                default_payment_method_id = new.default_payment_method_id,
                discount_ids = new.discount_ids, tax_country = new.tax_country,
                tax_located = new.tax_located, last_event_at = new.last_event_at, last_event_rank = new.last_event_rank,
                last_event_id = new.last_event_id, tied_event_ids = new.tied_event_ids
           FROM json_to_recordset($1::text::json)
             AS new(organization_id uuid, stripe_customer_id text, deleted boolean, delinquent boolean,
                    currency text, default_payment_method_id text, discount_ids text[],
                    tax_country text, tax_located boolean, last_event_at timestamptz,
                    last_event_rank smallint, last_event_id text, tied_event_ids text[])
          WHERE c.organization_id = new.organization_id
            AND c.stripe_customer_id = new.stripe_customer_id",
        document(&rows)?
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub async fn organizations_of_customers(
    conn: &mut PgConnection,
    customers: &HashSet<&str>,
) -> Result<HashMap<String, Uuid>, sqlx::Error> {
    let customers: Vec<&str> = customers.iter().copied().collect();
    let rows = sqlx::query!(
        "SELECT stripe_customer_id, organization_id FROM billing_customers
          WHERE stripe_customer_id = ANY($1)",
        &customers as &[&str]
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.stripe_customer_id, row.organization_id))
        .collect())
}

/// For each of `organizations`, a customer that is not deleted in Stripe, if it
/// has one.
pub async fn customers_of(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<HashMap<Uuid, String>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT DISTINCT ON (organization_id) organization_id, stripe_customer_id
           FROM billing_customers
          WHERE organization_id = ANY($1) AND deleted_at IS NULL
          ORDER BY organization_id, linked_at DESC NULLS LAST, created_at DESC, stripe_customer_id",
        organizations
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.organization_id, row.stripe_customer_id))
        .collect())
}

/// Customers that joined an organization by their metadata within the last 30 days
/// although it had another one, except those that were linked since.
pub async fn second_customers(
    conn: &mut PgConnection,
    limit: i64,
) -> Result<Vec<(Uuid, String)>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT organization_id, resource_id FROM billing_alerts a
          WHERE kind = 'second_customer' AND created_at > now() - interval '30 days'
            AND EXISTS (SELECT FROM billing_customers c
                         WHERE c.organization_id = a.organization_id
                           AND c.stripe_customer_id = a.resource_id
                           AND c.deleted_at IS NULL AND c.linked_at IS NULL)
          ORDER BY created_at DESC LIMIT $1",
        limit
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.organization_id, row.resource_id))
        .collect())
}

/// Assigns each customer to its organization. Returns those that belong to another
/// one by now.
pub async fn remember_customers(
    conn: &mut PgConnection,
    customers: &HashMap<&str, Uuid>,
) -> Result<HashSet<String>, sqlx::Error> {
    if customers.is_empty() {
        return Ok(HashSet::new());
    }
    let (ids, organizations): (Vec<&str>, Vec<Uuid>) =
        customers.iter().map(|(c, o)| (*c, *o)).unzip();
    sqlx::query!(
        "INSERT INTO billing_customers (stripe_customer_id, organization_id)
         SELECT * FROM unnest($1::text[], $2::uuid[]) AS t(customer, organization)
          ORDER BY customer
         ON CONFLICT DO NOTHING",
        &ids as &[&str],
        &organizations
    )
    .execute(&mut *conn)
    .await?;
    let lost = sqlx::query_scalar!(
        r#"SELECT customer AS "customer!"
             FROM unnest($1::text[], $2::uuid[]) AS t(customer, organization)
            WHERE NOT EXISTS (SELECT FROM billing_customers c
                               WHERE c.stripe_customer_id = t.customer
                                 AND c.organization_id = t.organization)"#,
        &ids as &[&str],
        &organizations
    )
    .fetch_all(conn)
    .await?;
    Ok(lost.into_iter().collect())
}
