//! Requests to Stripe of which it is not known what became of them.

use super::{Drift, DriftKind, Reconciliation};
use crate::db::{TenantTx, WorkerTx};
use crate::stripe::client::{Client, ErrorKind};
use crate::stripe::requests::{self, Which};
use crate::subscriptions::Subscriptions;
use crate::subscriptions::change::execute::look;
use crate::subscriptions::change::record::{Change, QUIET};
use crate::subscriptions::failure::Failure;

/// More than these are looked at the next time.
const MOST_REQUESTS: i64 = 1_000;

impl Subscriptions {
    /// What was left open, and what recovery gave up.
    pub(super) async fn left_open(
        &self,
        client: &Client,
        apply: bool,
        found: &mut Reconciliation,
    ) -> Result<(), Failure> {
        for (which, kind) in [
            (Which::Open, DriftKind::OpenRequest),
            (Which::Abandoned, DriftKind::AbandonedRequest),
        ] {
            let mut tx = WorkerTx::begin(&self.pool).await?;
            let requests = requests::find(tx.conn(), which, QUIET, MOST_REQUESTS).await?;
            tx.rollback().await?;
            for request in requests {
                let request = match request {
                    Ok(request) => request,
                    Err(unreadable) => {
                        found.drift.push(Drift::new(
                            kind,
                            unreadable.organization_id,
                            unreadable.id.to_string(),
                            vec![unreadable.error],
                        ));
                        continue;
                    }
                };
                let what = format!("{} {}", request.operation, request.subject);
                let mut drift = Drift::new(
                    kind,
                    request.organization_id,
                    request.id.to_string(),
                    vec![what],
                );
                if apply {
                    let settled = match kind {
                        DriftKind::OpenRequest => self.recover(client, &request).await,
                        _ => self.look_once_more(client, &request).await,
                    };
                    drift.set_healed(settled)?;
                }
                found.drift.push(drift);
            }
        }
        Ok(())
    }

    /// Looks what became of a request that recovery gave up.
    async fn look_once_more(
        &self,
        client: &Client,
        request: &requests::Request,
    ) -> Result<bool, Failure> {
        if let Some(change) = Change::of(request) {
            match look(client, request, &change).await {
                Ok(Some(seen)) => {
                    self.mirror_seen(request.organization_id, seen, None)
                        .await?;
                }
                Ok(None) => {}
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(Failure::Stripe(error)),
            }
        }
        let mut tx = TenantTx::begin(&self.pool, request.organization_id).await?;
        requests::acknowledge(tx.conn(), request.organization_id, request.id).await?;
        tx.commit().await?;
        Ok(true)
    }
}
