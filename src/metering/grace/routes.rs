//! `GET /api/billing/grace-periods`.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::{Filter, GraceRow, Position};
use crate::server::Shared;
use crate::server::extract::Query;
use crate::server::pagination::page::{self, Limit, Listed, Page};
use crate::server::problem::Problem;
use crate::server::routes::{Permission, Routes, tenant};
use crate::tenancy::auth::Principal;

pub fn routes() -> Routes<Shared> {
    Routes::new().route(routes!(list), tenant(Permission::BillingRead))
}

impl Listed for GraceRow {
    type Position = Position;

    fn position(&self) -> Position {
        Position {
            started_at: self.started_at,
            metric: self.metric.clone(),
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    #[serde(default)]
    #[param(inline)]
    limit: Limit,
    /// `nextCursor` of the previous page.
    cursor: Option<String>,
    /// Only running grace periods.
    #[serde(default)]
    active: bool,
}

impl page::ListQuery for ListQuery {
    fn limit(&self) -> Limit {
        self.limit
    }

    fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    fn filters(&self) -> Value {
        self.active.into()
    }
}

/// Current and past grace periods, newest first
#[utoipa::path(
    get,
    path = "/api/billing/grace-periods",
    operation_id = "listGracePeriods",
    tag = "Usage",
    params(ListQuery),
    responses((status = 200, description = "A page of grace periods.", body = Page<GraceRow>)),
)]
async fn list(
    State(shared): State<Shared>,
    caller: Principal,
    Query(query): Query<ListQuery>,
) -> Result<Json<Page<GraceRow>>, Problem> {
    let organization = caller.organization_id;
    let mut page = shared.page(organization, "grace-periods", &query).await?;
    let filter = Filter {
        organization_id: Some(organization),
        only_active: query.active,
        after: page.after.take(),
        limit: page.rows(),
    };
    let mut tx = shared.read(organization).await?;
    let rows = super::list(tx.conn(), &filter).await?;
    Ok(Json(page.of(rows)))
}
