//! Properties that hold for every proration, whatever the prices and times.

use billing_domain::period::{Cadence, Interval, Period};
use billing_domain::preview::{
    BillingMode, ItemChange, ItemTerms, PlanChange, ProrationBehavior, preview,
};
use billing_domain::proration::{Charge, Proration, ProrationError, ProrationLines, prorate};
use proptest::prelude::*;

/// Ten thousand years.
const LONGEST_SECS: i64 = 315_360_000_000;

fn charges() -> impl Strategy<Value = Charge> {
    prop_oneof![
        (0..=1_000_000_i64, 0..=1_000_u64),
        (0..=i64::MAX, 0..=1_u64),
        (0..=1_i64, 0..=i64::MAX.unsigned_abs()),
    ]
    .prop_map(|(unit_amount, quantity)| Charge {
        unit_amount,
        quantity,
    })
}

prop_compose! {
    /// A period and a time within it.
    fn period_and_time()(
        start in -10_000_000_000_i64..200_000_000_000,
        length in prop_oneof![1..=63_072_000_i64, 1..=50_000_000_000_i64],
    )(
        elapsed in 0..length,
        period in Just(Period::from_seconds(start, start + length).expect("a period")),
    ) -> (Period, i64) {
        (period, period.start_secs() + elapsed)
    }
}

fn lines(period: Period, at_secs: i64, old: Charge, new: Charge) -> ProrationLines {
    prorate(&Proration {
        period,
        change_at_secs: at_secs,
        credited: Some(old),
        debited: Some(new),
    })
    .expect("amounts fit")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn neither_line_exceeds_the_full_price(
        (period, at) in period_and_time(), old in charges(), new in charges()
    ) {
        let lines = lines(period, at, old, new);
        let (credit, debit) = (lines.credit.unwrap(), lines.debit.unwrap());
        prop_assert!(credit <= 0 && -credit <= old.full_amount().unwrap());
        prop_assert!(debit >= 0 && debit <= new.full_amount().unwrap());
    }

    #[test]
    fn the_period_start_is_the_full_price_and_the_end_is_nothing(
        (period, _) in period_and_time(), old in charges(), new in charges(), late in 0..1_000_i64
    ) {
        let at_start = lines(period, period.start_secs(), old, new);
        prop_assert_eq!(at_start.credit, Some(-old.full_amount().unwrap()));
        prop_assert_eq!(at_start.debit, Some(new.full_amount().unwrap()));
        let at_end = lines(period, period.end_secs() + late, old, new);
        prop_assert_eq!(at_end, ProrationLines::default());
    }

    #[test]
    fn a_later_change_never_costs_more(
        (period, at) in period_and_time(), later in 0..LONGEST_SECS, charge in charges()
    ) {
        let later = at.saturating_add(later).min(period.end_secs() - 1);
        let (first, second) = (lines(period, at, charge, charge), lines(period, later, charge, charge));
        prop_assert!(second.debit <= first.debit);
        prop_assert!(second.credit >= first.credit);
    }

    #[test]
    fn a_line_is_within_half_a_cent_of_the_exact_fraction(
        (period, at) in period_and_time(), charge in charges()
    ) {
        let lines = lines(period, at, charge, charge);
        let whole = i128::from(period.length_secs());
        let exact = i128::from(charge.full_amount().unwrap()) * i128::from(period.remaining_secs(at));
        for amount in [lines.debit.unwrap(), -lines.credit.unwrap()] {
            prop_assert!((2 * (i128::from(amount) * whole - exact)).abs() <= whole);
        }
        // Removing and adding the same item is free, apart from one cent on a
        // tie.
        prop_assert!((-1..=0).contains(&lines.net().unwrap()));
    }

    #[test]
    fn the_invoice_is_the_sum_of_its_lines(
        (period, at) in period_and_time(), old in charges(), new in charges()
    ) {
        let terms = |charge, price_id| Some(ItemTerms { price_id, charge, cadence: Cadence::MONTHLY });
        let mut change = PlanChange {
            item: ItemChange { before: terms(old, "a"), after: terms(new, "b"), last_debited: None },
            period,
            change_at_secs: at,
            mode: BillingMode::Flexible,
            proration_behavior: ProrationBehavior::AlwaysInvoice,
            on_trial: false,
        };
        let now = preview(&change).unwrap();
        prop_assert_eq!(now.due_now, now.lines.credit.unwrap() + now.lines.debit.unwrap());
        prop_assert_eq!(now.next_invoice, new.full_amount().unwrap());
        change.proration_behavior = ProrationBehavior::CreateProrations;
        match preview(&change) {
            Ok(later) => prop_assert_eq!(
                (later.due_now, i128::from(later.next_invoice)),
                (0, i128::from(now.due_now) + i128::from(now.next_invoice))
            ),
            Err(_) => prop_assert!(now.due_now.checked_add(now.next_invoice).is_none()),
        }
    }

    #[test]
    fn no_input_overflows(unit_amount in any::<i64>(), quantity in any::<u64>(), at in any::<i64>()) {
        let charge = Charge { unit_amount, quantity };
        let period = Period::from_seconds(-377_000_000_000, 253_000_000_000).expect("a period");
        let result = prorate(&Proration {
            period, change_at_secs: at, credited: Some(charge), debited: Some(charge),
        });
        if let Err(error) = result {
            prop_assert!(unit_amount < 0 || error == ProrationError::AmountTooLarge);
        }
    }

    #[test]
    fn every_instant_lies_in_exactly_one_period_of_the_anchors_grid(
        anchor in -5_000_000_000_i64..10_000_000_000,
        at in -5_000_000_000_i64..10_000_000_000,
        count in 1_u16..40,
        interval in prop_oneof![
            Just(Interval::Day), Just(Interval::Week), Just(Interval::Month), Just(Interval::Year)
        ],
    ) {
        let cadence = Cadence::every(count, interval).unwrap();
        let period = cadence.period_containing(anchor, at).unwrap();
        prop_assert!(period.contains(at));
        let next = cadence.period_containing(anchor, period.end_secs()).unwrap();
        prop_assert_eq!(next.start_secs(), period.end_secs());
    }
}

#[test]
fn a_classic_change_of_interval_credits_the_rest_and_charges_a_whole_period() {
    let yearly = Cadence::every(1, Interval::Year).expect("yearly");
    let terms = |unit_amount, cadence, price_id| {
        Some(ItemTerms {
            price_id,
            charge: Charge {
                unit_amount,
                quantity: 1,
            },
            cadence,
        })
    };
    let change = PlanChange {
        item: ItemChange {
            before: terms(1_000, Cadence::MONTHLY, "monthly"),
            after: terms(10_000, yearly, "yearly"),
            last_debited: None,
        },
        period: Period::from_seconds(1_487_030_400, 1_489_449_600).expect("a period"),
        change_at_secs: 1_488_568_488,
        mode: BillingMode::Classic,
        proration_behavior: ProrationBehavior::CreateProrations,
        on_trial: false,
    };
    let preview = preview(&change).expect("within range");
    assert_eq!(preview.due_now, 9_636);
    assert_eq!(preview.lines.debit, None);
    assert_eq!(preview.next_invoice_at_secs, 1_488_568_488 + 365 * 86_400);
}
