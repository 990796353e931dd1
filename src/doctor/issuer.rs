//! The issuer of the product's own tokens.

use super::Check;
use crate::config::IssuerConfig;
use crate::tenancy::auth::issued;

pub async fn check(issuer: Option<&IssuerConfig>) -> Check {
    let name = "signing keys";
    let Some(issuer) = issuer else {
        let detail =
            "AUTH_JWKS_URL is not set: only this service's own tokens and keys are accepted";
        return Check::skipped(name, detail);
    };
    match issued::fetch(&issuer.jwks_url).await {
        Ok(keys) => Check::ok(
            name,
            format!(
                "{keys} at AUTH_JWKS_URL, for tokens of {} for {}",
                issuer.issuer, issuer.audience
            ),
        ),
        Err(error) => Check::failed(
            name,
            format!("AUTH_JWKS_URL: {error}"),
            "check AUTH_JWKS_URL (jwks_uri of the issuer's /.well-known/openid-configuration) and the \
             network path to it; until it answers, replicas that start refuse all of its tokens \
             with 503, and others do so a day after they last read the keys",
        ),
    }
}
