//! Operators and their keys.

use jiff::Timestamp;
use sqlx::postgres::PgPool;

use super::Check;
use crate::config::OidcConfig;
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

/// The operators' identity provider.
pub async fn check_provider(oidc: Option<&OidcConfig>) -> Check {
    let name = "identity provider";
    let Some(oidc) = oidc else {
        let detail = "OIDC_ISSUER is not set: operators sign in with passwords";
        return Check::skipped(name, detail);
    };
    match auth::reach_provider(oidc).await {
        Ok(()) => Check::ok(name, format!("{} answers, and has keys", oidc.issuer)),
        Err(failure) => Check::failed(
            name,
            format!("OIDC_ISSUER: {failure}"),
            "check OIDC_ISSUER (it is to the letter the `issuer` of its \
             /.well-known/openid-configuration) and the network path to it; with \
             OIDC_ALLOW_PASSWORDS=true operators can sign in with passwords meanwhile",
        ),
    }
}
