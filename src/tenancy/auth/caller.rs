//! The caller of a request, whoever it is, once the credential is checked.

use axum::extract::Request;
use axum::http::Extensions;
use uuid::Uuid;

use crate::audit::Actor;
use crate::tenancy::auth::{Operator, Principal};

/// Who sends a request.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// Nil for operators, who belong to no organization.
    pub organization_id: Uuid,
    pub actor: Actor,
}

impl Caller {
    /// None: the route takes anybody.
    pub fn of(request: &Request) -> Option<Self> {
        Self::in_extensions(request.extensions())
    }

    pub fn in_extensions(extensions: &Extensions) -> Option<Self> {
        let tenant = extensions.get::<Principal>().map(|principal| Self {
            organization_id: principal.organization_id,
            actor: principal.actor,
        });
        tenant.or_else(|| {
            let operator = extensions.get::<Operator>()?;
            Some(Self {
                organization_id: Uuid::nil(),
                actor: operator.actor(),
            })
        })
    }
}
