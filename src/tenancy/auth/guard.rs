//! The one place that checks credentials and enforces the table of routes.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sqlx::postgres::PgPool;

use super::lookup::{Found, Lookup};
use super::principal::{no_credential, unauthenticated};
use super::token;
use super::{Access, Operator, Permission, Principal, Role, access_of};
use crate::audit::{Actor, Client};
use crate::server::budget::forwarded_for;
use crate::server::layers::Peer;
use crate::server::problem::Problem;

/// What checking a credential needs.
#[derive(Clone)]
pub struct Guard {
    lookup: Lookup,
    /// How many proxies in front of the service append to X-Forwarded-For.
    proxies: u32,
    /// The product's own routes, which usage is enforced in front of.
    enforced: Arc<[String]>,
}

impl Guard {
    /// `credentials` has connections that are billing_worker from the start.
    pub fn new(credentials: PgPool, proxies: u32, enforced: impl Iterator<Item = String>) -> Self {
        Self {
            lookup: Lookup::new(credentials),
            proxies,
            enforced: enforced.collect(),
        }
    }

    fn access(&self, method: &Method, path: &str) -> Option<Access> {
        let enforced = || self.enforced.iter().any(|enforced| enforced == path);
        let of_product = || enforced().then_some(Access::Tenant(Permission::AgentsExecute));
        access_of(method, path).or_else(of_product)
    }
}

/// Lets a request through to its handler, with its caller, or refuses it.
pub async fn enforce(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    match admit(&guard, &mut request).await {
        Ok(()) => next.run(request).await,
        Err(problem) => {
            let unauthenticated = problem.status() == StatusCode::UNAUTHORIZED;
            let mut response = problem.into_response();
            if unauthenticated {
                let scheme = HeaderValue::from_static("Bearer");
                response
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, scheme);
            }
            response
        }
    }
}

async fn admit(guard: &Guard, request: &mut Request) -> Result<(), Problem> {
    let path = request
        .extensions()
        .get::<MatchedPath>()
        .map(MatchedPath::as_str);
    let access = path.and_then(|path| guard.access(request.method(), path));
    let known_path = path.is_some_and(super::access::has_path);
    let client = client(request, guard.proxies);
    let access = match access {
        Some(Access::Public) => {
            request.extensions_mut().insert(client);
            return Ok(());
        }
        Some(access) => access,
        // A method that the route does not have is answered as such.
        None if known_path => return Ok(()),
        None => {
            tracing::error!(path, "a route is not in the table of access");
            return Err(forbidden("nobody may use this address"));
        }
    };
    let caller = identify(guard, bearer(request.headers())?, client).await?;
    if request.headers().contains_key(ORGANIZATION) {
        return Err(not_selectable());
    }
    let extensions = request.extensions_mut();
    match (caller, access) {
        (_, Access::Public) | (Caller::Key(_), Access::Token) => {
            return Err(forbidden("an API key has no session; this is for users"));
        }
        (Caller::User(principal), Access::Token) => drop(extensions.insert(principal)),
        (Caller::Operator(operator), Access::Token | Access::Operator) => {
            extensions.insert(operator);
        }
        (Caller::User(principal), Access::Tenant(permission))
        | (Caller::Key(principal), Access::Tenant(permission) | Access::ApiKey(permission)) => {
            require(&principal, permission)?;
            extensions.insert(principal);
        }
        (Caller::User(_) | Caller::Operator(_), Access::ApiKey(_)) => {
            return Err(forbidden(
                "this address takes an API key, not a user's token",
            ));
        }
        (Caller::User(_) | Caller::Key(_), Access::Operator) => {
            return Err(forbidden("this is for operators"));
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
        "this needs the permission {}",
        permission.as_str()
    )))
}

/// By which a service key names the organization that it calls for.
const ORGANIZATION: &str = "x-organization";

fn not_selectable() -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "organization_not_selectable",
        "this credential belongs to one organization, or to none; leave X-Organization out",
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
        return Err(unauthenticated(
            "there are several Authorization headers; send one",
        ));
    }
    let scheme_and_token = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().split_once(' '));
    match scheme_and_token {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(unauthenticated(
            "the Authorization header must read `Bearer` and a token or an API key",
        )),
    }
}

enum Caller {
    User(Principal),
    Key(Principal),
    Operator(Operator),
}

async fn identify(guard: &Guard, credential: &str, client: Client) -> Result<Caller, Problem> {
    let refused =
        || unauthenticated("the token or API key is unknown, expired or revoked; log in again");
    let presented = token::read(credential).ok_or_else(refused)?;
    let found = guard.lookup.find(presented).await?.ok_or_else(refused)?;
    match found {
        Found::Session(row) if row.operator => Ok(Caller::Operator(Operator {
            user_id: row.user_id,
            client,
        })),
        Found::Session(row) => {
            let role = row.role.as_deref().and_then(Role::named);
            let (role, organization_id) = role.zip(row.organization_id).ok_or_else(refused)?;
            Ok(Caller::User(Principal {
                organization_id,
                actor: Actor::User(row.user_id),
                permissions: role.permissions().to_vec(),
                client,
            }))
        }
        Found::Key(row) => {
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

/// From where a request came: the connection's address, or what the nearest of
/// our own proxies says.
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
