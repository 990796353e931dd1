//! Projects charges, the attempts to collect money.

use std::collections::BTreeSet;

use billing_domain::event_order::EventOrder;
use billing_domain::money;
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::decode::Decoded;
use super::store;
use super::types::{Effects, NewAlert, Results};
use super::versions::{Mirrored, merge};
use crate::stripe::objects::{BillingObject, Charge};

impl Mirrored for Charge {
    const RESOURCE: &'static str = "charge";

    fn of(object: &BillingObject) -> Option<&Self> {
        match object {
            BillingObject::Charge(charge) => Some(charge),
            _ => None,
        }
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn order(&self, event_type: &str, created: i64) -> EventOrder {
        // A bank debit may fail after it succeeded, and a payment may be refunded
        // in parts.
        let rank = match self.status.as_str() {
            _ if event_type == "charge.refunded" => 3 + u8::from(self.refunded),
            "pending" => 0,
            "succeeded" => 1,
            _ => 2,
        };
        EventOrder {
            terminal: false,
            created,
            rank,
        }
    }
}

pub async fn apply(
    conn: &mut PgConnection,
    results: &mut Results<'_>,
    effects: &mut Effects,
) -> Result<(), sqlx::Error> {
    let keys: Vec<merge::ObjectKey> = results.by_object::<Charge>().into_keys().collect();
    if keys.is_empty() {
        return Ok(());
    }
    let stored = store::charges::load(conn, &keys).await?;
    let merged = merge::merge_events::<Charge>(conn, results, effects, &stored, |_, charge, _| {
        summary(charge)
    })
    .await?;
    store::charges::save(conn, &merged).await?;
    let alerts = results.decoded.iter().filter_map(refunded);
    effects.alerts.extend(alerts);
    Ok(())
}

/// Updates the batch's charges from other objects: the invoice that they paid,
/// whether they are disputed, and which refunds have failed.
pub async fn link(conn: &mut PgConnection, decoded: &[Decoded<'_>]) -> Result<(), sqlx::Error> {
    let mut named = BTreeSet::new();
    for event in decoded {
        let Some(owner) = event.owner else { continue };
        let id = match &event.object {
            BillingObject::Charge(charge) => Some(&charge.id),
            BillingObject::Dispute(dispute) => Some(&dispute.charge_id),
            BillingObject::Refund(refund) => refund.charge_id.as_ref(),
            BillingObject::InvoicePayment(payment) => payment
                .charge_id
                .as_ref()
                .or(payment.payment_intent_id.as_ref()),
            _ => None,
        };
        named.extend(id.map(|id| (owner, id.clone())));
    }
    store::charges::link(conn, &Vec::from_iter(named)).await
}

fn refunded(event: &Decoded<'_>) -> Option<NewAlert> {
    let charge = Charge::of(&event.object)?;
    if event.stored.event_type != "charge.refunded" {
        return None;
    }
    let display = |amount| money::display(amount, &charge.currency);
    Some(NewAlert {
        organization_id: event.owner?,
        kind: "charge_refunded",
        key: format!("{}: {}", charge.id, charge.amount_refunded),
        resource_type: Charge::RESOURCE,
        resource_id: charge.id.clone(),
        message: format!(
            "{} of {} of charge {} were refunded",
            display(charge.amount_refunded),
            display(charge.amount),
            charge.id
        ),
        occurred_at: event.stored.created,
    })
}

fn summary(charge: &Charge) -> Value {
    json!({
        "status": charge.status,
        "amount": charge.amount,
        "amountCaptured": charge.amount_captured,
        "amountRefunded": charge.amount_refunded,
        "refunded": charge.refunded,
        "currency": charge.currency,
        "failureCode": charge.failure_code,
    })
}
