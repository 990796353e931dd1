//! Visitors of the customer pages: what their session makes of them.

use axum::http::Extensions;
use uuid::Uuid;

use super::lookup::ValidCredential;
use super::portal_sessions::PortalVisitor;
use super::principal::{Principal, Role};
use crate::audit::{Actor, Client};
use crate::server::caller::Caller;

/// Whose limits a session counts against that a code became: its own.
const PORTAL_SESSION: &str = "portal_session";

/// A visitor of the customer pages.
pub(super) struct Customer {
    principal: Principal,
    visitor: PortalVisitor,
    /// The session that a code became.
    session: Option<Uuid>,
}

impl Customer {
    /// `None` for who belongs to no organization.
    pub(super) fn of(found: ValidCredential, client: Client) -> Option<Self> {
        let of = |organization_id, actor, role: Role| Principal {
            organization_id,
            actor,
            by_service_key: false,
            permissions: role.permissions().to_vec(),
            client,
        };
        match found {
            ValidCredential::Session(row) if row.operator.is_none() => {
                let role = row.role.as_deref().and_then(Role::named)?;
                Some(Self {
                    principal: of(row.organization_id?, Actor::User(row.user_id), role),
                    visitor: PortalVisitor {
                        role,
                        archived: row.archived,
                        return_url: None,
                        by_code: false,
                    },
                    session: None,
                })
            }
            ValidCredential::Portal(row) => Some(Self {
                // Who it is, the product knows: its key stands for them.
                principal: of(
                    row.organization_id,
                    Actor::ApiKey(row.service_key_id),
                    row.role,
                ),
                visitor: PortalVisitor {
                    role: row.role,
                    archived: row.archived,
                    return_url: row.return_url,
                    by_code: true,
                },
                session: Some(row.id),
            }),
            ValidCredential::Session(_)
            | ValidCredential::Key(_)
            | ValidCredential::ServiceKey(..)
            | ValidCredential::OperatorKey(_) => None,
        }
    }

    /// Puts the visitor into the request.
    pub(super) fn enter(self, extensions: &mut Extensions) {
        let caller = Caller {
            organization_id: self.principal.organization_id,
            kind: PORTAL_SESSION,
            id: self.session,
        };
        self.principal.enter(extensions);
        if self.session.is_some() {
            extensions.insert(caller);
        }
        extensions.insert(self.visitor);
    }
}
