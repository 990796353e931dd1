//! Uses that were counted by mistake are taken back by their ids: audited, and only while
//! their period is open. The id stays, so that nobody counts it again.

use uuid::Uuid;

use super::store::Taken;
use super::{Ledger, LedgerError, Op, Reply, unexpected};
use crate::audit::{Actor, Client};

pub const ACTION: &str = "usage_taken_back";

/// The ledger's audit actions, but for those about grace periods.
pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    [ACTION].into_iter()
}

/// A use to be taken back.
#[derive(Debug, Clone)]
pub struct TakeBack {
    /// As the ledger has it.
    pub event_id: String,
    pub metric: String,
    pub actor: Actor,
    pub client: Option<Client>,
}

impl Ledger {
    /// Takes a use back. One that was taken back before stays as it is.
    pub async fn take_back(
        &self,
        organization_id: Uuid,
        request: TakeBack,
    ) -> Result<Taken, LedgerError> {
        let op = Op::TakeBack(Box::new(request));
        match self.ask(organization_id, op).await? {
            Reply::TakenBack(taken) => Ok(taken),
            other => Err(unexpected(&other)),
        }
    }
}
