//! `GET /api/billing/usage-alerts`.

use axum::Json;
use axum::extract::State;
use utoipa_axum::routes;

use super::Alert;
use super::store::{self, Position};
use crate::server::Shared;
use crate::server::extract::Query;
use crate::server::pagination::page::{Listed, Page, Paging};
use crate::server::problem::Problem;
use crate::server::routes::{Permission, Routes, tenant};
use crate::tenancy::auth::Principal;

pub fn routes() -> Routes<Shared> {
    Routes::new().route(routes!(list), tenant(Permission::BillingRead))
}

/// Usage alerts at 80, 100 and 120 % of a quota, newest first
#[utoipa::path(
    get,
    path = "/api/billing/usage-alerts",
    operation_id = "listUsageAlerts",
    tag = "Usage",
    params(Paging),
    responses((status = 200, description = "A page of alerts.", body = Page<Alert>)),
)]
async fn list(
    State(shared): State<Shared>,
    caller: Principal,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<Alert>>, Problem> {
    let organization = caller.organization_id;
    let page = shared.page(organization, "usage-alerts", &paging).await?;
    let mut tx = shared.read(organization).await?;
    let rows = store::list(&mut tx, page.after.as_ref(), page.rows()).await?;
    Ok(Json(page.of(rows)))
}

impl Listed for Alert {
    type Position = Position;

    fn position(&self) -> Position {
        Position {
            raised_at: self.raised_at,
            id: self.id,
        }
    }
}
