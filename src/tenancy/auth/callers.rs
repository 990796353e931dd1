//! What callers of each kind may do, once it is known who they are.

use axum::http::{Extensions, StatusCode};
use uuid::Uuid;

use super::principal::{Operator, Permission, Principal, Product, Role};
use crate::audit::{Actor, Client};
use crate::server::caller::Caller as Identity;
use crate::server::problem::Problem;
use crate::server::routes::Access;
use crate::tenancy::names::{self, Named};

/// What a request asks of its caller.
pub(super) struct Asked {
    pub(super) access: Access,
    /// By its method it changes nothing.
    pub(super) reads: bool,
    /// Whether it has X-Organization.
    pub(super) named: bool,
    pub(super) trust_headers: bool,
}

impl Asked {
    /// Whether an archived organization refuses it. Of what one may read, nothing is
    /// counted or done.
    fn changes(&self) -> bool {
        !(self.reads && self.access == Access::Tenant(Permission::BillingRead))
    }
}

/// A user or key of an organization.
pub(super) struct Tenant {
    pub(super) principal: Principal,
    pub(super) archived: bool,
}

impl Tenant {
    pub(super) fn admit_user(
        self,
        asked: &Asked,
        extensions: &mut Extensions,
    ) -> Result<(), Problem> {
        match asked.access {
            Access::Public | Access::StripeSignature | Access::Console | Access::Portal => Ok(()),
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

    pub(super) fn admit_key(
        self,
        asked: &Asked,
        extensions: &mut Extensions,
    ) -> Result<(), Problem> {
        match asked.access {
            Access::Public | Access::StripeSignature | Access::Console | Access::Portal => Ok(()),
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

pub(super) fn admit_operator(
    operator: Operator,
    asked: &Asked,
    extensions: &mut Extensions,
) -> Result<(), Problem> {
    match asked.access {
        Access::Public | Access::StripeSignature | Access::Console | Access::Portal => {}
        Access::Operator if operator.reads_only && !asked.reads => {
            return Err(forbidden(
                "this changes something, and the role operator.read only looks",
            ));
        }
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

/// A key of the operators' does what its role does, where bearers do.
pub(super) fn admit_operator_key(
    key: Operator,
    asked: &Asked,
    extensions: &mut Extensions,
) -> Result<(), Problem> {
    match asked.access {
        Access::Token => Err(forbidden("a key has no session; this is for users")),
        Access::ApiKey(_) => Err(forbidden(
            "this endpoint takes an organization's API key, not an operators' key",
        )),
        _ => admit_operator(key, asked, extensions),
    }
}

/// The product, by a service key.
pub(super) struct Service {
    pub(super) product: Product,
    pub(super) permissions: Vec<Permission>,
    pub(super) organization: Option<Named>,
}

impl Service {
    pub(super) fn admit(self, asked: &Asked, extensions: &mut Extensions) -> Result<(), Problem> {
        match asked.access {
            Access::Public | Access::StripeSignature | Access::Console | Access::Portal => Ok(()),
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

/// A user of the product's, by a token of its issuer.
pub(super) struct ProductUser {
    pub(super) user_id: Uuid,
    pub(super) role: Option<Role>,
    /// None: there is no organization of the name in the token.
    pub(super) organization: Option<Named>,
    pub(super) client: Client,
}

impl ProductUser {
    pub(super) fn admit(self, asked: &Asked, extensions: &mut Extensions) -> Result<(), Problem> {
        if asked.access == Access::Token {
            return Err(forbidden(
                "this token has no session here: it ends when it expires, or with its session at \
                 its issuer",
            ));
        }
        self.tenant()?.admit_user(asked, extensions)
    }

    /// What it is here. The organization is looked for last: who has no role learns nothing
    /// of it.
    fn tenant(self) -> Result<Tenant, Problem> {
        let role = self.role.ok_or_else(|| {
            forbidden(
                "the token gives no role here: its role is missing, or AUTH_ROLES does not name it",
            )
        })?;
        let (organization_id, archived) = match self.organization {
            None => return Err(names::not_found()),
            Some(Named::Ambiguous) => return Err(names::ambiguous()),
            Some(Named::Organization { id, archived }) => (id, archived),
        };
        let principal = Principal {
            organization_id,
            actor: Actor::User(self.user_id),
            by_service_key: false,
            permissions: role.permissions().to_vec(),
            client: self.client,
        };
        Ok(Tenant {
            principal,
            archived,
        })
    }

    /// What it may do in `organization_id`.
    pub(super) fn permissions_in(self, organization_id: Uuid) -> Vec<Permission> {
        let tenant = self.tenant().ok();
        let there = tenant.filter(|tenant| tenant.principal.organization_id == organization_id);
        there.map_or_else(Vec::new, |tenant| tenant.principal.permissions)
    }

    fn identity(&self) -> Identity {
        let organization = self.organization.map(|named| named.organization(false));
        Identity {
            organization_id: organization.and_then(Result::ok).unwrap_or_default(),
            kind: Actor::User(self.user_id).as_str(),
            id: Some(self.user_id),
        }
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

pub(super) fn forbidden(detail: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "forbidden", detail)
}

pub(super) fn permissions(scopes: &[String]) -> Vec<Permission> {
    let known = scopes.iter().filter_map(|scope| Permission::named(scope));
    known.collect()
}

pub(super) enum Caller {
    User(Tenant),
    Key(Tenant),
    Service(Service),
    Operator(Operator),
    OperatorKey(Operator),
    Issued(ProductUser),
}

impl Caller {
    /// Who asks: whose limits the request counts against.
    pub(super) fn identity(&self) -> Identity {
        match self {
            Self::User(tenant) | Self::Key(tenant) => tenant.principal.identity(),
            Self::Operator(operator) | Self::OperatorKey(operator) => operator.identity(),
            Self::Issued(user) => user.identity(),
            Self::Service(service) => {
                let named = service.organization.map(|named| named.organization(false));
                Identity {
                    organization_id: named.and_then(Result::ok).unwrap_or_default(),
                    ..service.product.identity()
                }
            }
        }
    }
}
