//! The record of a change, stored before Stripe is called.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::follow::Follow;
use super::schedule::schedule_of;
use crate::audit::{Actor, Client};
use crate::catalogue::When;
use crate::metering::charges::UsageCharge;
use crate::stripe::client::Params;
use crate::stripe::requests::Request;
use crate::subscriptions::awaited::awaited_change_id;
use crate::subscriptions::command::{Command, StripeAction};
use crate::subscriptions::import::STAMPED;
use crate::subscriptions::missing::ENDED_HERE;
use crate::subscriptions::operator::COMPARED;
use crate::subscriptions::preview::token::Quote;
use crate::subscriptions::refunds::REFUNDED;
use crate::subscriptions::selection::Selection;
use crate::subscriptions::state::SubscriptionRow;
use crate::subscriptions::{cards, checkout};

/// The longest time that a request can be in flight, all retries included.
pub const MAX_IN_FLIGHT: SignedDuration = SignedDuration::from_secs(150);
/// The metadata key of a subscription that holds the id of our last change. It
/// shows whether Stripe has made a change.
pub const CHANGE_ID_KEY: &str = "billing_change_id";

/// The parameter that has what the customer says on canceling.
pub const COMMENT: &str = "cancellation_details[comment]";
/// The parameter that has Stripe's word for it.
pub const FEEDBACK: &str = "cancellation_details[feedback]";
/// The comment of who says nothing.
const UNSAID: &str = "Canceled through the billing API";

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
    SwitchLater,
    CallOff,
    Withdraw,
}

impl ChangeKind {
    const ALL: [Self; 9] = [
        Self::Create,
        Self::Switch,
        Self::Redeem,
        Self::EndWithPeriod,
        Self::EndNow,
        Self::Keep,
        Self::SwitchLater,
        Self::CallOff,
        Self::Withdraw,
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
            StripeAction::SwitchLater { .. } => Some(Self::SwitchLater),
            StripeAction::CallOff { .. } => Some(Self::CallOff),
            StripeAction::Withdraw { .. } => Some(Self::Withdraw),
            StripeAction::Nothing { .. } => None,
        }
    }

    /// The call's name in the stored request.
    pub fn operation(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Switch | Self::Redeem | Self::EndWithPeriod | Self::Keep => "update",
            Self::EndNow => "cancel",
            Self::SwitchLater => "schedule",
            Self::CallOff => "release",
            Self::Withdraw => "void",
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
            Self::SwitchLater => "subscription_change_scheduled",
            Self::CallOff | Self::Withdraw => "subscription_change_called_off",
        }
    }
}

/// The audit action of a change that is made once its payer has paid.
pub const AWAITS_PAYMENT: &str = "subscription_change_awaits_payment";

/// All audit actions of changes.
pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    let kinds = ChangeKind::ALL.into_iter().map(ChangeKind::audit_action);
    let further = [
        "customer_created",
        "subscription_reconciled",
        ENDED_HERE,
        STAMPED,
        AWAITS_PAYMENT,
        COMPARED,
        REFUNDED,
    ];
    let of_rooms = cards::ACTIONS.into_iter().chain(checkout::ACTIONS);
    kinds.chain(further).chain(of_rooms)
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
    /// What the change has Stripe charge for usage at prices that it removes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Vec<UsageCharge>>,
    /// The schedule that goes with the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub releases: Option<Release>,
    /// What becomes of a pending change whose seats follow the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<Follow>,
    /// Whether the subscription is put into flexible billing first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flexible: bool,
    /// Whether the payer is there to confirm a payment.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub payer_acts: bool,
    /// The open invoice that nobody is to pay once the change is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voids: Option<String>,
}

/// When a subscription's schedule is released.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Release {
    /// Before the change, which Stripe would refuse beside it.
    First(String),
    /// Once the change is made, which takes the place of what it would do.
    After(String),
    /// It is the change.
    Only(String),
}

impl Release {
    /// The schedule that `action` releases.
    pub fn of(action: &StripeAction<'_>) -> Option<Self> {
        match action {
            StripeAction::CallOff { schedule, .. } => Some(Self::Only((*schedule).to_owned())),
            // The end stays, which the schedule may have set.
            StripeAction::Switch {
                subscription,
                keeps_prices: true,
                ..
            } if subscription.ends() => None,
            StripeAction::Switch {
                subscription, plan, ..
            } => {
                let schedule = subscription.schedule_id.clone()?;
                // What keeps the plan keeps what is to become of it.
                let keeps = subscription.plan_tier.as_ref() == Some(&plan.tier);
                match &subscription.pending {
                    None => Some(Self::First(schedule)),
                    Some(_) => (!keeps).then_some(Self::After(schedule)),
                }
            }
            StripeAction::EndWithPeriod { subscription, .. } if !subscription.ends() => {
                subscription.schedule_id.clone().map(Self::First)
            }
            StripeAction::Keep { subscription } => {
                subscription.schedule_id.clone().map(Self::First)
            }
            _ => None,
        }
    }

    /// The schedule of a subscription for which nothing is pending, before the subscription
    /// is put into flexible billing: its last phase may go on for a while.
    pub fn spent(subscription: &SubscriptionRow) -> Option<Self> {
        let schedule = subscription.schedule_id.clone();
        schedule
            .filter(|_| subscription.pending.is_none())
            .map(Self::First)
    }

    pub fn id(&self) -> &str {
        match self {
            Self::First(id) | Self::After(id) | Self::Only(id) => id,
        }
    }
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

    /// What its call charges for usage, and whether the subscription is put into flexible
    /// billing first.
    pub fn take_terms(
        &mut self,
        usage: Option<Vec<UsageCharge>>,
        flexible: bool,
        subscription: Option<&SubscriptionRow>,
    ) {
        (self.usage, self.flexible) = (usage, flexible);
        if flexible && self.releases.is_none() {
            self.releases = subscription.and_then(Release::spent);
        }
    }

    pub fn context(&self) -> Value {
        serde_json::to_value(self).expect("a change is plain data")
    }

    /// Whether it is to cost what a preview has shown.
    pub fn is_quoted(&self) -> bool {
        !self.command["preview"].is_null()
    }
}

/// Adds the change's id to the parameters, so that Stripe stores it.
pub fn mark(params: Params, change: &ChangeRecord) -> Params {
    match change.kind {
        // A cancellation accepts no metadata.
        ChangeKind::EndNow => {
            let said = params.get(COMMENT).unwrap_or(UNSAID);
            let comment = format!("{said} ({CHANGE_ID_KEY} {})", change.id);
            params.set(COMMENT, comment)
        }
        ChangeKind::CallOff | ChangeKind::Withdraw => params,
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
        ChangeKind::CallOff => {
            let released = change.releases.as_ref().map(Release::id);
            released.is_some() && schedule_of(subscription) != released
        }
        ChangeKind::SwitchLater => {
            let of = |object: &Value| object["metadata"][CHANGE_ID_KEY].as_str() == Some(&id);
            of(&subscription["schedule"]) || of(subscription)
        }
        // Its invoice says that.
        ChangeKind::Withdraw => false,
        _ => {
            let made = subscription["metadata"][CHANGE_ID_KEY].as_str();
            made == Some(&id) || awaited_change_id(subscription) == Some(&id)
        }
    }
}

/// A cancellation's comment as the customer wrote it, without our mark.
pub fn comment_of(comment: &str) -> Option<&str> {
    let said = match comment.rsplit_once(&format!(" ({CHANGE_ID_KEY} ")) {
        Some((said, _)) => said,
        None => comment,
    };
    (said != UNSAID).then_some(said)
}

/// The command as the audit chain has it, without what the customer typed; and apart from
/// it the reason, which can be erased. The discount's own entry says which code it was.
pub fn audited_command(command: &Value) -> (Value, Option<String>) {
    let mut audited = command.clone();
    let mut take = |name: &str| audited.as_object_mut().and_then(|of| of.remove(name));
    let (reason, code) = (take("reason"), take("promotionCode"));
    if code.is_some() {
        audited["promotionCodeGiven"] = json!(true);
    }
    let words = reason.as_ref().and_then(Value::as_str).map(str::to_owned);
    (audited, words)
}

/// Whether the request to Stripe can no longer be in flight.
pub fn is_no_longer_in_flight(request: &Request, now: Timestamp) -> bool {
    let since = request.called_at.unwrap_or(request.created_at);
    now.duration_since(since) > MAX_IN_FLIGHT
}

/// The command as it is stored.
pub fn recorded_command(command: Command<'_>, quote: Option<&Quote>) -> Value {
    let mut recorded = match command {
        Command::Subscribe {
            selection,
            trial_days,
            ..
        } => {
            let tier = selection.tier;
            let recorded = json!({"wish": "subscribe", "planTier": tier, "trialDays": trial_days});
            with_selection(recorded, selection)
        }
        Command::Change {
            selection, when, ..
        } => {
            let recorded = json!({"wish": "change", "planTier": selection.tier});
            with_time(with_selection(recorded, selection), when)
        }
        Command::Migrate {
            terms,
            version,
            when,
            ..
        } => {
            let recorded =
                json!({"wish": "migrate", "planTier": terms.tier, "planVersion": version});
            with_time(recorded, Some(when).filter(|when| *when != When::Now))
        }
        Command::Cancel {
            immediately,
            details,
        } => {
            let mut recorded = json!({"wish": "cancel", "immediately": immediately});
            let said = [("reason", details.reason), ("feedback", details.feedback)];
            for (name, said) in said {
                if let Some(said) = said {
                    recorded[name] = json!(said);
                }
            }
            recorded
        }
        Command::Reactivate => json!({"wish": "reactivate"}),
        Command::CallOff => json!({"wish": "call_off"}),
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

fn with_time(mut recorded: Value, when: Option<When>) -> Value {
    if let Some(when) = when {
        recorded["when"] = json!(when);
    }
    recorded
}

/// What is said of a selection besides the plan.
fn with_selection(mut recorded: Value, selection: Selection<'_>) -> Value {
    if let Some(interval) = selection.interval {
        recorded["interval"] = json!(interval);
    }
    if let Some(currency) = selection.currency {
        recorded["currency"] = json!(currency.to_ascii_lowercase());
    }
    if let Some(quantity) = selection.quantity {
        recorded["quantity"] = json!(quantity);
    }
    if let Some(addons) = selection.addons {
        recorded["addons"] = json!(addons);
    }
    recorded
}
