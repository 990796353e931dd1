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
    pub failed: bool,
    /// The invoice's `billing_reason`.
    pub billing_reason: Option<&'a str>,
}

/// The status in force: Stripe's word, or `past_due` where a payment of a
/// running subscription failed after Stripe last spoke of the subscription.
///
/// A first payment (`subscription_create`) that fails leaves a subscription
/// `incomplete`, which Stripe itself says; and a payment that succeeds never
/// changes what Stripe said last.
pub fn effective_status<'a>(
    stripe_status: &'a str,
    said_at: i64,
    payment: Option<LastPayment<'_>>,
) -> &'a str {
    match payment {
        Some(payment)
            if payment.failed
                && payment.at >= said_at
                && matches!(stripe_status, "active" | "trialing")
                && payment.billing_reason != Some("subscription_create") =>
        {
            "past_due"
        }
        _ => stripe_status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(at: i64) -> Option<LastPayment<'static>> {
        Some(LastPayment {
            at,
            failed: true,
            billing_reason: Some("subscription_cycle"),
        })
    }

    #[test]
    fn a_failed_renewal_is_past_due_until_stripe_speaks_again() {
        assert_eq!(effective_status("active", 100, failed(101)), "past_due");
        assert_eq!(effective_status("active", 102, failed(101)), "active");
        assert_eq!(effective_status("unpaid", 100, failed(101)), "unpaid");
    }

    #[test]
    fn a_cancelled_subscription_stays_cancelled() {
        let paid = Some(LastPayment {
            at: 200,
            failed: false,
            billing_reason: None,
        });
        assert_eq!(effective_status("canceled", 100, paid), "canceled");
        assert_eq!(effective_status("canceled", 100, failed(200)), "canceled");
    }

    #[test]
    fn a_first_payment_that_fails_is_incomplete_as_stripe_says() {
        let first = Some(LastPayment {
            at: 101,
            failed: true,
            billing_reason: Some("subscription_create"),
        });
        assert_eq!(effective_status("incomplete", 100, first), "incomplete");
        assert_eq!(effective_status("active", 100, first), "active");
    }
}
