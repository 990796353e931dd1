//! The one place that checks credentials, for what their route asks.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sqlx::postgres::PgPool;

use super::lookup::{Lookup, ValidCredential};
use super::principal::{no_credential, unauthenticated};
use super::token;
use super::{Operator, Permission, Principal, Role};
use crate::audit::{Actor, Client};
use crate::server::budget::forwarded_for;
use crate::server::layers::{Peer, checks};
use crate::server::problem::Problem;
use crate::server::routes::Access;

/// Checks credentials.
#[derive(Clone)]
pub struct Guard {
    lookup: Lookup,
    /// How many proxies in front of the service append to X-Forwarded-For.
    proxies: u32,
}

impl Guard {
    /// `credentials` has connections that are billing_worker from the start.
    pub fn new(credentials: PgPool, proxies: u32) -> Self {
        Self {
            lookup: Lookup::new(credentials),
            proxies,
        }
    }
}

impl checks::Guard for Guard {
    /// Lets a request through to its handler, with its caller, or refuses it.
    async fn admit(&self, access: Access, request: &mut Request) -> Result<(), Response> {
        admit(self, access, request).await.map_err(|problem| {
            let unauthenticated = problem.status() == StatusCode::UNAUTHORIZED;
            let mut response = problem.into_response();
            if unauthenticated {
                let scheme = HeaderValue::from_static("Bearer");
                response
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, scheme);
            }
            response
        })
    }
}

async fn admit(guard: &Guard, access: Access, request: &mut Request) -> Result<(), Problem> {
    let client = client(request, guard.proxies);
    if !access.needs_credential() {
        request.extensions_mut().insert(client);
        return Ok(());
    }
    let caller = identify(guard, bearer(request.headers())?, client).await?;
    if request.headers().contains_key(ORGANIZATION) {
        return Err(not_selectable());
    }
    let extensions = request.extensions_mut();
    match (caller, access) {
        (_, Access::Public | Access::StripeSignature) => {}
        (Caller::Key(_), Access::Token) => {
            return Err(forbidden("an API key has no session; this is for users"));
        }
        (Caller::User(principal), Access::Token) => principal.enter(extensions),
        (Caller::Operator(operator), Access::Token | Access::Operator) => {
            operator.enter(extensions);
        }
        (Caller::User(principal), Access::Tenant(permission))
        | (Caller::Key(principal), Access::Tenant(permission) | Access::ApiKey(permission)) => {
            require(&principal, permission)?;
            principal.enter(extensions);
        }
        (Caller::User(_) | Caller::Operator(_), Access::ApiKey(_)) => {
            return Err(forbidden(
                "this endpoint takes an API key, not a user's token",
            ));
        }
        (Caller::User(_) | Caller::Key(_), Access::Operator) => {
            return Err(forbidden("this endpoint is for operators"));
        }
        (Caller::Operator(_), Access::Tenant(_)) => {
            return Err(forbidden(
                "operators do not act for an organization; use /api/operator",
            ));
        }
    }
    Ok(())
}

fn require(principal: &Principal, permission: Permission) -> Result<(), Problem> {
    if principal.may(permission) {
        return Ok(());
    }
    Err(forbidden(&format!(
        "this requires the permission {}",
        permission.as_str()
    )))
}

/// The header with which a service key names its organization.
const ORGANIZATION: &str = "x-organization";

fn not_selectable() -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "organization_not_selectable",
        "this credential cannot choose an organization; leave X-Organization out",
    )
}

fn forbidden(detail: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "forbidden", detail)
}

/// The one bearer credential of a request.
fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or_else(no_credential)?;
    if values.next().is_some() {
        return Err(unauthenticated("send exactly one Authorization header"));
    }
    let scheme_and_token = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().split_once(' '));
    match scheme_and_token {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(unauthenticated(
            "expected `Authorization: Bearer` followed by a token or an API key",
        )),
    }
}

enum Caller {
    User(Principal),
    Key(Principal),
    Operator(Operator),
}

async fn identify(guard: &Guard, credential: &str, client: Client) -> Result<Caller, Problem> {
    let invalid =
        || unauthenticated("the token or API key is unknown, expired or revoked; log in again");
    let credential = token::parse(credential).ok_or_else(invalid)?;
    let found = guard.lookup.find(credential).await?.ok_or_else(invalid)?;
    match found {
        ValidCredential::Session(row) if row.operator => Ok(Caller::Operator(Operator {
            user_id: row.user_id,
            client,
        })),
        ValidCredential::Session(row) => {
            let role = row.role.as_deref().and_then(Role::named);
            let (role, organization_id) = role.zip(row.organization_id).ok_or_else(invalid)?;
            Ok(Caller::User(Principal {
                organization_id,
                actor: Actor::User(row.user_id),
                permissions: role.permissions().to_vec(),
                client,
            }))
        }
        ValidCredential::Key(row) => {
            let scopes = row.scopes.iter();
            Ok(Caller::Key(Principal {
                organization_id: row.organization_id,
                actor: Actor::ApiKey(row.id),
                permissions: scopes.filter_map(|s| Permission::named(s)).collect(),
                client,
            }))
        }
    }
}

/// Where a request came from: the connection's address, or the address that our
/// own proxies report.
fn client(request: &Request, proxies: u32) -> Client {
    let peer = request
        .extensions()
        .get::<Peer>()
        .map(|peer| peer.0.peer.ip());
    let behind_proxy = (proxies > 0).then(|| forwarded_for(request.headers(), proxies));
    let user_agent = request
        .headers()
        .get(header::USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .map(|text| text.chars().take(500).collect());
    Client {
        ip: behind_proxy.flatten().or(peer),
        user_agent,
    }
}
