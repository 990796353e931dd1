//! Benchmarks of the local preview. Run with `cargo bench -p billing-domain`.

use billing_domain::period::{Cadence, Period};
use billing_domain::preview::{
    BillingMode, ItemChange, ItemTerms, PlanChange, ProrationBehavior, preview,
};
use billing_domain::proration::Charge;
use divan::{Bencher, black_box};

/// 2026-01-31T10:00:00Z.
const START: i64 = 1_769_853_600;

fn main() {
    divan::main();
}

fn change(from: i64, to: i64, cadence: Cadence) -> PlanChange<'static> {
    let terms = |price_id, unit_amount, cadence| ItemTerms {
        price_id,
        charge: Charge {
            unit_amount,
            quantity: 1,
        },
        cadence,
    };
    PlanChange {
        item: ItemChange {
            before: Some(terms("before", from, Cadence::MONTHLY)),
            after: Some(terms("after", to, cadence)),
            last_debited: None,
        },
        period: Period::from_seconds(START, START + 28 * 86_400).expect("a period"),
        change_at_secs: START + 1_234_567,
        mode: BillingMode::Classic,
        proration_behavior: ProrationBehavior::AlwaysInvoice,
        on_trial: false,
    }
}

#[divan::bench]
fn upgrade(bencher: Bencher<'_, '_>) {
    let change = change(9_900, 49_900, Cadence::MONTHLY);
    bencher.bench(|| preview(black_box(&change)));
}

/// A change of interval restarts the period, which needs calendar arithmetic.
#[divan::bench]
fn change_of_interval(bencher: Bencher<'_, '_>) {
    let change = change(9_900, 99_000, Cadence::YEARLY);
    bencher.bench(|| preview(black_box(&change)));
}

/// The period lookup that precedes every preview.
#[divan::bench]
fn period_of_the_change(bencher: Bencher<'_, '_>) {
    bencher.bench(|| Cadence::MONTHLY.period_containing(black_box(START), START + 1_234_567));
}
