//! Charges and disputes as they are mirrored.

use std::collections::BTreeMap;

use sqlx::PgConnection;
use uuid::Uuid;

use crate::tenancy::organizations::sample;

/// A mirrored charge.
pub struct MirroredCharge {
    pub status: String,
    pub currency: String,
    pub amount: i64,
    pub amount_captured: i64,
    pub amount_refunded: i64,
    pub disputed: bool,
}

/// The mirrored charges of `ids`, by id.
pub async fn charges(
    conn: &mut PgConnection,
    ids: &[String],
) -> Result<BTreeMap<String, MirroredCharge>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT stripe_charge_id, status, currency, amount, amount_captured, amount_refunded,
                disputed
           FROM billing_charges WHERE stripe_charge_id = ANY($1)",
        ids
    )
    .fetch_all(conn)
    .await?;
    let mirrored = rows.into_iter().map(|row| {
        let mirrored = MirroredCharge {
            status: row.status,
            currency: row.currency,
            amount: row.amount,
            amount_captured: row.amount_captured,
            amount_refunded: row.amount_refunded,
            disputed: row.disputed,
        };
        (row.stripe_charge_id, mirrored)
    });
    Ok(mirrored.collect())
}

/// A mirrored dispute.
pub struct MirroredDispute {
    pub organization_id: Uuid,
    pub charge_id: String,
    pub status: String,
    pub reason: Option<String>,
    pub currency: String,
    pub amount: i64,
}

/// The mirrored disputes of `ids`, and those that no bank has decided yet, by id.
pub async fn disputes(
    conn: &mut PgConnection,
    ids: &[String],
) -> Result<BTreeMap<String, MirroredDispute>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT organization_id, stripe_dispute_id, stripe_charge_id, status, reason, currency,
                amount
           FROM billing_disputes
          WHERE organization_id <> $2
            AND (stripe_dispute_id = ANY($1)
                 OR status NOT IN ('won', 'lost', 'warning_closed', 'prevented'))",
        ids,
        sample::ID
    )
    .fetch_all(conn)
    .await?;
    let mirrored = rows.into_iter().map(|row| {
        let mirrored = MirroredDispute {
            organization_id: row.organization_id,
            charge_id: row.stripe_charge_id,
            status: row.status,
            reason: row.reason,
            currency: row.currency,
            amount: row.amount,
        };
        (row.stripe_dispute_id, mirrored)
    });
    Ok(mirrored.collect())
}
