//! The catalogue of event types.

use serde_json::{Value, json};

/// What an event tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventType {
    StateChanged,
    SubscriptionCreated,
    SubscriptionUpdated,
    SubscriptionCanceled,
    PlanChanged,
    TrialWillEnd,
    InvoicePaid,
    InvoicePaymentFailed,
    InvoiceActionRequired,
    QuotaThresholdReached,
    QuotaExceeded,
    GracePeriodStarted,
    GracePeriodEnded,
    CheckoutCompleted,
    PaymentMethodChanged,
}

/// What `events endpoints test` sends: no endpoint asks for it, and every one gets it.
pub const TEST: &str = "endpoint.test";

impl EventType {
    pub const ALL: [Self; 15] = [
        Self::StateChanged,
        Self::SubscriptionCreated,
        Self::SubscriptionUpdated,
        Self::SubscriptionCanceled,
        Self::PlanChanged,
        Self::TrialWillEnd,
        Self::InvoicePaid,
        Self::InvoicePaymentFailed,
        Self::InvoiceActionRequired,
        Self::QuotaThresholdReached,
        Self::QuotaExceeded,
        Self::GracePeriodStarted,
        Self::GracePeriodEnded,
        Self::CheckoutCompleted,
        Self::PaymentMethodChanged,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::StateChanged => "organization.state_changed",
            Self::SubscriptionCreated => "subscription.created",
            Self::SubscriptionUpdated => "subscription.updated",
            Self::SubscriptionCanceled => "subscription.canceled",
            Self::PlanChanged => "plan.changed",
            Self::TrialWillEnd => "trial.will_end",
            Self::InvoicePaid => "invoice.paid",
            Self::InvoicePaymentFailed => "invoice.payment_failed",
            Self::InvoiceActionRequired => "invoice.action_required",
            Self::QuotaThresholdReached => "quota.threshold_reached",
            Self::QuotaExceeded => "quota.exceeded",
            Self::GracePeriodStarted => "grace_period.started",
            Self::GracePeriodEnded => "grace_period.ended",
            Self::CheckoutCompleted => "checkout.completed",
            Self::PaymentMethodChanged => "payment_method.changed",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }

    /// The alert at a threshold: at 80 % it is a warning.
    pub fn of_threshold(percent: i16) -> Self {
        if percent < 100 {
            Self::QuotaThresholdReached
        } else {
            Self::QuotaExceeded
        }
    }

    pub fn summary(self) -> &'static str {
        match self {
            Self::StateChanged => {
                "Something in the organization's state changed: the whole state as GET \
                 /api/billing/state answers it"
            }
            Self::SubscriptionCreated => "A subscription began",
            Self::SubscriptionUpdated => "A subscription changed",
            Self::SubscriptionCanceled => "A subscription ended",
            Self::PlanChanged => "The organization has another plan",
            Self::TrialWillEnd => "A trial ends in a few days",
            Self::InvoicePaid => "An invoice was paid",
            Self::InvoicePaymentFailed => "A payment of an invoice failed",
            Self::InvoiceActionRequired => "A payment waits for its payer to act",
            Self::QuotaThresholdReached => "A quota is used to 80 %",
            Self::QuotaExceeded => "A quota is used to 100 or 120 %",
            Self::GracePeriodStarted => "A quota was exceeded, and its grace period began",
            Self::GracePeriodEnded => "A grace period ended",
            Self::CheckoutCompleted => "A checkout was completed",
            Self::PaymentMethodChanged => {
                "A payment method was attached, detached or renewed, or another is the default"
            }
        }
    }

    /// The name of the schema of `data` in the OpenAPI document.
    pub fn schema(self) -> &'static str {
        match self {
            Self::StateChanged => "OrganizationState",
            Self::SubscriptionCreated
            | Self::SubscriptionUpdated
            | Self::SubscriptionCanceled
            | Self::TrialWillEnd => "SubscriptionEventData",
            Self::PlanChanged => "PlanEventData",
            Self::InvoicePaid | Self::InvoicePaymentFailed | Self::InvoiceActionRequired => {
                "InvoiceEventData"
            }
            Self::QuotaThresholdReached | Self::QuotaExceeded => "QuotaEventData",
            Self::GracePeriodStarted | Self::GracePeriodEnded => "GracePeriodEventData",
            Self::CheckoutCompleted => "CheckoutEventData",
            Self::PaymentMethodChanged => "PaymentMethodEventData",
        }
    }

    /// An event of this type as it is sent.
    pub fn example(self) -> Value {
        json!({
            "specversion": "1.0",
            "id": "019aab70-3f5e-7c1c-a5a6-0d9f3c1b2e4d",
            "source": super::event::SOURCE,
            "type": self.as_str(),
            "subject": "acme",
            "time": "2026-11-22T17:00:00Z",
            "datacontenttype": "application/json",
            "sequence": super::event::sequence_text(42),
            "data": self.example_data(),
        })
    }

    fn example_data(self) -> Value {
        let mut data = match self {
            Self::StateChanged => return example_state(),
            Self::SubscriptionCreated => subscription("active", json!({})),
            Self::SubscriptionUpdated => subscription("past_due", json!({"status": "active"})),
            Self::SubscriptionCanceled => subscription("canceled", json!({"status": "active"})),
            Self::TrialWillEnd => subscription("trialing", json!({})),
            Self::PlanChanged => json!({
                "plan": {"tier": "standard", "version": 3},
                "previous": {"tier": "free"},
            }),
            Self::InvoicePaid => invoice("paid", 0),
            Self::InvoicePaymentFailed | Self::InvoiceActionRequired => invoice("open", 9900),
            Self::QuotaThresholdReached => quota(80, 800_000),
            Self::QuotaExceeded => quota(100, 1_000_000),
            Self::GracePeriodStarted => json!({
                "metric": "api_calls", "usage": 1001, "quota": 1000,
                "startedAt": "2026-11-22T17:00:00Z", "expiresAt": "2026-11-23T17:00:00Z",
            }),
            Self::GracePeriodEnded => json!({"metric": "api_calls", "endReason": "upgraded"}),
            Self::CheckoutCompleted => json!({
                "stripeCheckoutSessionId": "cs_test_a1b2",
                "checkout": {
                    "status": "complete", "paymentStatus": "paid", "mode": "subscription",
                    "totalAmount": 9900, "currency": "usd", "stripeSubscriptionId": "sub_1Q2w3E",
                },
            }),
            Self::PaymentMethodChanged => json!({
                "stripePaymentMethodId": "pm_1Q2w3E",
                "paymentMethod": {
                    "status": "attached", "type": "card", "brand": "visa", "expMonth": 4,
                    "expYear": 2030,
                },
            }),
        };
        data["organizationId"] = json!(EXAMPLE_ID);
        data["externalId"] = json!("acme");
        data
    }
}

const EXAMPLE_ID: &str = "019aab70-1d3c-7b5a-9a4e-5f2c8d7e6b10";

fn subscription(status: &str, previous: Value) -> Value {
    json!({
        "stripeSubscriptionId": "sub_1Q2w3E",
        "subscription": {
            "status": status, "planTier": "standard", "currency": "usd",
            "currentPeriodStart": "2026-11-01T00:00:00Z", "currentPeriodEnd": "2026-12-01T00:00:00Z",
            "cancelAtPeriodEnd": false,
            "items": [{"price": "price_1Q2w3E", "quantity": 1}],
        },
        "previous": previous,
    })
}

fn invoice(status: &str, remaining: i64) -> Value {
    json!({
        "stripeInvoiceId": "in_1Q2w3E",
        "invoice": {
            "number": "ACME-0042", "status": status, "currency": "usd", "totalAmount": 9900,
            "dueAmount": 9900, "paidAmount": 9900 - remaining, "remainingAmount": remaining,
            "attemptCount": 1,
        },
    })
}

fn quota(threshold: i16, usage: i64) -> Value {
    json!({
        "metric": "llm_tokens", "threshold": threshold, "usage": usage, "quota": 1_000_000,
        "periodStart": "2026-11-01T00:00:00Z", "periodEnd": "2026-12-01T00:00:00Z",
    })
}

fn example_state() -> Value {
    json!({
        "stateVersion": 42,
        "organization": {"id": EXAMPLE_ID, "externalId": "acme", "name": "Acme"},
        "plan": {"tier": "free", "version": null, "interval": null, "seats": null, "addons": []},
        "subscription": null,
        "pendingChange": null,
        "features": {"sso": false},
        "quotas": [],
        "payment": {"status": "none", "problem": null, "accessEndsAt": null},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_a_name_of_its_own_and_an_example() {
        let mut names: Vec<&str> = EventType::ALL.into_iter().map(EventType::as_str).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), EventType::ALL.len());
        for one in EventType::ALL {
            assert_eq!(EventType::parse(one.as_str()), Some(one));
            assert_eq!(one.example()["type"], one.as_str());
        }
        assert_eq!(EventType::parse(TEST), None);
    }
}
