//! Erased organizations: what events bring about them is applied for its amounts, and what is
//! personal in it goes again in the same transaction.

use std::collections::{BTreeSet, HashSet};

use sqlx::PgConnection;
use uuid::Uuid;

use super::decode::Decoded;
pub use super::store::erasure::{clear_alerts, clear_texts, delete_payment_methods};
use super::types::{Handled, HandlerError};
use crate::audit;
use crate::event_log;
use crate::stripe::objects::BillingObject;

/// Those of the events' organizations that were erased.
pub(super) async fn erased(
    conn: &mut PgConnection,
    decoded: &[Decoded<'_>],
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let owners: BTreeSet<Uuid> = decoded.iter().filter_map(|event| event.owner).collect();
    let owners: Vec<Uuid> = owners.into_iter().collect();
    audit::erased(conn, &owners).await
}

/// Clears what was written about those of `organizations` that were erased before.
pub async fn clear_again(
    conn: &mut PgConnection,
    organizations: &[Uuid],
) -> Result<(), sqlx::Error> {
    for erased in audit::erased(conn, organizations).await? {
        clear_texts(conn, erased).await?;
    }
    Ok(())
}

/// Leaves out events of `erased` organizations that have nothing but personal data, and empties
/// the payloads of all that are about them.
pub(super) async fn empty_events(
    conn: &mut PgConnection,
    erased: &HashSet<Uuid>,
    decoded: &mut Vec<Decoded<'_>>,
    results: &mut [Option<Result<Handled, HandlerError>>],
) -> Result<(), sqlx::Error> {
    let is_about = |event: &Decoded<'_>| event.owner.filter(|owner| erased.contains(owner));
    let about: Vec<(i16, &str)> = decoded
        .iter()
        .filter(|event| is_about(event).is_some())
        .map(|event| (event.stored.bucket, event.stored.id.as_str()))
        .collect();
    event_log::empty(conn, &about).await?;
    decoded.retain(|event| match (is_about(event), &event.object) {
        (Some(owner), BillingObject::PaymentMethod(_)) => {
            results[event.index] = Some(Ok(Handled::Superseded(owner)));
            false
        }
        _ => true,
    });
    Ok(())
}

/// Erases once more what `erased` organizations have in the mirror.
pub(super) async fn erase_again(
    conn: &mut PgConnection,
    erased: &HashSet<Uuid>,
) -> Result<(), sqlx::Error> {
    for organization in erased {
        delete_payment_methods(conn, *organization).await?;
        clear_texts(conn, *organization).await?;
        clear_alerts(conn, *organization).await?;
    }
    Ok(())
}
