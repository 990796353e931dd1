//! Projects disputes.

use billing_domain::event_order::EventOrder;
use billing_domain::money;
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::decode::Decoded;
use super::store;
use super::types::{Effects, NewAlert, Results};
use super::versions::{Mirrored, merge};
use crate::stripe::objects::{BillingObject, Dispute};

impl Mirrored for Dispute {
    const RESOURCE: &'static str = "dispute";

    fn of(object: &BillingObject) -> Option<&Self> {
        match object {
            BillingObject::Dispute(dispute) => Some(dispute),
            _ => None,
        }
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn order(&self, event_type: &str, created: i64) -> EventOrder {
        let closed = event_type == "charge.dispute.closed";
        EventOrder {
            terminal: closed || self.is_closed(),
            created,
            rank: u8::from(closed),
        }
    }
}

pub async fn apply(
    conn: &mut PgConnection,
    results: &mut Results<'_>,
    effects: &mut Effects,
) -> Result<(), sqlx::Error> {
    let keys: Vec<merge::ObjectKey> = results.by_object::<Dispute>().into_keys().collect();
    if keys.is_empty() {
        return Ok(());
    }
    let stored = store::disputes::load(conn, &keys).await?;
    let merged =
        merge::merge_events::<Dispute>(conn, results, effects, &stored, |_, o, _| summary(o))
            .await?;
    store::disputes::save(conn, &merged).await?;
    let alerts = results.decoded.iter().filter_map(alert);
    effects.alerts.extend(alerts);
    Ok(())
}

fn alert(event: &Decoded<'_>) -> Option<NewAlert> {
    let dispute = Dispute::of(&event.object)?;
    let amount = money::display(dispute.amount, &dispute.currency);
    let (kind, message) = if event.stored.event_type == "charge.dispute.created" {
        let due = match dispute.evidence_due_by {
            Some(at) => format!("evidence is due by {at}"),
            None => "see Stripe's dashboard".to_owned(),
        };
        let reason = dispute.reason.as_deref().unwrap_or("no reason given");
        (
            "payment_disputed",
            format!(
                "{amount} of charge {} are disputed ({reason}); {due}",
                dispute.charge_id
            ),
        )
    } else {
        (
            "dispute_closed",
            format!(
                "the dispute of {amount} of charge {} ended: {}",
                dispute.charge_id, dispute.status
            ),
        )
    };
    Some(NewAlert {
        organization_id: event.owner?,
        kind,
        key: dispute.id.clone(),
        resource_type: "charge",
        resource_id: dispute.charge_id.clone(),
        message,
        occurred_at: event.stored.created,
    })
}

fn summary(dispute: &Dispute) -> Value {
    json!({
        "chargeId": dispute.charge_id,
        "status": dispute.status,
        "reason": dispute.reason,
        "amount": dispute.amount,
        "currency": dispute.currency,
        "evidenceDueBy": dispute.evidence_due_by,
    })
}
