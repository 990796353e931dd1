//! The types that the projection's parts share.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::decode::Decoded;
use super::versions;
use crate::audit::{self, Actor, NewEntry};
use crate::catalogue::Catalogue;
use crate::config::UnknownCustomers;
use crate::mail;
use crate::metering::grace;
use crate::stripe::account::Account;
use crate::telemetry::metrics;

/// The result of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handled {
    /// It changed, or confirmed, the state of its object.
    Applied(Uuid),
    /// A later event of the object was applied before it.
    Superseded(Uuid),
    /// It is about no organization, and noted for what asks Stripe about it.
    Noted,
    /// Its type has no handler.
    Ignored,
    /// It has no known owner, like a guest's payment. It is processed again once
    /// `waiting_for` has an owner.
    Unclaimed { waiting_for: Option<String> },
    /// Its mode is not that of the configured key.
    LivemodeMismatch,
    /// Its account is not that of the configured key.
    ForeignAccount,
}

impl Handled {
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Applied(_) | Self::Noted => "applied",
            Self::Superseded(_) => "superseded",
            Self::Ignored | Self::Unclaimed { .. } => "ignored",
            Self::LivemodeMismatch => "livemode_mismatch",
            Self::ForeignAccount => "foreign_account",
        }
    }

    pub fn organization_id(&self) -> Option<Uuid> {
        match self {
            Self::Applied(id) | Self::Superseded(id) => Some(*id),
            _ => None,
        }
    }
}

/// Why an event could not be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandlerError {
    /// It can be applied once its customer is known.
    #[error("{problem}")]
    UnknownOrganization {
        customer_id: Option<String>,
        problem: String,
    },
    /// Another transaction holds its organization.
    #[error("another transaction holds organization {0}")]
    Locked(Uuid),
    /// It was refused for a transient reason.
    #[error("{0}")]
    Refused(String),
    /// Retrying does not help.
    #[error("{0}")]
    Permanent(String),
}

/// The context for applying events.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    pub catalogue: &'a Catalogue,
    /// The mode of the configured key; without a key, both modes are accepted.
    pub key_is_live: Option<bool>,
    pub unknown_customers: UnknownCustomers,
    /// The account of that key.
    pub account: Account,
}

/// The result of a batch: one result per event, and what to count after the
/// commit.
#[derive(Debug, Default)]
pub struct Applied {
    pub results: Vec<Result<Handled, HandlerError>>,
    pub appended: audit::Appended,
    /// Newly raised alerts.
    pub alerts: Vec<NewAlert>,
    /// Grace periods that ended.
    pub graces: Vec<grace::Ended>,
}

impl Applied {
    /// Counts what was written. Call it after the commit.
    pub fn count(&self) {
        self.appended.count();
        report_alerts(&self.alerts);
        grace::count(&self.graces);
    }
}

/// Counts and logs committed alerts.
pub fn report_alerts(alerts: &[NewAlert]) {
    for alert in alerts {
        metrics::alert(alert.kind);
        tracing::warn!(
            kind = alert.kind,
            organization_id = %alert.organization_id,
            resource_type = alert.resource_type,
            resource_id = alert.resource_id,
            detail = alert.message,
            "Billing alert raised"
        );
    }
}

/// How a batch treats held organizations, and the owners of its events.
#[derive(Debug, Default)]
pub struct Batch {
    /// Wait for held organizations instead of leaving their events out.
    pub wait: bool,
    /// Organizations to leave out.
    pub blocked: HashSet<Uuid>,
    /// The organization of each event, once found; known even if the transaction
    /// fails.
    pub owners: Vec<Option<Uuid>>,
}

/// An alert for the operator or the customer.
#[derive(Debug, Clone)]
pub struct NewAlert {
    pub organization_id: Uuid,
    pub kind: &'static str,
    /// Identifies the alert: raised again with the same key, it is the same one.
    pub key: String,
    pub resource_type: &'static str,
    pub resource_id: String,
    pub message: String,
    pub occurred_at: Timestamp,
}

/// The consequences that a batch will write.
pub(super) struct Effects {
    /// The actor of the audit entries.
    pub(super) actor: Actor,
    pub(super) entries: Vec<NewEntry>,
    pub(super) alerts: Vec<NewAlert>,
    /// What customers are told by mail.
    pub(super) mails: Vec<mail::Fact>,
    /// Grace periods ended by a new plan.
    pub(super) graces: Vec<grace::Ended>,
}

impl Effects {
    pub(super) fn of(actor: Actor) -> Self {
        Self {
            actor,
            entries: Vec::new(),
            alerts: Vec::new(),
            mails: Vec::new(),
            graces: Vec::new(),
        }
    }

    pub(super) fn record(&mut self, event: &Decoded<'_>, entry: NewEntry) {
        let metadata = json!({
            "stripe_event_id": event.stored.id,
            "event_type": event.stored.event_type,
        });
        self.entries.push(NewEntry {
            actor: self.actor,
            metadata,
            ..entry
        });
    }
}

/// The events of a batch, and which of them are newer than the stored state.
pub(super) struct Results<'a> {
    pub(super) decoded: &'a [Decoded<'a>],
    pub(super) newer: Vec<bool>,
}

/// The events of a batch, by object.
pub(super) type ByObject<'a, T> = BTreeMap<(Uuid, String), Vec<(usize, &'a Decoded<'a>, &'a T)>>;

impl<'a> Results<'a> {
    pub(super) fn by_object<T: versions::Mirrored>(&self) -> ByObject<'a, T> {
        let mut objects = ByObject::new();
        for (position, event) in self.decoded.iter().enumerate() {
            if let (Some(owner), Some(object)) = (event.owner, T::of(&event.object)) {
                let key = (owner, object.id().to_owned());
                objects
                    .entry(key)
                    .or_default()
                    .push((position, event, object));
            }
        }
        objects
    }
}
