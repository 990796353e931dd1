//! `GET /api/billing/payment-methods`.

use axum::Json;
use axum::extract::State;
use utoipa_axum::routes;

use super::{PaymentMethod, Position, store};
use crate::server::Shared;
use crate::server::extract::Query;
use crate::server::pagination::page::{Page, Paging};
use crate::server::problem::Problem;
use crate::server::routes::{Permission, Routes, tenant};
use crate::tenancy::auth::Principal;

pub fn routes() -> Routes<Shared> {
    Routes::new().route(routes!(list), tenant(Permission::BillingRead))
}

/// Attached payment methods, newest first
#[utoipa::path(
    get,
    path = "/api/billing/payment-methods",
    operation_id = "listPaymentMethods",
    tag = "Payment methods",
    params(Paging),
    responses((status = 200, description = "A page of payment methods.", body = Page<PaymentMethod>)),
)]
async fn list(
    State(shared): State<Shared>,
    caller: Principal,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<PaymentMethod>>, Problem> {
    let organization = caller.organization_id;
    let cursors = shared.cursors.of(organization, "payment-methods", &());
    let cursors = cursors.await?;
    let after: Option<Position> = cursors.place(paging.cursor.as_deref())?;
    let mut tx = shared.read(organization).await?;
    let rows = store::list(&mut tx, after.as_ref(), paging.limit.rows()).await?;
    Ok(Json(Page::of(rows, paging.limit, &cursors, Position::of)))
}
