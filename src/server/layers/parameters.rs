//! Parameters of the query that a route does not have are refused: whoever
//! sends one means something by it.

use axum::http::{StatusCode, Uri};

use crate::server::extract::parse_query;
use crate::server::problem::Problem;
use crate::server::routes::Route;

/// Refuses a parameter that the route's description does not have. Only where
/// the query is ours: forwarded calls have their upstream's, a proxy that asks
/// first is read by its handler, and what Stripe calls is as its operator has
/// entered it there.
pub fn check(route: &Route, uri: &Uri) -> Result<(), Problem> {
    let sent = uri.query().filter(|query| !query.is_empty());
    let Some(known) = route.query.as_ref().filter(|_| sent.is_some()) else {
        return Ok(());
    };
    let sent: Vec<(String, String)> = parse_query(uri)?;
    let mut names = sent.into_iter().map(|(name, _)| name);
    let Some(unknown) = names.find(|name| !known.contains(name)) else {
        return Ok(());
    };
    let unknown: String = unknown.chars().take(100).collect();
    Err(Problem::new(
        StatusCode::BAD_REQUEST,
        "unknown_field",
        format!("Unknown query parameter {unknown:?}."),
    ))
}
