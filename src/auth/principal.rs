//! The caller of a request, once the credential is checked.

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use uuid::Uuid;

use crate::audit::Actor;
use crate::error::Problem;

/// What a route asks of its caller, and what an API key's scope gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Permission {
    BillingRead,
    BillingManage,
    UsageWrite,
    AgentsExecute,
    Operator,
}

impl Permission {
    /// The name that scopes and the API use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BillingRead => "billing.read",
            Self::BillingManage => "billing.manage",
            Self::UsageWrite => "usage.write",
            Self::AgentsExecute => "agents.execute",
            Self::Operator => "operator",
        }
    }
}

/// Who calls. Put into the request by the one place that checks credentials;
/// a handler takes it as an argument.
#[derive(Debug, Clone)]
pub struct Principal {
    pub organization_id: Uuid,
    pub actor: Actor,
    pub permissions: Vec<Permission>,
}

impl Principal {
    pub fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(&permission)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Principal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            Problem::new(
                StatusCode::UNAUTHORIZED,
                "unauthenticated",
                "send a token or an API key: `Authorization: Bearer …`",
            )
        })
    }
}
