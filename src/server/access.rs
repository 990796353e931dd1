//! What a route asks of its caller. Who has it is for `tenancy` to say.

/// A permission: what a role has, and an API key's scope gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Permission {
    BillingRead,
    BillingManage,
    /// To see IP addresses, user agents and e-mail addresses in the audit log.
    BillingAudit,
    UsageWrite,
    AgentsExecute,
    /// To make, change and archive organizations: a service key's, and nobody else's.
    OrganizationsManage,
    /// To open the customer pages for somebody: a service key's, and nobody else's.
    PortalCreate,
}

impl Permission {
    /// What one may have in an organization.
    pub const ALL: [Self; 5] = [
        Self::BillingRead,
        Self::BillingManage,
        Self::BillingAudit,
        Self::UsageWrite,
        Self::AgentsExecute,
    ];

    /// What a service key may have.
    pub const OF_SERVICE: [Self; 7] = [
        Self::BillingRead,
        Self::BillingManage,
        Self::BillingAudit,
        Self::UsageWrite,
        Self::AgentsExecute,
        Self::OrganizationsManage,
        Self::PortalCreate,
    ];

    /// The name that scopes and the API use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BillingRead => "billing.read",
            Self::BillingManage => "billing.manage",
            Self::BillingAudit => "billing.audit",
            Self::UsageWrite => "usage.write",
            Self::AgentsExecute => "agents.execute",
            Self::OrganizationsManage => "organizations.manage",
            Self::PortalCreate => "portal.create",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::OF_SERVICE.into_iter().find(|p| p.as_str() == name)
    }
}

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everyone.
    Public,
    /// Stripe, which signs what it sends. The handler checks the signature.
    StripeSignature,
    /// Anyone with a session token.
    Token,
    /// A tenant's user or API key with this permission, or a service key with it that
    /// names an organization.
    Tenant(Permission),
    /// The same, and a service key may name the organizations in the body instead.
    EachTenant(Permission),
    /// A tenant's API key, not a user's token, with this permission.
    ApiKey(Permission),
    /// A service key with this permission, beside all organizations.
    Service(Permission),
    /// An operator.
    Operator,
    /// Browsers: the guard notes the operator whose session a cookie names, if any, and the
    /// page asks for one.
    Console,
    /// The same of customers: the guard notes for whom a cookie's session acts.
    Portal,
}

impl Access {
    /// The permission that it takes.
    pub fn permission(self) -> Option<Permission> {
        match self {
            Self::Tenant(permission)
            | Self::EachTenant(permission)
            | Self::ApiKey(permission)
            | Self::Service(permission) => Some(permission),
            Self::Public
            | Self::StripeSignature
            | Self::Token
            | Self::Operator
            | Self::Console
            | Self::Portal => None,
        }
    }

    /// Whether requests carry a bearer credential.
    pub fn needs_credential(self) -> bool {
        !matches!(self, Self::Public | Self::StripeSignature) && !self.is_of_browsers()
    }

    /// Whether its requests are those of pages, by cookie and form.
    pub fn is_of_browsers(self) -> bool {
        matches!(self, Self::Console | Self::Portal)
    }
}
