//! A change of a subscription, as it is entered before Stripe is asked for it.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::audit::{Actor, Client};
use crate::stripe::client::Params;
use crate::stripe::requests::Request;
use crate::subscriptions::command::{Step, Wish};
use crate::subscriptions::missing::ENDED_HERE;
use crate::subscriptions::preview::token::Promise;

/// After this, a request that was not answered is not on its way any more:
/// longer than one takes with all its repetitions.
pub const QUIET: SignedDuration = SignedDuration::from_secs(150);
/// The key of a subscription's metadata that names the last change of ours: by
/// it, a change that Stripe made is known from one that it did not.
const MARK: &str = "billing_change_id";

/// What is asked of Stripe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Create,
    Switch,
    EndWithPeriod,
    EndNow,
    Keep,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::Create,
        Self::Switch,
        Self::EndWithPeriod,
        Self::EndNow,
        Self::Keep,
    ];

    /// The kind of a step that Stripe has a part in.
    pub fn of(step: &Step<'_>) -> Option<Self> {
        match step {
            Step::Create { .. } => Some(Self::Create),
            Step::Switch { .. } => Some(Self::Switch),
            Step::EndWithPeriod { .. } => Some(Self::EndWithPeriod),
            Step::EndNow { .. } => Some(Self::EndNow),
            Step::Keep { .. } => Some(Self::Keep),
            Step::Nothing { .. } => None,
        }
    }

    /// The call, as the ledger of requests has it.
    pub fn operation(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Switch | Self::EndWithPeriod | Self::Keep => "update",
            Self::EndNow => "cancel",
        }
    }

    /// The audit log's word for it.
    pub fn action(self) -> &'static str {
        match self {
            Self::Create => "subscription_created",
            Self::Switch => "subscription_changed",
            Self::EndWithPeriod => "subscription_cancel_scheduled",
            Self::EndNow => "subscription_canceled",
            Self::Keep => "subscription_reactivated",
        }
    }
}

/// The actions that audit entries of changes have.
pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    let kinds = Kind::ALL.into_iter().map(Kind::action);
    kinds.chain(["customer_created", "subscription_reconciled", ENDED_HERE])
}

/// What is kept with the request, to finish it by whoever finds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    pub id: Uuid,
    pub kind: Kind,
    /// What was asked of us; the same wish again is the same value.
    pub wish: Value,
    /// The `Idempotency-Key` that it came with.
    pub request_key: Option<String>,
    pub actor: Asker,
    /// What an audit entry shows of the time before.
    pub before: Value,
}

/// Who asked, and from where.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asker {
    r#type: String,
    id: Option<Uuid>,
    ip: Option<std::net::IpAddr>,
    user_agent: Option<String>,
}

impl Asker {
    /// The program itself.
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

impl Change {
    /// The change that a request is for; None where the ledger has another
    /// feature's request.
    pub fn of(request: &Request) -> Option<Self> {
        serde_json::from_value(request.context.clone()).ok()
    }

    pub fn context(&self) -> Value {
        serde_json::to_value(self).expect("a change is plain data")
    }
}

/// Has Stripe keep the change's id with what it does.
pub fn mark(params: Params, change: &Change) -> Params {
    match change.kind {
        // The end takes no metadata.
        Kind::EndNow => params.set(
            "cancellation_details[comment]",
            format!("Canceled through the billing API ({MARK} {})", change.id),
        ),
        _ => params.set(format!("metadata[{MARK}]"), change.id),
    }
}

/// Whether Stripe shows that it made this change last.
pub fn is_marked(subscription: &Value, change: &Change) -> bool {
    let id = change.id.to_string();
    match change.kind {
        Kind::EndNow => {
            let comment = subscription["cancellation_details"]["comment"].as_str();
            comment.is_some_and(|comment| comment.contains(&id))
        }
        _ => subscription["metadata"][MARK].as_str() == Some(&id),
    }
}

/// Whether what was asked of Stripe cannot be on its way any more.
pub fn is_quiet(request: &Request, now: Timestamp) -> bool {
    now.duration_since(request.created_at) > QUIET
}

/// The wish as it is kept.
pub fn kept_wish(wish: Wish<'_>, promise: Option<&Promise>) -> Value {
    let mut kept = match wish {
        Wish::Subscribe { tier, trial_days } => {
            json!({"wish": "subscribe", "planTier": tier, "trialDays": trial_days})
        }
        Wish::Change { tier } => json!({"wish": "change", "planTier": tier}),
        Wish::Cancel { immediately } => json!({"wish": "cancel", "immediately": immediately}),
        Wish::Reactivate => json!({"wish": "reactivate"}),
    };
    if let Some(promise) = promise {
        kept["preview"] = json!({
            "effectiveDate": promise.effective_at,
            "currency": promise.currency,
            "proratedAmount": promise.prorated_amount,
            "dueNowAmount": promise.due_now_amount,
            "nextInvoiceAmount": promise.next_invoice_amount,
        });
    }
    kept
}
