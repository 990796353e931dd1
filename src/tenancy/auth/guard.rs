//! The one place that checks credentials, for what their route asks.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::browser::{BrowserSession, SessionCookie};
use super::callers::{
    Asked, Caller, ProductUser, Service, Tenant, admit_operator, admit_operator_key, permissions,
};
use super::customer::Customer;
use super::issued::{self, Issuer};
use super::lookup::{Lookup, Presented, ValidCredential};
use super::principal::{no_credential, unauthenticated};
use super::store::SessionRow;
use super::token::{self, Credential};
use super::{Operator, OperatorPolicy, Permission, Principal, Product, Role};
use crate::audit::{Actor, Client};
use crate::server::budget::forwarded_for;
use crate::server::layers::{Peer, checks};
use crate::server::problem::Problem;
use crate::server::routes::Access;
use crate::tenancy::names::{self, Names};

/// Checks credentials.
#[derive(Clone)]
pub struct Guard {
    lookup: Lookup,
    /// Of the organizations in tokens of the product's issuer.
    names: Names,
    /// None: only our own credentials are accepted.
    issuer: Option<Issuer>,
    /// How many proxies in front of the service append to X-Forwarded-For.
    proxies: u32,
    /// Whether proxies set the headers of what they ask about (`ENFORCE_TRUST_HEADERS`).
    trust_headers: bool,
    /// The cookie of the console's sessions, and that of the customer pages'.
    cookie: SessionCookie,
    portal: SessionCookie,
    /// How operators may have signed in.
    policy: OperatorPolicy,
}

impl Guard {
    /// `credentials` has connections that are billing_worker from the start.
    pub fn new(
        credentials: PgPool,
        issuer: Option<Issuer>,
        proxies: u32,
        trust_headers: bool,
        (cookie, portal): (SessionCookie, SessionCookie),
        policy: OperatorPolicy,
    ) -> Self {
        Self {
            names: Names::new(credentials.clone()),
            lookup: Lookup::new(credentials),
            issuer,
            proxies,
            trust_headers,
            cookie,
            portal,
            policy,
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
    if access == Access::Console {
        return guard.admit_browser(request, client).await;
    }
    if access == Access::Portal {
        return guard.admit_customer(request, client).await;
    }
    if !access.needs_credential() {
        request.extensions_mut().insert(client);
        return Ok(());
    }
    let headers = request.headers();
    let named = headers.contains_key(ORGANIZATION);
    let (shown, organization) = guard.shown(bearer(headers)?, headers)?;
    let standing = Standing {
        guard: guard.clone(),
        shown: shown.clone(),
    };
    let caller = guard.identify(shown, client).await?;
    let asked = Asked {
        access,
        reads: matches!(*request.method(), Method::GET | Method::HEAD),
        named,
        trust_headers: guard.trust_headers,
    };
    let extensions = request.extensions_mut();
    if asked.reads {
        extensions.insert(standing);
    }
    // Of all that is refused below as well.
    extensions.insert(caller.identity());
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
        Caller::Issued(user) => user.admit(&asked, extensions),
        Caller::Operator(operator) => admit_operator(operator, &asked, extensions),
        Caller::OperatorKey(key) => admit_operator_key(key, &asked, extensions),
    }
}

/// What a request shows.
#[derive(Clone)]
enum Shown {
    /// A credential of ours.
    Ours(Presented),
    /// A token of the product's issuer.
    Issued(Arc<str>),
}

/// A request's credential, for a request that has waited: sessions end, keys are revoked
/// and members disabled at once.
#[derive(Clone)]
pub struct Standing {
    guard: Guard,
    shown: Shown,
}

impl Standing {
    /// Whether it still has `permission` for the organization.
    pub async fn still(
        &self,
        permission: Permission,
        organization_id: Uuid,
    ) -> Result<bool, Problem> {
        let presented = match &self.shown {
            Shown::Ours(presented) => presented.clone(),
            Shown::Issued(token) => {
                let checked = self.guard.product_user(token.clone(), Client::default());
                return match checked.await {
                    Ok(user) => Ok(user.permissions_in(organization_id).contains(&permission)),
                    Err(problem) if problem.status() == StatusCode::UNAUTHORIZED => Ok(false),
                    Err(problem) => Err(problem),
                };
            }
        };
        let Some(found) = self.guard.lookup.find(presented).await? else {
            return Ok(false);
        };
        let (organization, permissions) = match found {
            ValidCredential::Session(row) => {
                let role = row.role.as_deref().and_then(Role::named);
                let permissions = role.map(|role| role.permissions().to_vec());
                (row.organization_id, permissions.unwrap_or_default())
            }
            ValidCredential::Key(row) => (Some(row.organization_id), permissions(&row.scopes)),
            ValidCredential::ServiceKey(row, named) => {
                let id = named.and_then(|named| named.organization(false).ok());
                (id, permissions(&row.scopes))
            }
            // No request of the API shows the one, and the other is no tenant's.
            ValidCredential::Portal(_) | ValidCredential::OperatorKey(_) => (None, Vec::new()),
        };
        Ok(organization == Some(organization_id) && permissions.contains(&permission))
    }
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

fn invalid() -> Problem {
    unauthenticated("the token or API key is unknown, expired or revoked; log in again")
}

impl Guard {
    /// What a request shows, and what it calls its organization where it may name one.
    #[expect(
        clippy::type_complexity,
        reason = "a problem of the name is told later"
    )]
    fn shown(
        &self,
        bearer: &str,
        headers: &HeaderMap,
    ) -> Result<(Shown, Result<Option<Arc<str>>, Problem>), Problem> {
        let Some(credential) = token::parse(bearer) else {
            return if self.issuer.is_some() && issued::has_form(bearer) {
                Ok((Shown::Issued(bearer.into()), Ok(None)))
            } else {
                Err(invalid())
            };
        };
        let organization = match credential {
            Credential::ServiceKey(_) => organization_of(headers),
            Credential::Session(_)
            | Credential::Key(_)
            | Credential::OperatorKey(_)
            | Credential::Portal(_) => Ok(None),
        };
        let presented = Presented {
            credential,
            organization: organization.as_ref().ok().cloned().flatten(),
        };
        Ok((Shown::Ours(presented), organization))
    }

    /// Notes the operator whose session the cookie names. No other credential counts here:
    /// what a browser sends by itself is the cookie alone.
    async fn admit_browser(&self, request: &mut Request, client: Client) -> Result<(), Problem> {
        let session = self.cookie.session(request.headers());
        let extensions = request.extensions_mut();
        extensions.insert(client.clone());
        let Some((token, credential)) = session else {
            return Ok(());
        };
        let presented = Presented {
            credential,
            organization: None,
        };
        let found = self.lookup.find(presented).await?;
        if let Some(ValidCredential::Session(SessionRow {
            user_id,
            operator: Some(role),
            signed_in_by,
            issuer,
            ..
        })) = found
            && self.policy.admits(signed_in_by, issuer.as_deref())
        {
            extensions.insert(BrowserSession::new(token));
            let operator = Operator {
                actor: Actor::User(user_id),
                reads_only: role == Role::OperatorRead,
                client,
            };
            operator.enter(extensions);
        }
        Ok(())
    }

    /// Notes for whom the session acts that the cookie of the customer pages names.
    async fn admit_customer(&self, request: &mut Request, client: Client) -> Result<(), Problem> {
        let session = self.portal.portal_session(request.headers());
        let extensions = request.extensions_mut();
        extensions.insert(client.clone());
        let Some((token, credential)) = session else {
            return Ok(());
        };
        let presented = Presented {
            credential,
            organization: None,
        };
        let found = self.lookup.find(presented).await?;
        if let Some(customer) = found.and_then(|found| Customer::of(found, client)) {
            extensions.insert(BrowserSession::new(token));
            customer.enter(extensions);
        }
        Ok(())
    }

    /// Whose token of the product's issuer it is.
    async fn product_user(&self, token: Arc<str>, client: Client) -> Result<ProductUser, Problem> {
        let issuer = self.issuer.as_ref().ok_or_else(invalid)?;
        let issued = issuer.check(token).await?;
        let found = self
            .names
            .find([issued.organization.clone()].into())
            .await?;
        Ok(ProductUser {
            user_id: issued.user_id,
            role: issued.role,
            organization: found.get(&issued.organization).copied(),
            client,
        })
    }

    async fn identify(&self, shown: Shown, client: Client) -> Result<Caller, Problem> {
        let presented = match shown {
            Shown::Ours(presented) => presented,
            Shown::Issued(of) => return self.product_user(of, client).await.map(Caller::Issued),
        };
        let found = self.lookup.find(presented).await?.ok_or_else(invalid)?;
        match found {
            ValidCredential::Session(SessionRow {
                operator: Some(_),
                signed_in_by,
                ref issuer,
                ..
            }) if !self.policy.admits(signed_in_by, issuer.as_deref()) => Err(unauthenticated(
                "operators sign in otherwise now, with a second factor or by the identity \
                 provider; log in again",
            )),
            ValidCredential::Session(SessionRow {
                user_id,
                operator: Some(role),
                ..
            }) => Ok(Caller::Operator(Operator {
                actor: Actor::User(user_id),
                reads_only: role == Role::OperatorRead,
                client,
            })),
            ValidCredential::OperatorKey(row) => Ok(Caller::OperatorKey(Operator {
                actor: Actor::ApiKey(row.id),
                reads_only: row.role == Role::OperatorRead,
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
            ValidCredential::Portal(_) => Err(invalid()),
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
