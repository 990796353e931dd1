//! Requests to Stripe whose outcome is not known.

use super::{Drift, DriftKind, Reconciliation};
use crate::db::{TenantTx, WorkerTx};
use crate::stripe::client::{Client, ErrorKind};
use crate::stripe::requests::{self, Which};
use crate::subscriptions::Subscriptions;
use crate::subscriptions::change::execute::find_outcome;
use crate::subscriptions::change::record::{ChangeRecord, MAX_IN_FLIGHT};
use crate::subscriptions::failure::Failure;

/// Further requests are handled by the next reconciliation.
const MAX_REQUESTS: i64 = 1_000;

impl Subscriptions {
    /// Reports open and abandoned requests; with `apply`, settles them.
    pub(super) async fn settle_open_requests(
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
            let requests = requests::find(tx.conn(), which, MAX_IN_FLIGHT, MAX_REQUESTS).await?;
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
                let what = format!("{} {}", request.operation, request.subject.as_str());
                let mut drift = Drift::new(
                    kind,
                    request.organization_id,
                    request.id.to_string(),
                    vec![what],
                );
                if apply {
                    let settled = match kind {
                        DriftKind::OpenRequest => self.recover(client, &request).await,
                        _ => self.check_abandoned_request(client, &request).await,
                    };
                    drift.set_healed(settled)?;
                }
                found.drift.push(drift);
            }
        }
        Ok(())
    }

    /// Mirrors the outcome of an abandoned request, if Stripe shows one.
    async fn check_abandoned_request(
        &self,
        client: &Client,
        request: &requests::Request,
    ) -> Result<bool, Failure> {
        if let Some(change) = ChangeRecord::of(request) {
            match find_outcome(client, request, &change).await {
                Ok(Some(snapshot)) => {
                    self.mirror_snapshot(request.organization_id, snapshot, None)
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
