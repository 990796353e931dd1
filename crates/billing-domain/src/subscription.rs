//! What a subscription's status means.

/// Stripe ends a subscription once: nothing revives it.
pub fn is_ended(status: &str) -> bool {
    matches!(status, "canceled" | "incomplete_expired")
}

/// Whether the customer has what the plan promises. A payment that is late
/// (`past_due`) is Stripe's to collect; until it gives up, the plan stays.
pub fn grants_plan(status: &str) -> bool {
    matches!(status, "active" | "trialing" | "past_due")
}

/// The newest payment outcome of a subscription's invoices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastPayment<'a> {
    /// Unix seconds of the event that told of it.
    pub at: i64,
    /// It failed, and its invoice is still to be paid: neither paid since, by
    /// whatever way, nor void, nor given up as uncollectible.
    pub failed: bool,
    /// The invoice's `billing_reason`.
    pub billing_reason: Option<&'a str>,
}

/// What Stripe last said of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastWord<'a> {
    pub status: &'a str,
    /// Unix seconds of the event that told of it.
    pub at: i64,
    /// A change waits for its payment; until then all is as it was.
    pub pending_update: bool,
}

/// The status in force: Stripe's word, or `past_due` where a payment of a
/// running subscription failed after Stripe last spoke of the subscription,
/// and as long as its invoice is unpaid.
///
/// A first payment (`subscription_create`) that fails leaves a subscription
/// `incomplete`, which Stripe itself says; one of a change that waits for it,
/// or of an invoice made by hand, leaves it as it is. A payment that succeeds
/// never changes what Stripe said last.
pub fn effective_status<'a>(word: LastWord<'a>, payment: Option<LastPayment<'_>>) -> &'a str {
    let counts = |payment: LastPayment<'_>| {
        payment.failed
            && payment.at >= word.at
            && matches!(word.status, "active" | "trialing")
            && match payment.billing_reason {
                Some("subscription_create" | "manual") => false,
                Some("subscription_update") => !word.pending_update,
                _ => true,
            }
    };
    if payment.is_some_and(counts) {
        "past_due"
    } else {
        word.status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: &str, at: i64) -> LastWord<'_> {
        LastWord {
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
    fn a_failed_renewal_is_past_due_until_stripe_speaks_again() {
        assert_eq!(
            effective_status(said("active", 100), failed(101)),
            "past_due"
        );
        assert_eq!(effective_status(said("active", 102), failed(101)), "active");
        assert_eq!(effective_status(said("unpaid", 100), failed(101)), "unpaid");
    }

    #[test]
    fn a_cancelled_subscription_stays_cancelled() {
        let paid = Some(LastPayment {
            at: 200,
            failed: false,
            billing_reason: None,
        });
        assert_eq!(effective_status(said("canceled", 100), paid), "canceled");
        assert_eq!(
            effective_status(said("canceled", 100), failed(200)),
            "canceled"
        );
    }

    #[test]
    fn a_first_payment_that_fails_is_incomplete_as_stripe_says() {
        let first = failed_for("subscription_create", 101);
        assert_eq!(
            effective_status(said("incomplete", 100), first),
            "incomplete"
        );
        assert_eq!(effective_status(said("active", 100), first), "active");
    }

    #[test]
    fn a_change_that_waits_for_its_payment_leaves_the_status() {
        let waiting = LastWord {
            pending_update: true,
            ..said("active", 100)
        };
        let change = failed_for("subscription_update", 101);
        assert_eq!(effective_status(waiting, change), "active");
        assert_eq!(effective_status(said("active", 100), change), "past_due");
        assert_eq!(effective_status(waiting, failed(101)), "past_due");
        let by_hand = failed_for("manual", 101);
        assert_eq!(effective_status(said("active", 100), by_hand), "active");
    }
}
