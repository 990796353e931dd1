//! `/api/billing/invoices`. The next invoice is the subscriptions' to foretell.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;
use serde::Deserialize;
use sqlx::postgres::PgPool;

use super::{Details, Invoice, Place, store};
use crate::auth::Principal;
use crate::db::RequestTx;
use crate::error::Problem;
use crate::http::extract::{Path, Query};
use crate::http::page::{DEFAULT_LIMIT, MAX_LIMIT, Page};

pub fn router(pool: PgPool) -> Router {
    Router::new()
        .route("/api/billing/invoices", get(list))
        .route("/api/billing/invoices/{id}", get(one))
        .route("/api/billing/invoices/{id}/pdf", get(pdf))
        .with_state(pool)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Paging {
    limit: Option<u32>,
    cursor: Option<String>,
}

fn wrong(code: &'static str, detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, code, detail)
}

async fn list(
    State(pool): State<PgPool>,
    principal: Principal,
    Query(paging): Query<Paging>,
) -> Result<axum::Json<Page<Invoice>>, Problem> {
    let limit = paging.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        let detail = format!("limit is a number from 1 to {MAX_LIMIT}");
        return Err(wrong("invalid_query", detail));
    }
    let after = paging.cursor.as_deref().map(|cursor| {
        Place::read(cursor).ok_or_else(|| {
            let detail = "the cursor is no nextCursor of this list's; begin without one";
            wrong("invalid_cursor", detail.to_owned())
        })
    });
    let after = after.transpose()?;
    let mut tx = RequestTx::begin(&pool, principal.organization_id).await?;
    let rows = store::list(&mut tx, after.as_ref(), i64::from(limit) + 1).await?;
    let page = Page::of(rows, limit, |last| Place::of(last).write());
    Ok(axum::Json(page))
}

fn unknown() -> Problem {
    Problem::not_found("there is no such invoice")
}

async fn one(
    State(pool): State<PgPool>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<axum::Json<Details>, Problem> {
    let mut tx = RequestTx::begin(&pool, principal.organization_id).await?;
    let found = store::one(&mut tx, &id).await?;
    found.map(axum::Json).ok_or_else(unknown)
}

/// Stripe keeps the PDF, behind an address that nobody guesses.
async fn pdf(
    State(pool): State<PgPool>,
    principal: Principal,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    let mut tx = RequestTx::begin(&pool, principal.organization_id).await?;
    let address = store::pdf(&mut tx, &id).await?;
    let address = address.filter(|address| address.starts_with("http"));
    address
        .map(|address| Redirect::to(&address))
        .ok_or_else(|| Problem::not_found("there is no such invoice, or it has no PDF yet"))
}
