//! `GET /api/billing/state`.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::routes;

use super::States;
use super::cache::Read;
use super::document::Document;
use crate::server::conditional::is_kept;
use crate::server::extract::Query;
use crate::server::layers::Peer;
use crate::server::problem::Problem;
use crate::server::routes::{Permission, RateClass, Routes, Share, tenant};
use crate::tenancy::auth::{Principal, Standing};

/// The longest that a request waits for a change.
const WAIT_SECS: u8 = 30;

pub fn routes() -> Routes<States> {
    let rules = tenant(Permission::BillingRead)
        .metered(RateClass::Usage)
        .share(Share::States)
        .waiting(Duration::from_secs(WAIT_SECS.into()));
    Routes::new().route(routes!(state), rules)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct StateQuery {
    /// Answer only if the version is above this one.
    #[param(minimum = 0, example = 41)]
    after: Option<i64>,
    /// How many seconds to wait for that.
    #[param(minimum = 0, maximum = 30, example = 30)]
    wait: Option<u8>,
}

/// Everything about the organization in one read
///
/// `stateVersion` is higher after each change, on every replica at once. With `If-None-Match`,
/// the answer is 304 while nothing has changed; with `after`, 204 unless the version is above it,
/// which is waited for if `wait` says so.
#[utoipa::path(
    get,
    path = "/api/billing/state",
    operation_id = "getState",
    tag = "State",
    params(StateQuery),
    responses(
        (status = 200, description = "The state, with an `ETag`.", body = Document),
        (status = 204, description = "The version is not above `after`."),
        (status = 304, description = "It is what `If-None-Match` names."),
    ),
)]
async fn state(
    State(states): State<States>,
    caller: Principal,
    Extension(standing): Extension<Standing>,
    Extension(peer): Extension<Peer>,
    Query(query): Query<StateQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let organization_id = caller.organization_id;
    let wait = query.wait.unwrap_or(0);
    let versions = &states.0.versions;
    let mut version = versions.now(organization_id).await?;
    if wait > WAIT_SECS || query.after.is_some_and(|after| after < 0) {
        return Err(invalid(format!(
            "after is a version, 0 or above; wait is at most {WAIT_SECS} seconds"
        )));
    }
    match query.after {
        None if wait > 0 => {
            return Err(invalid(
                "wait needs after, the version that you have".to_owned(),
            ));
        }
        // As one of another organization, or of a database that was restored since.
        Some(after) if after > version => {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "unknown_state_version",
                format!("the version is {version}, and after is above it; read without after"),
            ));
        }
        Some(after) if after == version => {
            let patience = Duration::from_secs(wait.into());
            let waiting = versions.above(organization_id, after, patience);
            let Some(above) = peer.0.waits_for(waiting).await? else {
                return Ok(StatusCode::NO_CONTENT.into_response());
            };
            // The change may be that the caller may read no more.
            if !standing
                .still(Permission::BillingRead, organization_id)
                .await?
            {
                return Err(Principal::ended());
            }
            version = above;
        }
        _ => {}
    }
    let read = states.at(organization_id, version).await?;
    Ok(answer(read, &headers))
}

fn invalid(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid_query", detail)
}

fn answer(read: Read, asked: &HeaderMap) -> Response {
    let control = HeaderValue::from_static("private, no-cache");
    let mut response = if is_kept(asked, &read.tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let kind = HeaderValue::from_static("application/json");
        ([(header::CONTENT_TYPE, kind)], read.body).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, control);
    if let Ok(tag) = HeaderValue::try_from(read.tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}
