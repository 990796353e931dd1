//! Compares the usage on Stripe's invoices with what Stripe was told: it counts some time
//! after it accepts, and others may tell its meters too.

use jiff::Timestamp;
use rust_decimal::Decimal;
use sqlx::PgConnection;

use super::due::{Reason, Unbilled};
use super::store::{self, InvoicedUsage, Told};
use crate::catalogue::{Aggregation, Catalogue};
use crate::server::number::Number;

/// Finds the invoices that charge other usage than Stripe was told of.
pub(super) async fn find(
    conn: &mut PgConnection,
    catalogue: &Catalogue,
    now: Timestamp,
) -> Result<Vec<Unbilled>, sqlx::Error> {
    let mut found = Vec::new();
    for invoiced in store::invoiced_otherwise(conn, now).await? {
        let metric = catalogue.metric(&invoiced.metric);
        let is_level = metric.is_some_and(|metric| metric.aggregation == Aggregation::Last);
        let told = store::told_of(conn, &invoiced).await?;
        found.extend(difference(&invoiced, &told, is_level));
    }
    Ok(found)
}

/// The difference between an invoice and the reports in `told`, which are in order.
fn difference(invoiced: &InvoicedUsage, told: &[Told], is_level: bool) -> Option<Unbilled> {
    // What was told from the draft on may be on the invoice or not.
    let certain = told.iter().rposition(|told| told.before);
    let in_time = told.iter().rposition(|told| !told.late);
    let first = certain.map_or(0, |index| index + 1);
    let after = |count: usize| counted(&told[..count], is_level);
    if (first..=told.len()).any(|count| after(count) == invoiced.units) {
        return None;
    }
    let expected = after(first.max(in_time.map_or(0, |index| index + 1)));
    let over = |units: Decimal| (units - invoiced.included).max(Decimal::ZERO);
    let (units, reason) = match over(expected) - over(invoiced.units) {
        // What the price includes costs nothing either way.
        same if same.is_zero() => return None,
        less if less > Decimal::ZERO => (less, Reason::InvoicedLess),
        more => (-more, Reason::InvoicedMore),
    };
    Some(Unbilled {
        organization_id: invoiced.organization_id,
        metric: invoiced.metric.clone(),
        period_start: invoiced.period_start,
        period_end: invoiced.period_end,
        units: Number(units),
        reason,
    })
}

/// The quantity that Stripe computes from the reports.
fn counted(told: &[Told], is_level: bool) -> Decimal {
    let units = if is_level {
        // Of one second, the one that was told last.
        let newest = told.iter().max_by_key(|told| told.at.as_second());
        newest.map_or(Decimal::ZERO, |newest| newest.units)
    } else {
        told.iter().map(|told| told.units).sum()
    };
    units.max(Decimal::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn invoiced(units: i64) -> InvoicedUsage {
        InvoicedUsage {
            organization_id: Uuid::nil(),
            stripe_customer_id: "cus_1".to_owned(),
            metric: "api_calls".to_owned(),
            period_start: "2026-11-01T00:00:00Z".parse().unwrap(),
            period_end: "2026-12-01T00:00:00Z".parse().unwrap(),
            created: "2026-12-01T00:00:00Z".parse().unwrap(),
            units: units.into(),
            included: 100.into(),
        }
    }

    /// Told before the invoice, from its draft on, and after its hour.
    fn told() -> [Told; 3] {
        [(300, true, false), (40, false, false), (60, false, true)].map(|(units, before, late)| {
            Told {
                units: units.into(),
                at: "2026-11-30T12:00:00Z".parse().unwrap(),
                before,
                late,
            }
        })
    }

    fn found(units: i64, is_level: bool) -> Option<(Decimal, Reason)> {
        let found = difference(&invoiced(units), &told(), is_level)?;
        Some((found.units.0, found.reason))
    }

    #[test]
    fn an_invoice_has_what_was_told_before_it_and_may_have_more() {
        for units in [300, 340, 400] {
            assert_eq!(found(units, false), None, "{units}");
        }
        assert_eq!(found(0, false), Some((240.into(), Reason::InvoicedLess)));
        assert_eq!(found(200, false), Some((140.into(), Reason::InvoicedLess)));
        assert_eq!(found(500, false), Some((160.into(), Reason::InvoicedMore)));
    }

    #[test]
    fn of_a_level_the_last_one_told_counts() {
        for units in [300, 40, 60] {
            assert_eq!(found(units, true), None, "{units}");
        }
        assert_eq!(found(200, true), Some((100.into(), Reason::InvoicedMore)));
    }

    #[test]
    fn what_the_price_includes_makes_no_difference() {
        let told = &told()[1..2];
        assert!(difference(&invoiced(0), told, false).is_none());
        assert!(difference(&invoiced(100), told, false).is_none());
        assert!(difference(&invoiced(101), told, false).is_some());
    }
}
