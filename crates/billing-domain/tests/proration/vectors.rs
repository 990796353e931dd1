//! The vectors in `proration-vectors.json`, half of which were recorded from
//! Stripe.

use std::path::Path;

use billing_domain::period::{Cadence, Period};
use billing_domain::preview::{
    BillingMode, ItemChange, ItemTerms, PlanChange, ProrationBehavior, preview,
};
use billing_domain::proration::Charge;
use serde::Deserialize;

#[derive(Deserialize)]
struct Vector {
    name: String,
    old_unit_amount: Option<i64>,
    new_unit_amount: Option<i64>,
    quantity_old: Option<u64>,
    quantity_new: Option<u64>,
    period_start: i64,
    period_end: i64,
    proration_at: i64,
    expected_credit: Option<i64>,
    expected_debit: Option<i64>,
    mode: String,
}

fn charge(unit_amount: Option<i64>, quantity: Option<u64>) -> Option<Charge> {
    Some(Charge {
        unit_amount: unit_amount?,
        quantity: quantity?,
    })
}

fn terms(charge: Charge, price_id: &str) -> ItemTerms<'_> {
    ItemTerms {
        price_id,
        charge,
        cadence: Cadence::MONTHLY,
    }
}

fn check(vector: &Vector) {
    let old = charge(vector.old_unit_amount, vector.quantity_old);
    let new = charge(vector.new_unit_amount, vector.quantity_new);
    // A flexible vector states the last debit rather than the item's current
    // configuration, so equal amounts do not mean that nothing changed.
    let flexible = vector.mode == "flexible";
    let unchanged = !flexible && old == new;
    let change = PlanChange {
        item: ItemChange {
            before: old.map(|charge| terms(charge, "price_old")),
            after: new
                .map(|charge| terms(charge, if unchanged { "price_old" } else { "price_new" })),
            last_debited: old.filter(|_| flexible),
        },
        period: Period::from_seconds(vector.period_start, vector.period_end).expect("a period"),
        change_at_secs: vector.proration_at,
        mode: if flexible {
            BillingMode::Flexible
        } else {
            BillingMode::Classic
        },
        proration_behavior: ProrationBehavior::AlwaysInvoice,
        on_trial: false,
    };
    let preview = preview(&change).expect("within range");
    assert_eq!(
        preview.lines.credit, vector.expected_credit,
        "credit of {}",
        vector.name
    );
    assert_eq!(
        preview.lines.debit, vector.expected_debit,
        "debit of {}",
        vector.name
    );
    let net = vector.expected_credit.unwrap_or(0) + vector.expected_debit.unwrap_or(0);
    assert_eq!(preview.due_now, net, "due now of {}", vector.name);
}

#[test]
fn every_recorded_vector_is_reproduced_to_the_cent() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/proration-vectors.json");
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    let vectors: Vec<Vector> = serde_json::from_str(&text).expect("well-formed vectors");
    assert!(vectors.len() >= 30, "only {} vectors", vectors.len());
    vectors.iter().for_each(check);
}
