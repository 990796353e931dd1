//! `GET /api/billing/usage-alerts`.

use axum::Json;
use axum::extract::State;
use utoipa_axum::routes;

use super::Alert;
use super::store::{self, Position};
use super::webhook::Message;
use crate::server::Shared;
use crate::server::extract::Query;
use crate::server::pagination::page::{Page, Paging};
use crate::server::problem::Problem;
use crate::server::routes::{Permission, Routes, tenant};
use crate::tenancy::auth::Principal;

pub fn routes() -> Routes<Shared> {
    Routes::new()
        .route(routes!(list), tenant(Permission::BillingRead))
        // What the application is sent; the description has it beside the routes.
        .schema::<Message>()
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
    let cursors = shared.cursors.of(organization, "usage-alerts", &()).await?;
    let after: Option<Position> = cursors.place(paging.cursor.as_deref())?;
    let mut tx = shared.read(organization).await?;
    let rows = store::list(&mut tx, after.as_ref(), paging.limit.rows()).await?;
    let position = |row: &Alert| Position {
        raised_at: row.raised_at,
        id: row.id,
    };
    Ok(Json(Page::of(rows, paging.limit, &cursors, position)))
}
