//! `/api/operator/organizations/{organization}/drift`: our state beside Stripe's.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use tokio::runtime::Handle;
use utoipa_axum::routes;
use uuid::Uuid;

use super::{CompareError, Compared, Subscriptions};
use crate::audit;
use crate::db::WorkerTx;
use crate::server::extract::Path;
use crate::server::problem::Problem;
use crate::server::routes::{Routes, operator};
use crate::tenancy::auth::Operator;
use crate::tenancy::organizations;

/// The audit action of an operator's comparison.
pub const COMPARED: &str = "organization_compared";

pub(super) fn routes() -> Routes<Subscriptions> {
    Routes::new().route(routes!(drift), operator())
}

/// Compare an organization with Stripe
///
/// Its three newest customers with their subscriptions, payment methods and newest invoices, field
/// by field, as `subscriptions reconcile` compares them. Nothing is changed. A comparison of the last
/// 30 seconds is shown again.
#[utoipa::path(
    get,
    path = "/api/operator/organizations/{organization}/drift",
    operation_id = "compareOrganization",
    tag = "Operators",
    params(("organization" = Uuid, Path, description = "The organization's id.")),
    responses((status = 200, description = "What differs.", body = Compared)),
)]
async fn drift(
    State(subscriptions): State<Subscriptions>,
    operator: Operator,
    Path(organization): Path<Uuid>,
) -> Result<Json<Compared>, Problem> {
    let compared = subscriptions.compare_for(&operator, organization).await?;
    Ok(Json(Compared::clone(&compared)))
}

impl Subscriptions {
    /// Compares an organization with Stripe for an operator; the look is in the audit log.
    pub async fn compare_for(
        &self,
        operator: &Operator,
        organization: Uuid,
    ) -> Result<Arc<Compared>, CompareError> {
        let mut tx = WorkerTx::begin(&self.pool).await.map_err(database)?;
        let known = organizations::find(tx.conn(), &organization.to_string()).await;
        if known.map_err(database)?.is_none() {
            return Err(CompareError::NoOrganization);
        }
        let id = organization.to_string();
        let entry = operator.did(COMPARED, Some(organization), "organization", id);
        audit::record_one(&mut tx, entry).await.map_err(database)?;
        tx.commit().await.map_err(database)?;
        // On a blocking thread: the compiler cannot prove that what could heal is `Send`.
        let (subscriptions, runtime) = (self.clone(), Handle::current());
        let comparing = tokio::task::spawn_blocking(move || {
            runtime.block_on(subscriptions.compare_one(organization))
        });
        match comparing.await {
            Ok(compared) => compared,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

fn database(error: sqlx::Error) -> CompareError {
    CompareError::Failed(error.into())
}

impl From<CompareError> for Problem {
    fn from(error: CompareError) -> Self {
        let message = error.to_string();
        match error {
            CompareError::NoOrganization => Self::not_found(message),
            CompareError::NotConfigured => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "stripe_not_configured",
                message,
            ),
            CompareError::TooSlow => Self::unavailable("stripe_unreachable", &message),
            CompareError::Failed(failure) => failure.into(),
        }
    }
}
