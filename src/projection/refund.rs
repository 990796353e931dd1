//! Projects refunds, which may fail long after they had succeeded.

use billing_domain::event_order::EventOrder;
use billing_domain::money;
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::decode::Decoded;
use super::store;
use super::types::{Effects, NewAlert, Results};
use super::versions::{Mirrored, merge};
use crate::stripe::objects::{BillingObject, Refund};

impl Mirrored for Refund {
    const RESOURCE: &'static str = "refund";

    fn of(object: &BillingObject) -> Option<&Self> {
        match object {
            BillingObject::Refund(refund) => Some(refund),
            _ => None,
        }
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn order(&self, _: &str, created: i64) -> EventOrder {
        EventOrder {
            terminal: self.is_returned(),
            created,
            rank: u8::from(!matches!(
                self.status.as_str(),
                "pending" | "requires_action"
            )),
        }
    }
}

pub async fn apply(
    conn: &mut PgConnection,
    results: &mut Results<'_>,
    effects: &mut Effects,
) -> Result<(), sqlx::Error> {
    let keys: Vec<merge::ObjectKey> = results.by_object::<Refund>().into_keys().collect();
    if keys.is_empty() {
        return Ok(());
    }
    let stored = store::refunds::load(conn, &keys).await?;
    let merged =
        merge::merge_events::<Refund>(conn, results, effects, &stored, |_, o, _| summary(o))
            .await?;
    store::refunds::save(conn, &merged).await?;
    let alerts = results.decoded.iter().filter_map(failed);
    effects.alerts.extend(alerts);
    Ok(())
}

/// Several types of event may tell the same failure.
fn failed(event: &Decoded<'_>) -> Option<NewAlert> {
    let refund = Refund::of(&event.object).filter(|refund| refund.status == "failed")?;
    let amount = money::display(refund.amount, &refund.currency);
    let (kind, paid) = match &refund.charge_id {
        Some(charge) => ("charge", charge),
        None => (Refund::RESOURCE, &refund.id),
    };
    let why = refund.failure_reason.as_deref();
    Some(NewAlert {
        organization_id: event.owner?,
        kind: "refund_failed",
        key: refund.id.clone(),
        resource_type: kind,
        resource_id: paid.clone(),
        message: format!(
            "the refund of {amount} of {kind} {paid} failed ({}): the customer does not have the money, \
             so pay it back in another way",
            why.unwrap_or("no reason given")
        ),
        occurred_at: event.stored.created,
    })
}

fn summary(refund: &Refund) -> Value {
    json!({
        "chargeId": refund.charge_id,
        "status": refund.status,
        "reason": refund.reason,
        "failureReason": refund.failure_reason,
        "amount": refund.amount,
        "currency": refund.currency,
    })
}
