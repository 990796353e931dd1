//! Balance transactions: the effect of charges and refunds on the account's
//! balance. The sandbox charges no fees.

use serde_json::{Value, json};

use crate::call::{Call, Route, get};
use crate::error::ApiError;
use crate::state::State;

pub const ROUTES: &[Route] = &[get("/v1/balance_transactions/{id}", retrieve)];

/// How long Stripe holds funds before they are available.
const PENDING_SECS: i64 = 7 * 86_400;

/// The charge or refund that moved money.
struct Movement<'a> {
    created_secs: i64,
    amount: i64,
    currency: &'a str,
    source: &'a str,
    kind: &'static str,
}

/// The transaction with this id, if a charge or refund has one.
#[must_use]
pub fn render(state: &State, id: &str) -> Option<Value> {
    let tail = id.strip_prefix("txn_")?;
    let charge = state.charges.get(&format!("ch_{tail}"));
    let refund = state.refunds.get(&format!("re_{tail}"));
    let movement = match (charge, refund) {
        (Some(charge), _) if charge.decline.is_none() => Movement {
            created_secs: charge.created_secs,
            amount: charge.amount,
            currency: &charge.currency,
            source: &charge.id,
            kind: "charge",
        },
        (_, Some(refund)) => Movement {
            created_secs: refund.created_secs,
            amount: -refund.amount,
            currency: &refund.currency,
            source: &refund.id,
            kind: "refund",
        },
        _ => return None,
    };
    Some(json!({
        "id": id,
        "object": "balance_transaction",
        "amount": movement.amount,
        "available_on": movement.created_secs + PENDING_SECS,
        "balance_type": "payments",
        "created": movement.created_secs,
        "currency": movement.currency,
        "description": null,
        "exchange_rate": null,
        "fee": 0,
        "fee_details": [],
        "net": movement.amount,
        "reporting_category": movement.kind,
        "source": movement.source,
        "status": "pending",
        "type": movement.kind,
    }))
}

fn retrieve(call: &mut Call<'_>) -> Result<Value, ApiError> {
    call.no_params()?;
    let id = call.id();
    render(call.state, &id).ok_or_else(|| ApiError::no_such("balance transaction", &id, "id"))
}
