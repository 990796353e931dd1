//! Add-ons raise the quota of a period that goes on. What is over it already stays to be
//! paid: it is charged as usage whose price goes, so that an add-on which is bought on the
//! last day covers what is used from then on, and buys off nothing.

use rust_decimal::Decimal;
use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;
use uuid::Uuid;

use billing_domain::quantity::whole_units;

use super::booking::{Booked, Charged};
use super::store::{self, NewCharge, OverSoFar};
use crate::catalogue::Plan;
use crate::metering::usage;

/// Charges `organizations` for what they are over the quotas by that the add-ons of `plan`
/// raise. Call it before their quotas change. `swapped` has been settled: a price that goes
/// charges its usage, or leaves it to the quota that follows, if there is one.
pub async fn keep_over(
    conn: &mut PgConnection,
    plan: &Plan,
    organizations: &[Uuid],
    swapped: &[Booked],
) -> Result<Vec<Booked>, sqlx::Error> {
    store::lock_all(conn, organizations).await?;
    let mut kept = Vec::new();
    for over in store::over_so_far(conn, plan, organizations).await? {
        let settled = swapped
            .iter()
            .any(|one| one.is_of(over.swap.organization_id, &over.swap.metric));
        if over.freed || !settled {
            kept.extend(keep(conn, over).await?);
        }
    }
    Ok(kept)
}

/// Enters the charge, whose units the period's quota then has. An amount of nothing is not
/// charged.
async fn keep(conn: &mut PgConnection, over: OverSoFar) -> Result<Option<Booked>, sqlx::Error> {
    let units = whole_units((over.used - over.adjustment - over.quota).max(Decimal::ZERO));
    let amount = usage::overage_amount(units, over.rate, &over.currency);
    let (Some(amount), Some(price)) = (amount.filter(|amount| *amount > 0), &over.swap.old_price)
    else {
        return Ok(None);
    };
    let charged = Charged {
        id: id_of(&over),
        units,
        amount,
        currency: over.currency.clone(),
        by: "item",
    };
    let new = NewCharge {
        id: charged.id,
        price_id: price,
        units,
        rate: over.rate,
        amount,
        currency: &over.currency,
        by: charged.by,
    };
    if !store::enter(conn, &over.swap, &new).await? {
        return Ok(None);
    }
    store::add_adjustment(conn, &over.swap, units).await?;
    Ok(Some(Booked {
        quota: Some(over.quota),
        used: over.used,
        adjustment: over.adjustment,
        overridden: false,
        charged: Some(charged),
        swap: over.swap,
    }))
}

/// One id for one charge: each moves the adjustment.
fn id_of(over: &OverSoFar) -> Uuid {
    let what = format!(
        "raised\n{}\n{}\n{}\n{}",
        over.swap.subscription_id,
        over.swap.metric,
        over.swap.period_start.as_microsecond(),
        over.adjustment.normalize()
    );
    let digest = Sha256::digest(what);
    let bytes = digest.first_chunk::<16>().copied().unwrap_or_default();
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}
