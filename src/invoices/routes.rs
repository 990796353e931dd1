//! `/api/billing/invoices`. The upcoming invoice is with the subscriptions.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use utoipa_axum::routes;

use super::{Details, Invoice, Position};
use crate::server::Shared;
use crate::server::extract::{Path, Query};
use crate::server::pagination::page::{Listed, Page, Paging};
use crate::server::problem::Problem;
use crate::server::routes::{Permission, Routes, tenant};
use crate::tenancy::auth::Principal;

pub fn routes() -> Routes<Shared> {
    let read = tenant(Permission::BillingRead);
    Routes::new()
        .route(routes!(list), read)
        .route(routes!(one), read)
        .route(routes!(pdf), read.any_accept())
}

impl Listed for Invoice {
    type Position = Position;

    fn position(&self) -> Position {
        Position {
            created_at: self.created_at,
            id: self.id.clone(),
        }
    }
}

/// Invoices, newest first
#[utoipa::path(
    get,
    path = "/api/billing/invoices",
    operation_id = "listInvoices",
    tag = "Invoices",
    params(Paging),
    responses((status = 200, description = "A page of invoices.", body = Page<Invoice>)),
)]
async fn list(
    State(shared): State<Shared>,
    caller: Principal,
    Query(paging): Query<Paging>,
) -> Result<axum::Json<Page<Invoice>>, Problem> {
    let page = super::page(&shared, caller.organization_id, &paging);
    Ok(axum::Json(page.await?))
}

/// An invoice with its lines
#[utoipa::path(
    get,
    path = "/api/billing/invoices/{id}",
    operation_id = "getInvoice",
    tag = "Invoices",
    params(("id" = String, Path, description = "Stripe's invoice id.", example = "in_1")),
    responses((status = 200, description = "The invoice.", body = Details)),
)]
async fn one(
    State(shared): State<Shared>,
    caller: Principal,
    Path(id): Path<String>,
) -> Result<axum::Json<Details>, Problem> {
    let found = super::details(&shared, caller.organization_id, &id);
    found.await.map(axum::Json)
}

/// An invoice's PDF
///
/// Redirects to Stripe, which serves it at an address that cannot be guessed.
#[utoipa::path(
    get,
    path = "/api/billing/invoices/{id}/pdf",
    operation_id = "getInvoicePdf",
    tag = "Invoices",
    params(("id" = String, Path, description = "Stripe's invoice id.", example = "in_1")),
    responses((status = 302, description = "A redirect to the PDF.",
               headers(("Location" = String, description = "Stripe's address.")))),
)]
async fn pdf(
    State(shared): State<Shared>,
    caller: Principal,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    let address = super::pdf(&shared, caller.organization_id, &id).await?;
    Ok((StatusCode::FOUND, [(header::LOCATION, address)]))
}
