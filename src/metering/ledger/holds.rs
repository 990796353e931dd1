//! Uses that the product holds by ids of its own, until it says what was used.
//! A hold is settled once: confirmed, released or expired.

use jiff::Timestamp;
use rust_decimal::Decimal;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{Ledger, LedgerError, NewEvent, Op, QuotaDecision, Reply, unexpected};
use crate::db::words::words;

/// A use to be held.
#[derive(Debug, Clone)]
pub struct NewHold {
    pub name: String,
    pub metric: String,
    pub quantity: Decimal,
    pub ttl_secs: u32,
}

/// A hold as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Hold {
    pub id: Uuid,
    /// What the product calls it, and the use once it is counted.
    pub name: String,
    pub metric: String,
    pub quantity: Decimal,
    pub period_start: i64,
    pub reserved_at: Timestamp,
    pub expires_at: Timestamp,
    /// `None` while it holds.
    pub settled: Option<Settled>,
}

/// How a hold was settled.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    pub outcome: HoldOutcome,
    /// What was used, and how much of it was counted.
    pub used: Decimal,
    pub counted: Decimal,
    /// Why the rest was not: a code.
    pub refusal: Option<String>,
}

impl Settled {
    pub fn nothing(outcome: HoldOutcome) -> Self {
        Self {
            outcome,
            used: Decimal::ZERO,
            counted: Decimal::ZERO,
            refusal: None,
        }
    }
}

words! {
    pub enum HoldOutcome {
        Confirmed = "confirmed",
        Released = "released",
        Expired = "expired",
    }
}

/// How a hold is to be settled.
#[derive(Debug, Clone)]
pub struct Settling {
    pub hold: Hold,
    pub command: HoldCommand,
}

#[derive(Debug, Clone)]
pub enum HoldCommand {
    Confirm {
        /// What was used.
        used: Box<NewEvent>,
        /// What was held, which is counted if the rest is not allowed.
        covered: Box<NewEvent>,
    },
    Release,
    /// Its time is over.
    Expire,
}

impl Settling {
    /// The event to count, if the hold is confirmed.
    pub(super) fn event(&self) -> Option<&NewEvent> {
        match &self.command {
            HoldCommand::Confirm { used, .. } => Some(used),
            HoldCommand::Release | HoldCommand::Expire => None,
        }
    }
}

/// The id under which a hold of this name is stored: the same on every replica.
pub fn hold_id(name: &str) -> Uuid {
    let digest = Sha256::digest(format!("hold\n{name}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

impl Hold {
    fn event(&self, quantity: Decimal) -> NewEvent {
        NewEvent {
            id: self.name.clone(),
            metric: self.metric.clone(),
            quantity,
            occurred_at: None,
            metadata: None,
        }
    }
}

impl Ledger {
    /// Decides about a use, and holds it if it is allowed. The same hold again is the
    /// one that there is.
    pub async fn hold(
        &self,
        organization_id: Uuid,
        hold: NewHold,
    ) -> Result<(QuotaDecision, Option<Hold>), LedgerError> {
        let id = hold_id(&hold.name);
        match self.ask(organization_id, Op::Hold { id, hold }).await? {
            Reply::Held(decided, hold) => Ok((decided, hold)),
            other => Err(unexpected(&other)),
        }
    }

    /// Counts what was used of a hold. It comes back as it is settled, which may have
    /// been before.
    pub async fn confirm_hold(
        &self,
        organization_id: Uuid,
        hold: Hold,
        used: Decimal,
    ) -> Result<(Hold, Option<QuotaDecision>), LedgerError> {
        let command = HoldCommand::Confirm {
            used: Box::new(hold.event(used)),
            covered: Box::new(hold.event(hold.quantity)),
        };
        self.settle_hold(organization_id, hold, command).await
    }

    /// Lets a hold go. It comes back as it is settled, which may have been before.
    pub async fn release_hold(
        &self,
        organization_id: Uuid,
        hold: Hold,
    ) -> Result<Hold, LedgerError> {
        let settled = self
            .settle_hold(organization_id, hold, HoldCommand::Release)
            .await;
        settled.map(|(hold, _)| hold)
    }

    /// Lets a hold go whose time is over.
    pub(super) async fn expire_hold(
        &self,
        organization_id: Uuid,
        hold: Hold,
    ) -> Result<Hold, LedgerError> {
        let settled = self
            .settle_hold(organization_id, hold, HoldCommand::Expire)
            .await;
        settled.map(|(hold, _)| hold)
    }

    async fn settle_hold(
        &self,
        organization_id: Uuid,
        hold: Hold,
        command: HoldCommand,
    ) -> Result<(Hold, Option<QuotaDecision>), LedgerError> {
        let op = Op::SettleHold(Box::new(Settling { hold, command }));
        match self.ask(organization_id, op).await? {
            Reply::HoldSettled(hold, decided) => Ok((*hold, decided)),
            other => Err(unexpected(&other)),
        }
    }
}
