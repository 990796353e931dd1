//! Payment methods: what a customer pays with.

use billing_domain::event_order::Place;
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::versions::Mirrored;
use super::versions::apply;
use super::{Effects, PaymentMethod, Results, store};
use crate::stripe::objects::BillingObject;

impl Mirrored for PaymentMethod {
    const RESOURCE: &'static str = "payment_method";

    fn of(object: &BillingObject) -> Option<&Self> {
        match object {
            BillingObject::PaymentMethod(method) => Some(method),
            _ => None,
        }
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn place(&self, event_type: &str, created: i64) -> Place {
        // What was detached once cannot be attached again; what is changed
        // while it is nobody's may yet be.
        let changed = event_type.ends_with("updated");
        Place {
            terminal: self.status == "detached" && !changed,
            created,
            rank: u8::from(changed),
        }
    }
}

pub async fn apply(
    conn: &mut PgConnection,
    results: &mut Results<'_>,
    effects: &mut Effects,
) -> Result<(), sqlx::Error> {
    let keys: Vec<apply::Key> = results.by_object::<PaymentMethod>().into_keys().collect();
    if keys.is_empty() {
        return Ok(());
    }
    let stored = store::payment_methods::load(conn, &keys).await?;
    let folded =
        apply::fold_objects::<PaymentMethod>(conn, results, effects, &stored, |_, method, _| {
            summary(method)
        })
        .await?;
    store::payment_methods::save(conn, &folded).await
}

fn summary(method: &PaymentMethod) -> Value {
    json!({
        "status": method.status,
        "type": method.kind,
        "brand": method.brand,
        "last4": method.last4,
        "expMonth": method.exp_month,
        "expYear": method.exp_year,
        "funding": method.funding,
        "country": method.country,
    })
}
