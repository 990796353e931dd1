//! What a state consists of.

use std::collections::BTreeMap;

use billing_domain::past_due::Access;
use billing_domain::status::SubscriptionStatus;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Inner, store};
use crate::catalogue::features::FeatureValue;
use crate::catalogue::{BoughtAddon, Interval};
use crate::db::RequestTx;
use crate::features;
use crate::metering::quotas::{self, QuotaRow};
use crate::server::problem::Problem;
use crate::subscriptions::{PendingChangeView, SubscriptionView};

/// Everything about an organization, at a version.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OrganizationState)]
pub struct Document {
    /// Higher after each change, on every replica; not every number is one.
    #[schema(minimum = 0, example = 42)]
    pub state_version: i64,
    pub organization: Organization,
    pub plan: Plan,
    /// Null if there is none; `stripeSubscriptionId` says which.
    #[schema(required)]
    pub subscription: Option<SubscriptionView>,
    /// A change that takes effect later, or once it is paid, as in `subscription`.
    #[schema(required)]
    pub pending_change: Option<PendingChangeView>,
    /// The values in force. A text that is off is left out.
    #[schema(value_type = BTreeMap<String, FeatureValue>)]
    pub features: BTreeMap<String, FeatureValue>,
    /// The quotas in force, without what is used of them.
    pub quotas: Vec<QuotaRow>,
    pub payment: Payment,
    /// When something in it ends by itself.
    #[serde(skip)]
    pub until: Option<Timestamp>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = StateOrganization)]
pub struct Organization {
    pub id: Uuid,
    /// The product's own id.
    #[schema(required)]
    pub external_id: Option<String>,
    pub name: String,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = StatePlan)]
pub struct Plan {
    #[schema(example = "standard")]
    pub tier: String,
    /// The version that quotas, features and prices are of; null for the catalogue's
    /// newest.
    #[schema(required)]
    pub version: Option<i32>,
    #[schema(required)]
    pub interval: Option<Interval>,
    /// The seats that were bought; null if the plan's are not.
    #[schema(required)]
    pub seats: Option<u32>,
    /// What was bought beside the plan.
    pub addons: Vec<BoughtAddon>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = StatePayment)]
pub struct Payment {
    pub status: PaymentStatus,
    /// What keeps it from being paid; null if nothing does.
    #[schema(required)]
    pub problem: Option<PaymentProblem>,
    /// When what the subscription grants ends, or has ended, because it is past due; null
    /// if it does not end by that.
    #[schema(required)]
    pub access_ends_at: Option<Timestamp>,
}

/// Whether what is owed is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PaymentStatus {
    /// There is no subscription.
    None,
    Paid,
    /// A payment failed, and Stripe tries again.
    PastDue,
    /// Stripe tries no more.
    Unpaid,
    /// The first payment of the subscription has not succeeded yet.
    Incomplete,
    /// The trial ended without a way to pay.
    Paused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[expect(
    clippy::enum_variant_names,
    reason = "they are written as they are named"
)]
pub enum PaymentProblem {
    PaymentFailed,
    PaymentIncomplete,
    PaymentMethodMissing,
}

impl Payment {
    /// By Stripe's status of the subscription that counts.
    fn of(status: Option<&SubscriptionStatus>, access: Option<Access>) -> Self {
        use PaymentProblem::{PaymentFailed, PaymentIncomplete, PaymentMethodMissing};
        use SubscriptionStatus::{Incomplete, PastDue, Paused, Unpaid};
        let (status, problem) = match status {
            None => (PaymentStatus::None, None),
            Some(PastDue) => (PaymentStatus::PastDue, Some(PaymentFailed)),
            Some(Unpaid) => (PaymentStatus::Unpaid, Some(PaymentFailed)),
            Some(Incomplete) => (PaymentStatus::Incomplete, Some(PaymentIncomplete)),
            Some(Paused) => (PaymentStatus::Paused, Some(PaymentMethodMissing)),
            Some(_) => (PaymentStatus::Paid, None),
        };
        Self {
            status,
            problem,
            access_ends_at: access.and_then(|access| access.ends_at),
        }
    }
}

/// Reads the state, and the version afterwards: the state is of `version` if that is
/// still the same.
pub(super) async fn read(
    states: &Inner,
    organization_id: Uuid,
    version: i64,
) -> Result<(Document, i64), Problem> {
    let (state, discounts) = states.subscriptions.current(organization_id).await?;
    let mut tx = RequestTx::begin(&states.pool, organization_id).await?;
    let features = features::list(tx.conn(), &states.catalogue, organization_id).await?;
    let quotas = quotas::list(tx.conn(), organization_id).await?;
    let external_id = store::external_id(tx.conn(), organization_id).await?;
    let now = store::versions(tx.conn(), &[organization_id]).await?;
    let ends = features
        .iter()
        .filter_map(|row| row.r#override.as_ref()?.expires_at)
        .chain(discounts.iter().filter_map(|one| one.ends_at));
    let (until, subscription) = (ends.min(), state.subscription.as_ref());
    let document = Document {
        state_version: version,
        until,
        organization: Organization {
            id: organization_id,
            external_id,
            name: state.name.clone(),
        },
        plan: Plan {
            tier: state.plan_tier.clone(),
            version: state.plan_version,
            interval: state.bought.interval,
            seats: state.bought.seats,
            addons: BoughtAddon::list(&state.bought.addons),
        },
        payment: Payment::of(
            subscription.map(|one| &one.status),
            subscription.map(|one| one.access),
        ),
        pending_change: subscription.and_then(PendingChangeView::of),
        subscription: subscription
            .is_some()
            .then(|| SubscriptionView::from(state).with_discounts(discounts)),
        features: features
            .into_iter()
            .filter_map(|row| Some((row.feature, row.value?)))
            .collect(),
        quotas: quotas
            .into_iter()
            .map(|row| row.in_force(&states.catalogue))
            .collect(),
    };
    Ok((document, now.get(&organization_id).copied().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_of_stripe_says_whether_there_is_a_problem() {
        let said = |status: Option<&str>| {
            let payment = Payment::of(status.map(SubscriptionStatus::from).as_ref(), None);
            serde_json::to_value(payment).unwrap()
        };
        let expected = [
            (None, "none", None),
            (Some("active"), "paid", None),
            (Some("trialing"), "paid", None),
            (Some("past_due"), "past_due", Some("payment_failed")),
            (Some("unpaid"), "unpaid", Some("payment_failed")),
            (Some("incomplete"), "incomplete", Some("payment_incomplete")),
            (Some("paused"), "paused", Some("payment_method_missing")),
        ];
        for (status, payment, problem) in expected {
            assert_eq!(said(status)["status"], payment);
            assert_eq!(said(status)["problem"].as_str(), problem);
        }
    }
}
