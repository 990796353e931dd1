//! The caller of a request, as the guard notes it once the credential is checked.

use axum::extract::Request;
use axum::http::Extensions;
use uuid::Uuid;

/// Who sends a request: whose limits it counts against.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// Nil for operators, who belong to no organization, and for service keys on routes that
    /// are not of one organization.
    pub organization_id: Uuid,
    /// `user`, `api_key` or `service_key`.
    pub kind: &'static str,
    /// The user's or the key's.
    pub id: Option<Uuid>,
}

/// The kind of callers who act for many organizations.
pub const SERVICE_KEY: &str = "service_key";

impl Caller {
    /// Whose share of common resources the request takes: the organization's, or the
    /// caller's own if it belongs to none.
    pub fn share_of(&self) -> Uuid {
        match self.id {
            Some(id) if self.organization_id.is_nil() => id,
            _ => self.organization_id,
        }
    }

    /// None: the route takes anybody.
    pub fn of(request: &Request) -> Option<Self> {
        Self::in_extensions(request.extensions())
    }

    pub fn in_extensions(extensions: &Extensions) -> Option<Self> {
        extensions.get().copied()
    }
}
