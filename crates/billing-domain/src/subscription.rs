//! What payments say of a subscription's status.

use crate::status::SubscriptionStatus;

/// The latest payment outcome among a subscription's invoices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastPayment<'a> {
    /// Unix time of the event that reported it, in seconds.
    pub at: i64,
    /// The payment failed, and the invoice is still open: not paid since by any
    /// means, not void, and not uncollectible.
    pub failed: bool,
    /// The invoice's `billing_reason`.
    pub billing_reason: Option<&'a str>,
}

/// The latest state of a subscription that Stripe reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportedStatus<'a> {
    pub status: &'a SubscriptionStatus,
    /// Unix time of the event that reported it, in seconds.
    pub at: i64,
    /// Whether a change is waiting for its payment. Until then nothing else
    /// changes.
    pub pending_update: bool,
}

/// The effective status: the one Stripe reported, or `past_due` if a payment of
/// a running subscription failed after that report and its invoice is still
/// unpaid.
///
/// A failed first payment (`subscription_create`) leaves the subscription
/// `incomplete`, which Stripe reports itself. A failed payment for a pending
/// change or for a manual invoice does not affect the status. A successful
/// payment never overrides what Stripe reported.
pub fn effective_status<'a>(
    reported: ReportedStatus<'a>,
    payment: Option<LastPayment<'_>>,
) -> &'a SubscriptionStatus {
    use SubscriptionStatus::{Active, PastDue, Trialing};
    let counts = |payment: LastPayment<'_>| {
        payment.failed
            && payment.at >= reported.at
            && matches!(reported.status, Active | Trialing)
            && match payment.billing_reason {
                Some("subscription_create" | "manual") => false,
                Some("subscription_update") => !reported.pending_update,
                _ => true,
            }
    };
    if payment.is_some_and(counts) {
        &PastDue
    } else {
        reported.status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTIVE: &SubscriptionStatus = &SubscriptionStatus::Active;
    const CANCELED: &SubscriptionStatus = &SubscriptionStatus::Canceled;
    const INCOMPLETE: &SubscriptionStatus = &SubscriptionStatus::Incomplete;
    const PAST_DUE: &SubscriptionStatus = &SubscriptionStatus::PastDue;
    const UNPAID: &SubscriptionStatus = &SubscriptionStatus::Unpaid;

    fn said(status: &SubscriptionStatus, at: i64) -> ReportedStatus<'_> {
        ReportedStatus {
            status,
            at,
            pending_update: false,
        }
    }

    fn failed_for(reason: &str, at: i64) -> Option<LastPayment<'_>> {
        Some(LastPayment {
            at,
            failed: true,
            billing_reason: Some(reason),
        })
    }

    fn failed(at: i64) -> Option<LastPayment<'static>> {
        failed_for("subscription_cycle", at)
    }

    #[test]
    fn a_failed_renewal_is_past_due_until_the_next_report() {
        assert_eq!(effective_status(said(ACTIVE, 100), failed(101)), PAST_DUE);
        assert_eq!(effective_status(said(ACTIVE, 102), failed(101)), ACTIVE);
        assert_eq!(effective_status(said(UNPAID, 100), failed(101)), UNPAID);
    }

    #[test]
    fn a_canceled_subscription_stays_canceled() {
        let paid = Some(LastPayment {
            at: 200,
            failed: false,
            billing_reason: None,
        });
        assert_eq!(effective_status(said(CANCELED, 100), paid), CANCELED);
        assert_eq!(effective_status(said(CANCELED, 100), failed(200)), CANCELED);
    }

    #[test]
    fn a_failed_first_payment_does_not_change_the_status() {
        let first = failed_for("subscription_create", 101);
        assert_eq!(effective_status(said(INCOMPLETE, 100), first), INCOMPLETE);
        assert_eq!(effective_status(said(ACTIVE, 100), first), ACTIVE);
    }

    #[test]
    fn a_failed_payment_for_a_pending_change_does_not_change_the_status() {
        let waiting = ReportedStatus {
            pending_update: true,
            ..said(ACTIVE, 100)
        };
        let change = failed_for("subscription_update", 101);
        assert_eq!(effective_status(waiting, change), ACTIVE);
        assert_eq!(effective_status(said(ACTIVE, 100), change), PAST_DUE);
        assert_eq!(effective_status(waiting, failed(101)), PAST_DUE);
        let by_hand = failed_for("manual", 101);
        assert_eq!(effective_status(said(ACTIVE, 100), by_hand), ACTIVE);
    }
}
