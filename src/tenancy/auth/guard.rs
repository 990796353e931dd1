//! The one place that checks credentials, for what their route asks.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sqlx::postgres::PgPool;

use super::lookup::{Lookup, Presented, ValidCredential};
use super::principal::{no_credential, unauthenticated};
use super::token::{self, Credential};
use super::{Operator, Permission, Principal, Product, Role};
use crate::audit::{Actor, Client};
use crate::server::budget::forwarded_for;
use crate::server::layers::{Peer, checks};
use crate::server::problem::Problem;
use crate::server::routes::Access;
use crate::tenancy::names::{self, Named};

/// Checks credentials.
#[derive(Clone)]
pub struct Guard {
    lookup: Lookup,
    /// How many proxies in front of the service append to X-Forwarded-For.
    proxies: u32,
    /// Whether proxies set the headers of what they ask about (`ENFORCE_TRUST_HEADERS`).
    trust_headers: bool,
}

impl Guard {
    /// `credentials` has connections that are billing_worker from the start.
    pub fn new(credentials: PgPool, proxies: u32, trust_headers: bool) -> Self {
        Self {
            lookup: Lookup::new(credentials),
            proxies,
            trust_headers,
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
    let headers = request.headers();
    let credential = token::parse(bearer(headers)?).ok_or_else(invalid)?;
    let organization = match credential {
        Credential::ServiceKey(_) => organization_of(headers),
        Credential::Session(_) | Credential::Key(_) => Ok(None),
    };
    let presented = Presented {
        credential,
        organization: organization.as_ref().ok().cloned().flatten(),
    };
    let named = headers.contains_key(ORGANIZATION);
    let caller = identify(guard, presented, client).await?;
    let asked = Asked {
        access,
        reads: matches!(*request.method(), Method::GET | Method::HEAD),
        named,
        trust_headers: guard.trust_headers,
    };
    let extensions = request.extensions_mut();
    match caller {
        // These routes name the organization themselves.
        Caller::Service(_) if named && matches!(access, Access::Service(_)) => Err(named_already()),
        Caller::Service(service) => {
            organization?;
            service.admit(&asked, extensions)
        }
        _ if named => Err(not_selectable()),
        Caller::User(caller) => caller.admit_user(&asked, extensions),
        Caller::Key(caller) => caller.admit_key(&asked, extensions),
        Caller::Operator(operator) => admit_operator(operator, access, extensions),
    }
}

/// What a request asks of its caller.
struct Asked {
    access: Access,
    /// By its method it changes nothing.
    reads: bool,
    /// Whether it has X-Organization.
    named: bool,
    trust_headers: bool,
}

impl Asked {
    /// Whether an archived organization refuses it. Of what one may read, nothing is
    /// counted or done.
    fn changes(&self) -> bool {
        !(self.reads && self.access == Access::Tenant(Permission::BillingRead))
    }
}

/// A user or key of an organization.
struct Tenant {
    principal: Principal,
    archived: bool,
}

impl Tenant {
    fn admit_user(self, asked: &Asked, extensions: &mut Extensions) -> Result<(), Problem> {
        match asked.access {
            Access::Public | Access::StripeSignature => Ok(()),
            // An archived organization's user may still log out.
            Access::Token => {
                self.principal.enter(extensions);
                Ok(())
            }
            Access::Tenant(permission) | Access::EachTenant(permission) => {
                self.enter(permission, asked, extensions)
            }
            Access::ApiKey(_) => Err(forbidden(
                "this endpoint takes an API key, not a user's token",
            )),
            Access::Service(permission) => Err(service_keys_only(permission)),
            Access::Operator => Err(forbidden("this endpoint is for operators")),
        }
    }

    fn admit_key(self, asked: &Asked, extensions: &mut Extensions) -> Result<(), Problem> {
        match asked.access {
            Access::Public | Access::StripeSignature => Ok(()),
            Access::Token => Err(forbidden("an API key has no session; this is for users")),
            Access::Tenant(permission)
            | Access::EachTenant(permission)
            | Access::ApiKey(permission) => self.enter(permission, asked, extensions),
            Access::Service(permission) => Err(service_keys_only(permission)),
            Access::Operator => Err(forbidden("this endpoint is for operators")),
        }
    }

    fn enter(
        self,
        permission: Permission,
        asked: &Asked,
        extensions: &mut Extensions,
    ) -> Result<(), Problem> {
        require(&self.principal.permissions, permission)?;
        if self.archived && asked.changes() {
            return Err(names::archived());
        }
        self.principal.enter(extensions);
        Ok(())
    }
}

fn admit_operator(
    operator: Operator,
    access: Access,
    extensions: &mut Extensions,
) -> Result<(), Problem> {
    match access {
        Access::Public | Access::StripeSignature => {}
        Access::Token | Access::Operator => operator.enter(extensions),
        Access::ApiKey(_) => {
            return Err(forbidden(
                "this endpoint takes an API key, not a user's token",
            ));
        }
        Access::Service(permission) => return Err(service_keys_only(permission)),
        Access::Tenant(_) | Access::EachTenant(_) => {
            return Err(forbidden(
                "operators do not act for an organization; use /api/operator",
            ));
        }
    }
    Ok(())
}

/// The product, by a service key.
struct Service {
    product: Product,
    permissions: Vec<Permission>,
    organization: Option<Named>,
}

impl Service {
    fn admit(self, asked: &Asked, extensions: &mut Extensions) -> Result<(), Problem> {
        match asked.access {
            Access::Public | Access::StripeSignature => Ok(()),
            Access::Token => Err(forbidden("a service key has no session; this is for users")),
            Access::Operator => Err(forbidden("this endpoint is for operators")),
            Access::Service(permission) => self.enter(permission, extensions),
            Access::EachTenant(permission) if !asked.named => self.enter(permission, extensions),
            Access::Tenant(permission)
            | Access::EachTenant(permission)
            | Access::ApiKey(permission) => {
                require(&self.permissions, permission)?;
                if !asked.named {
                    return Err(organization_missing());
                }
                if matches!(asked.access, Access::ApiKey(_)) && !asked.trust_headers {
                    return Err(client_may_choose());
                }
                let named = self.organization.ok_or_else(names::not_found)?;
                let principal = Principal {
                    organization_id: named.organization(asked.changes())?,
                    actor: Actor::ApiKey(self.product.key_id),
                    by_service_key: true,
                    permissions: self.permissions,
                    client: self.product.client,
                };
                principal.enter(extensions);
                Ok(())
            }
        }
    }

    /// Lets it through for no organization, or for several.
    fn enter(self, permission: Permission, extensions: &mut Extensions) -> Result<(), Problem> {
        require(&self.permissions, permission)?;
        self.product.enter(extensions);
        Ok(())
    }
}

fn require(permissions: &[Permission], permission: Permission) -> Result<(), Problem> {
    if permissions.contains(&permission) {
        return Ok(());
    }
    Err(forbidden(&format!(
        "this requires the permission {}",
        permission.as_str()
    )))
}

fn service_keys_only(permission: Permission) -> Problem {
    forbidden(&format!(
        "this endpoint takes a service key with the scope {}; `valuecanvas-billing api-keys \
         create --service` makes one",
        permission.as_str()
    ))
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

fn named_already() -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "organization_not_selectable",
        "the organization is named in the path; leave X-Organization out",
    )
}

/// What a proxy's client sends never sets what it is charged, nor whom.
fn client_may_choose() -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "organization_not_selectable",
        "X-Organization is believed here only where the proxy sets it: say so with \
         ENFORCE_TRUST_HEADERS=true, or send the organization's own API key in the place of a \
         service key",
    )
}

fn organization_missing() -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "organization_missing",
        "a service key's request says which organization it is for: send its external id or id \
         as X-Organization",
    )
}

/// What the one header X-Organization says: UTF-8, as an external id may be any.
fn organization_of(headers: &HeaderMap) -> Result<Option<Arc<str>>, Problem> {
    let mut values = headers.get_all(ORGANIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(names::invalid("send exactly one X-Organization"));
    }
    let name = std::str::from_utf8(value.as_bytes()).ok();
    match name.filter(|name| names::is_external_id(name)) {
        Some(name) => Ok(Some(name.into())),
        None => Err(names::invalid(&format!(
            "X-Organization: {} in UTF-8, or the organization's id",
            names::EXPECTED
        ))),
    }
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
    User(Tenant),
    Key(Tenant),
    Service(Service),
    Operator(Operator),
}

fn invalid() -> Problem {
    unauthenticated("the token or API key is unknown, expired or revoked; log in again")
}

async fn identify(guard: &Guard, presented: Presented, client: Client) -> Result<Caller, Problem> {
    let found = guard.lookup.find(presented).await?.ok_or_else(invalid)?;
    match found {
        ValidCredential::Session(row) if row.operator => Ok(Caller::Operator(Operator {
            user_id: row.user_id,
            client,
        })),
        ValidCredential::Session(row) => {
            let role = row.role.as_deref().and_then(Role::named);
            let (role, organization_id) = role.zip(row.organization_id).ok_or_else(invalid)?;
            let principal = Principal {
                organization_id,
                actor: Actor::User(row.user_id),
                by_service_key: false,
                permissions: role.permissions().to_vec(),
                client,
            };
            Ok(Caller::User(Tenant {
                principal,
                archived: row.archived,
            }))
        }
        ValidCredential::Key(row) => {
            let principal = Principal {
                organization_id: row.organization_id,
                actor: Actor::ApiKey(row.id),
                by_service_key: false,
                permissions: permissions(&row.scopes),
                client,
            };
            Ok(Caller::Key(Tenant {
                principal,
                archived: row.archived,
            }))
        }
        ValidCredential::ServiceKey(row, organization) => Ok(Caller::Service(Service {
            product: Product {
                key_id: row.id,
                client,
            },
            permissions: permissions(&row.scopes),
            organization,
        })),
    }
}

fn permissions(scopes: &[String]) -> Vec<Permission> {
    let known = scopes.iter().filter_map(|scope| Permission::named(scope));
    known.collect()
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
