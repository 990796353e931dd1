//! Operators and their keys.

use jiff::Timestamp;
use sqlx::postgres::PgPool;

use super::Check;
use crate::tenancy::auth::{self, DoubtfulKey};

pub async fn check(pool: &PgPool) -> Vec<Check> {
    vec![keys(pool).await]
}

/// Keys that nobody uses, that are old, or whose maker has gone.
async fn keys(pool: &PgPool) -> Check {
    let name = "operator-keys";
    match auth::doubtful_operator_keys(pool, Timestamp::now()).await {
        Ok(found) if found.is_empty() => {
            Check::ok(name, "each is in use, and its maker is an operator")
        }
        Ok(found) => {
            let said: Vec<String> = found.iter().map(doubt).collect();
            Check::warning(
                name,
                said.join("; "),
                "`api-keys list --operator` shows them; `api-keys revoke --operator` ends one, and \
                 `api-keys create --operator` makes another in its place",
            )
        }
        Err(error) => Check::unanswered(name, error),
    }
}

fn doubt(key: &DoubtfulKey) -> String {
    let doubts = [
        (key.unused, "not used for 90 days"),
        (key.endless, "made more than a year ago, without an end"),
        (key.orphaned, "made by somebody who is no operator any more"),
    ];
    let doubts = doubts
        .into_iter()
        .filter_map(|(holds, text)| holds.then_some(text));
    let doubts: Vec<&str> = doubts.collect();
    format!("{}… ({}): {}", key.prefix, key.name, doubts.join(", "))
}
