//! A change that waits for its payer. Stripe has made its invoice, whose payment makes the
//! change: a subscription whose first payment is due, or a pending update of one.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::change::record::CHANGE_ID_KEY;
use super::command::ChangeRejection;
use super::failure::Failure;
use super::pending::Terms;
use super::state::{Item, SubscriptionRow, SubscriptionState};
use super::{PendingChangeView, Subscriptions};
use crate::catalogue::Catalogue;
use crate::stripe::client::{Client, StripeError};
use crate::stripe::objects::{PhaseItem, SchedulePhase};

/// How long Stripe waits for the first payment of a subscription.
const FIRST_PAYMENT: SignedDuration = SignedDuration::from_hours(23);

/// A change that is made once its invoice is paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwaitedChange {
    /// This service's id of it; `None` if it was made elsewhere.
    pub change_id: Option<String>,
    pub invoice_id: Option<String>,
    /// When Stripe discards it.
    pub expires_at: Option<Timestamp>,
    /// Whether it is the subscription's first payment.
    pub is_first: bool,
    pub(super) terms: Terms,
}

/// What is read of Stripe's `pending_update`.
#[derive(Deserialize)]
struct PendingUpdate {
    expires_at: Option<i64>,
    #[serde(default)]
    metadata: Option<Metadata>,
    #[serde(default)]
    subscription_items: Option<Vec<UpdatedItem>>,
}

#[derive(Deserialize)]
struct Metadata {
    billing_change_id: Option<String>,
    plan_version: Option<String>,
}

#[derive(Deserialize)]
struct UpdatedItem {
    price: Option<Price>,
    quantity: Option<i64>,
}

#[derive(Deserialize)]
struct Price {
    id: String,
    lookup_key: Option<String>,
    recurring: Option<Recurring>,
}

#[derive(Deserialize)]
struct Recurring {
    interval: String,
    interval_count: Option<i64>,
}

impl UpdatedItem {
    fn into_phase(self) -> PhaseItem {
        let price = self.price;
        let recurring = price.as_ref().and_then(|price| price.recurring.as_ref());
        let interval = recurring
            .filter(|recurring| recurring.interval_count.unwrap_or(1) == 1)
            .map(|recurring| recurring.interval.clone());
        PhaseItem {
            lookup_key: price.as_ref().and_then(|price| price.lookup_key.clone()),
            price: price.map(|price| price.id),
            quantity: self.quantity,
            plan_tier: None,
            metric: None,
            seats: false,
            addon: None,
            interval,
        }
    }
}

impl Item {
    fn as_phase(&self) -> PhaseItem {
        let used = self.used.clone();
        let addon = used.as_ref().and_then(|used| used.addon.clone());
        PhaseItem {
            price: self.price_id.clone(),
            quantity: self.quantity,
            lookup_key: self.lookup_key.clone(),
            plan_tier: used.as_ref().map(|used| used.tier.clone()),
            metric: used.as_ref().and_then(|used| used.metric.clone()),
            seats: used.is_some_and(|used| used.seats),
            addon,
            interval: self.plan_interval().map(|one| one.as_str().to_owned()),
        }
    }
}

/// This service's id of the change that a subscription of Stripe's waits for.
pub(super) fn awaited_change_id(subscription: &Value) -> Option<&str> {
    subscription["pending_update"]["metadata"][CHANGE_ID_KEY].as_str()
}

impl SubscriptionRow {
    /// The change that waits for its payer, if one does: `update` is Stripe's
    /// `pending_update`.
    pub(super) fn find_awaited_change(
        &self,
        update: Option<&Value>,
        catalogue: &Catalogue,
    ) -> Option<AwaitedChange> {
        if self.is_incomplete() {
            let phase = SchedulePhase {
                start: None,
                end: None,
                items: self.items.iter().map(Item::as_phase).collect(),
                plan_version: None,
            };
            return Some(AwaitedChange {
                change_id: self.change_id.clone(),
                invoice_id: self.latest_invoice_id.clone(),
                expires_at: self.created.map(|at| at + FIRST_PAYMENT),
                is_first: true,
                terms: Terms {
                    plan_version: self.plan_version,
                    ..Terms::of(&phase, catalogue)
                },
            });
        }
        let update = PendingUpdate::deserialize(update?).ok()?;
        let (change_id, plan_version) = match update.metadata {
            Some(metadata) => (metadata.billing_change_id, metadata.plan_version),
            None => (None, None),
        };
        let items = update.subscription_items;
        let phase = SchedulePhase {
            start: None,
            end: None,
            items: match items {
                Some(items) => items.into_iter().map(UpdatedItem::into_phase).collect(),
                None => self.items.iter().map(Item::as_phase).collect(),
            },
            plan_version,
        };
        let expires_at = update.expires_at;
        Some(AwaitedChange {
            change_id,
            invoice_id: self.latest_invoice_id.clone(),
            expires_at: expires_at.and_then(|secs| Timestamp::from_second(secs).ok()),
            is_first: false,
            terms: Terms::of(&phase, catalogue),
        })
    }

    /// The change that waits for its payer beside a plan that is had already.
    pub(super) fn awaits_update(&self) -> Option<&AwaitedChange> {
        self.awaited.as_ref().filter(|one| !one.is_first)
    }

    /// Refuses another change beside one that waits for its payer.
    pub(super) fn check_awaits_nothing(&self) -> Result<(), ChangeRejection> {
        match self.awaits_update() {
            Some(awaited) => Err(ChangeRejection::AwaitsPayment {
                tier: awaited.terms.plan_tier.clone().unwrap_or_default(),
                until: awaited.expires_at,
            }),
            None => Ok(()),
        }
    }
}

impl SubscriptionState {
    pub fn awaited(&self) -> Option<&AwaitedChange> {
        self.subscription.as_ref()?.awaited.as_ref()
    }
}

#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ActionRequiredStatus)]
pub enum Status {
    RequiresAction,
}

/// A change that its payer has to pay before it is made. Until then the plan stays.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ActionRequired)]
pub struct ActionRequired {
    pub status: Status,
    pub next_action: NextAction,
    pub pending_change: PendingChangeView,
}

/// How the payer pays: by Stripe.js with the secret, or on Stripe's page.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NextAction {
    /// What Stripe.js needs to confirm the payment: for the payer's browser alone.
    #[schema(required)]
    pub client_secret: Option<String>,
    /// Stripe's page of the invoice.
    #[schema(required)]
    pub hosted_invoice_url: Option<String>,
    /// When Stripe discards the change if it is not paid.
    #[schema(required)]
    pub expires_at: Option<Timestamp>,
}

/// The open invoice whose payment makes the change that a subscription waits for. Others of
/// the subscription, such as those made by hand, are none of it.
pub(super) async fn find_invoice(
    client: &Client,
    subscription_id: &str,
    is_first: bool,
) -> Result<Option<Value>, StripeError> {
    let reason = match is_first {
        true => "subscription_create",
        false => "subscription_update",
    };
    let open = client.open_invoices(subscription_id).await?;
    let found = open.iter().find(|one| one["billing_reason"] == reason);
    match found.and_then(|one| one["id"].as_str()) {
        Some(id) => {
            let invoice = client.invoice_to_confirm(id).await?.body;
            Ok((invoice["status"] == "open").then_some(invoice))
        }
        None => Ok(None),
    }
}

impl Subscriptions {
    /// How the payer of a change that waits goes on. `None` if nothing waits any more.
    pub(super) async fn action_required(
        &self,
        organization_id: Uuid,
        state: &SubscriptionState,
    ) -> Result<Option<ActionRequired>, Failure> {
        let Some((subscription, awaited)) = state
            .subscription
            .as_ref()
            .and_then(|one| Some((one, one.awaited.as_ref()?)))
        else {
            return Ok(None);
        };
        let client = self.stripe()?;
        let invoice = find_invoice(client, &subscription.id, awaited.is_first).await;
        let Some(invoice) = invoice.map_err(Failure::InDoubt)? else {
            // It is paid, or void: what became of it is mirrored.
            self.refresh_from_stripe(client, organization_id).await?;
            let now = self.state(organization_id).await?;
            return match now.awaited() {
                Some(_) => Err(Failure::Busy),
                None => Ok(None),
            };
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Ok(Some(ActionRequired {
            status: Status::RequiresAction,
            next_action: NextAction {
                client_secret: text(&invoice["confirmation_secret"]["client_secret"]),
                hosted_invoice_url: text(&invoice["hosted_invoice_url"]),
                expires_at: awaited.expires_at,
            },
            pending_change: PendingChangeView {
                stripe_invoice_id: text(&invoice["id"]),
                ..awaited.into()
            },
        }))
    }
}
