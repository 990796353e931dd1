//! `/api/operator/users/{user}/sessions`: where users are signed in, and ending it. Every access
//! is in the audit log.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use utoipa_axum::routes;
use uuid::Uuid;

use super::operator_routes::Access;
use super::{By, OpenSession, Operator, end_session, end_sessions, open_sessions, user};
use crate::server::extract::{Path, Query};
use crate::server::pagination::page::{Page, Paging};
use crate::server::problem::Problem;
use crate::server::routes::{Routes, operator};

/// The audit action of a look.
pub const LISTED: &str = "user_sessions_listed";

pub fn routes() -> Routes<Access> {
    Routes::new()
        .route(routes!(sessions), operator())
        .route(routes!(end), operator())
        .route(routes!(end_all), operator())
}

/// A user's sessions that have not ended, the newest first
#[utoipa::path(
    get,
    path = "/api/operator/users/{user}/sessions",
    operation_id = "listUserSessions",
    tag = "Operators",
    params(("user" = Uuid, Path, description = "The user's id."), Paging),
    responses((status = 200, description = "A page of sessions.", body = Page<OpenSession>)),
)]
async fn sessions(
    State(access): State<Access>,
    operator: Operator,
    Path(id): Path<Uuid>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<OpenSession>>, Problem> {
    let pool = &access.shared.pool;
    user(pool, id).await?;
    let open = open_sessions(&access.shared, id, &paging).await?;
    let look = (LISTED, "user");
    super::operator_looked(pool, &operator, look, id.to_string()).await?;
    Ok(Json(open))
}

/// End one of a user's sessions, on every replica at once
#[utoipa::path(
    delete,
    path = "/api/operator/users/{user}/sessions/{session}",
    operation_id = "endUserSession",
    tag = "Operators",
    params(
        ("user" = Uuid, Path, description = "The user's id."),
        ("session" = Uuid, Path, description = "The session's id."),
    ),
    responses((status = 204, description = "It has ended.")),
)]
async fn end(
    State(access): State<Access>,
    operator: Operator,
    Path((id, session)): Path<(Uuid, Uuid)>,
) -> Result<StatusCode, Problem> {
    let pool = &access.shared.pool;
    match end_session(pool, id, session, &By::from(operator)).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::not_found("session not found, or it has ended")),
    }
}

/// End all sessions of a user, on every replica at once
#[utoipa::path(
    delete,
    path = "/api/operator/users/{user}/sessions",
    operation_id = "endUserSessions",
    tag = "Operators",
    params(("user" = Uuid, Path, description = "The user's id.")),
    responses((status = 204, description = "None is left.")),
)]
async fn end_all(
    State(access): State<Access>,
    operator: Operator,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, Problem> {
    let pool = &access.shared.pool;
    user(pool, id).await?;
    end_sessions(pool, id, None, &By::from(operator)).await?;
    Ok(StatusCode::NO_CONTENT)
}
