//! The caller of a request, once the credential is checked.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Extensions, StatusCode};
use serde_json::json;
use uuid::Uuid;

use crate::audit::{self, Actor, Client, NewEntry};
use crate::server::caller::{Caller, SERVICE_KEY};
use crate::server::problem::Problem;
pub use crate::server::routes::Permission;

/// What a user is in an organization, or beside all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Owner,
    BillingManager,
    Member,
    /// Works across organizations, and never through a tenant's routes.
    Operator,
    /// Sees what an operator sees, and changes nothing.
    OperatorRead,
}

impl Role {
    pub const ALL: [Self; 5] = [
        Self::Owner,
        Self::BillingManager,
        Self::Member,
        Self::Operator,
        Self::OperatorRead,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::BillingManager => "billing_manager",
            Self::Member => "member",
            Self::Operator => "operator",
            Self::OperatorRead => "operator.read",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }

    /// What the role may do in its organization.
    pub fn permissions(self) -> &'static [Permission] {
        use Permission::{AgentsExecute, BillingAudit, BillingManage, BillingRead};
        match self {
            Self::Owner => &Permission::ALL,
            Self::BillingManager => &[BillingRead, BillingManage, BillingAudit],
            Self::Member => &[BillingRead, AgentsExecute],
            Self::Operator | Self::OperatorRead => &[],
        }
    }

    /// Whether it belongs to no organization.
    pub fn is_operator(self) -> bool {
        matches!(self, Self::Operator | Self::OperatorRead)
    }
}

/// A caller who acts for an organization. The guard puts it into the request;
/// a handler takes it as an argument.
#[derive(Debug, Clone)]
pub struct Principal {
    pub organization_id: Uuid,
    pub actor: Actor,
    /// Whether the product acts, which named the organization.
    pub by_service_key: bool,
    pub permissions: Vec<Permission>,
    /// Where the request came from, for the audit log.
    pub client: Client,
}

impl Principal {
    pub fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(&permission)
    }

    /// The problem of one who may not any more.
    pub fn ended() -> Problem {
        unauthenticated("the token or API key was revoked, or has ended, while the request waited")
    }

    /// Puts the caller into the request.
    pub(super) fn enter(self, extensions: &mut Extensions) {
        extensions.insert(self.identity());
        extensions.insert(self);
    }

    pub(super) fn identity(&self) -> Caller {
        let mut caller = caller(self.organization_id, self.actor);
        if self.by_service_key {
            caller.kind = SERVICE_KEY;
        }
        caller
    }
}

/// The product, by a service key, for no organization or for several.
#[derive(Debug, Clone)]
pub struct Product {
    pub key_id: Uuid,
    /// Where the request came from, for the audit log.
    pub client: Client,
}

impl Product {
    /// Puts the caller into the request.
    pub(super) fn enter(self, extensions: &mut Extensions) {
        extensions.insert(self.identity());
        extensions.insert(self);
    }

    pub(super) fn identity(&self) -> Caller {
        Caller {
            organization_id: Uuid::nil(),
            kind: SERVICE_KEY,
            id: Some(self.key_id),
        }
    }
}

/// Who reports usage: for one organization, or for those that each event names.
#[derive(Debug, Clone)]
pub enum Reporter {
    One(Principal),
    Each(Product),
}

/// An operator, who belongs to no organization: a person, or a key of the operators'.
#[derive(Debug, Clone)]
pub struct Operator {
    pub(super) actor: Actor,
    /// Whether it may change nothing.
    pub reads_only: bool,
    /// Where the request came from, for the audit log.
    pub client: Client,
}

impl Operator {
    pub fn actor(&self) -> Actor {
        self.actor
    }

    /// The person; none where a key calls.
    pub fn user_id(&self) -> Option<Uuid> {
        match self.actor {
            Actor::User(id) => Some(id),
            Actor::ApiKey(_) | Actor::System | Actor::Webhook => None,
        }
    }

    /// The key that calls; none where a person does.
    pub fn key_id(&self) -> Option<Uuid> {
        match self.actor {
            Actor::ApiKey(id) => Some(id),
            Actor::User(_) | Actor::System | Actor::Webhook => None,
        }
    }

    /// Puts the caller into the request.
    pub(super) fn enter(self, extensions: &mut Extensions) {
        extensions.insert(self.identity());
        extensions.insert(self);
    }

    pub(super) fn identity(&self) -> Caller {
        caller(Uuid::nil(), self.actor())
    }

    /// The audit entry for what the operator did, in the log of `organization`;
    /// `None` if it concerns no organization or several.
    pub fn did(
        &self,
        action: &'static str,
        organization: Option<Uuid>,
        resource_type: &'static str,
        resource_id: String,
    ) -> NewEntry {
        NewEntry {
            organization_id: organization.unwrap_or(audit::OPERATORS),
            action,
            actor: self.actor(),
            resource_type,
            resource_id,
            before: None,
            after: None,
            metadata: json!({"operator": true}),
            client: Some(self.client.clone()),
            reason: None,
        }
    }
}

fn caller(organization_id: Uuid, actor: Actor) -> Caller {
    Caller {
        organization_id,
        kind: actor.as_str(),
        id: actor.id(),
    }
}

pub(super) fn unauthenticated(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
}

const NO_CREDENTIAL: &str = "send a token or an API key as `Authorization: Bearer …`";

impl<S: Send + Sync> FromRequestParts<S> for Principal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let known = parts.extensions.get::<Self>().cloned();
        known.ok_or_else(|| unauthenticated(NO_CREDENTIAL))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Product {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let known = parts.extensions.get::<Self>().cloned();
        known.ok_or_else(|| unauthenticated(NO_CREDENTIAL))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Reporter {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let one = parts.extensions.get().cloned().map(Self::One);
        let each = || parts.extensions.get().cloned().map(Self::Each);
        one.or_else(each)
            .ok_or_else(|| unauthenticated(NO_CREDENTIAL))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let known = parts.extensions.get::<Self>().cloned();
        known.ok_or_else(|| unauthenticated(NO_CREDENTIAL))
    }
}

pub(super) fn no_credential() -> Problem {
    unauthenticated(NO_CREDENTIAL)
}
