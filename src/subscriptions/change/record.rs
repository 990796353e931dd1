//! The record of a change, stored before Stripe is called.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::audit::{Actor, Client};
use crate::stripe::client::Params;
use crate::stripe::requests::Request;
use crate::subscriptions::command::{Command, StripeAction};
use crate::subscriptions::missing::ENDED_HERE;
use crate::subscriptions::preview::token::Quote;

/// The longest time that a request can be in flight, all retries included.
pub const MAX_IN_FLIGHT: SignedDuration = SignedDuration::from_secs(150);
/// The metadata key of a subscription that holds the id of our last change. It
/// shows whether Stripe has made a change.
const CHANGE_ID_KEY: &str = "billing_change_id";

/// What Stripe is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    Create,
    Switch,
    Redeem,
    EndWithPeriod,
    EndNow,
    Keep,
}

impl ChangeKind {
    const ALL: [Self; 6] = [
        Self::Create,
        Self::Switch,
        Self::Redeem,
        Self::EndWithPeriod,
        Self::EndNow,
        Self::Keep,
    ];

    /// The kind of an action; `None` if it needs no call to Stripe.
    pub fn of(action: &StripeAction<'_>) -> Option<Self> {
        match action {
            StripeAction::Create { .. } => Some(Self::Create),
            StripeAction::Switch { .. } => Some(Self::Switch),
            StripeAction::Redeem { .. } => Some(Self::Redeem),
            StripeAction::EndWithPeriod { .. } => Some(Self::EndWithPeriod),
            StripeAction::EndNow { .. } => Some(Self::EndNow),
            StripeAction::Keep { .. } => Some(Self::Keep),
            StripeAction::Nothing { .. } => None,
        }
    }

    /// The call's name in the stored request.
    pub fn operation(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Switch | Self::Redeem | Self::EndWithPeriod | Self::Keep => "update",
            Self::EndNow => "cancel",
        }
    }

    /// The audit action.
    pub fn audit_action(self) -> &'static str {
        match self {
            Self::Create => "subscription_created",
            Self::Switch => "subscription_changed",
            Self::Redeem => "promotion_code_redeemed",
            Self::EndWithPeriod => "subscription_cancel_scheduled",
            Self::EndNow => "subscription_canceled",
            Self::Keep => "subscription_reactivated",
        }
    }
}

/// All audit actions of changes.
pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    let kinds = ChangeKind::ALL.into_iter().map(ChangeKind::audit_action);
    kinds.chain(["customer_created", "subscription_reconciled", ENDED_HERE])
}

/// A change, stored with its request so that any replica can finish it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeRecord {
    pub id: Uuid,
    pub kind: ChangeKind,
    /// The command as recorded: equal commands are equal values.
    #[serde(rename = "wish")]
    pub command: Value,
    /// The caller's `Idempotency-Key`.
    pub request_key: Option<String>,
    pub actor: Initiator,
    /// The state before the change, for the audit entry.
    pub before: Value,
}

/// Who requested the change, and from where.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Initiator {
    r#type: String,
    id: Option<Uuid>,
    ip: Option<std::net::IpAddr>,
    user_agent: Option<String>,
}

impl Initiator {
    /// The service itself.
    pub fn system() -> Self {
        Self::new(
            Actor::System,
            &Client {
                ip: None,
                user_agent: None,
            },
        )
    }

    pub fn new(actor: Actor, client: &Client) -> Self {
        Self {
            r#type: actor.as_str().to_owned(),
            id: actor.id(),
            ip: client.ip,
            user_agent: client.user_agent.clone(),
        }
    }

    pub fn actor(&self) -> Actor {
        match (self.r#type.as_str(), self.id) {
            ("user", Some(id)) => Actor::User(id),
            ("api_key", Some(id)) => Actor::ApiKey(id),
            _ => Actor::System,
        }
    }

    pub fn client(&self) -> Client {
        Client {
            ip: self.ip,
            user_agent: self.user_agent.clone(),
        }
    }
}

impl ChangeRecord {
    /// The change that a request belongs to; `None` for another feature's
    /// request.
    pub fn of(request: &Request) -> Option<Self> {
        serde_json::from_value(request.context.clone()).ok()
    }

    pub fn context(&self) -> Value {
        serde_json::to_value(self).expect("a change is plain data")
    }
}

/// Adds the change's id to the parameters, so that Stripe stores it.
pub fn mark(params: Params, change: &ChangeRecord) -> Params {
    match change.kind {
        // A cancellation accepts no metadata.
        ChangeKind::EndNow => params.set(
            "cancellation_details[comment]",
            format!(
                "Canceled through the billing API ({CHANGE_ID_KEY} {})",
                change.id
            ),
        ),
        _ => params.set(format!("metadata[{CHANGE_ID_KEY}]"), change.id),
    }
}

/// Whether the subscription's last change is this one.
pub fn is_marked(subscription: &Value, change: &ChangeRecord) -> bool {
    let id = change.id.to_string();
    match change.kind {
        ChangeKind::EndNow => {
            let comment = subscription["cancellation_details"]["comment"].as_str();
            comment.is_some_and(|comment| comment.contains(&id))
        }
        _ => subscription["metadata"][CHANGE_ID_KEY].as_str() == Some(&id),
    }
}

/// Whether the request to Stripe can no longer be in flight.
pub fn is_no_longer_in_flight(request: &Request, now: Timestamp) -> bool {
    now.duration_since(request.created_at) > MAX_IN_FLIGHT
}

/// The command as it is stored.
pub fn recorded_command(command: Command<'_>, quote: Option<&Quote>) -> Value {
    let mut recorded = match command {
        Command::Subscribe {
            tier, trial_days, ..
        } => {
            json!({"wish": "subscribe", "planTier": tier, "trialDays": trial_days})
        }
        Command::Change { tier, .. } => json!({"wish": "change", "planTier": tier}),
        Command::Migrate { terms, version, .. } => {
            json!({"wish": "migrate", "planTier": terms.tier, "planVersion": version})
        }
        Command::Cancel { immediately } => json!({"wish": "cancel", "immediately": immediately}),
        Command::Reactivate => json!({"wish": "reactivate"}),
    };
    if let Some(code) = command.promotion_code() {
        recorded["promotionCode"] = json!(code.trim());
    }
    if let Some(quote) = quote {
        recorded["preview"] = json!({
            "effectiveDate": quote.effective_at,
            "currency": quote.currency,
            "proratedAmount": quote.prorated_amount,
            "dueNowAmount": quote.due_now_amount,
            "nextInvoiceAmount": quote.next_invoice_amount,
        });
    }
    recorded
}
