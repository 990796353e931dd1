//! `GET /api/operator/organizations`.

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use utoipa_axum::routes;
use uuid::Uuid;

use super::{LISTED, Organization, store};
use crate::audit;
use crate::db::WorkerTx;
use crate::server::Shared;
use crate::server::extract::Query;
use crate::server::pagination::page::{Listed, Page, Paging};
use crate::server::problem::Problem;
use crate::server::routes::{Routes, operator};
use crate::tenancy::auth::Operator;

pub fn routes() -> Routes<Shared> {
    Routes::new().route(routes!(organizations), operator())
}

/// Organizations, oldest first
#[utoipa::path(
    get,
    path = "/api/operator/organizations",
    operation_id = "listOrganizations",
    tag = "Operators",
    params(Paging),
    responses((status = 200, description = "A page of organizations.", body = Page<Organization>)),
)]
async fn organizations(
    State(shared): State<Shared>,
    operator: Operator,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<Organization>>, Problem> {
    let page = shared.page(Uuid::nil(), "organizations", &paging).await?;
    let mut tx = WorkerTx::begin(&shared.pool).await?;
    let rows = store::page(tx.conn(), page.after, page.rows()).await?;
    let entry = operator.did(LISTED, None, "organization", "all".to_owned());
    audit::record_one(&mut tx, entry).await?;
    tx.commit().await?;
    Ok(Json(page.of(rows)))
}

impl Listed for Organization {
    type Position = (Timestamp, Uuid);

    fn position(&self) -> Self::Position {
        (self.created_at, self.id)
    }
}
