//! The caller of a request, whoever it is, as the guard notes it once the
//! credential is checked.

use axum::extract::Request;
use axum::http::Extensions;
use uuid::Uuid;

/// Who sends a request: whose limits it counts against.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// Nil for operators, who belong to no organization.
    pub organization_id: Uuid,
    /// `user` or `api_key`.
    pub kind: &'static str,
    /// The user's or the key's.
    pub id: Option<Uuid>,
}

impl Caller {
    /// None: the route takes anybody.
    pub fn of(request: &Request) -> Option<Self> {
        Self::in_extensions(request.extensions())
    }

    pub fn in_extensions(extensions: &Extensions) -> Option<Self> {
        extensions.get().copied()
    }
}
