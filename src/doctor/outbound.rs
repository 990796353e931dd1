//! Whether the product hears of changes.

use sqlx::postgres::PgPool;

use super::Check;
use crate::outbox::endpoints;

pub async fn check(pool: &PgPool) -> Check {
    let name = "event-endpoints";
    match endpoints::given_up(pool).await {
        Ok(given_up) => match given_up.first() {
            None => Check::ok(name, "no endpoint was given up"),
            Some((id, url, reason)) => Check::failed(
                name,
                format!(
                    "{} disabled, such as {id} ({url}): {}",
                    match given_up.len() {
                        1 => "1 endpoint was".to_owned(),
                        many => format!("{many} endpoints were"),
                    },
                    reason.as_deref().unwrap_or_default()
                ),
                "mend the endpoint, then run `events endpoints enable` and `events deliveries \
                 recover`; or `events endpoints remove` (docs/runbook.md, EventEndpointDisabled)",
            ),
        },
        Err(error) => Check::unanswered(name, error),
    }
}
