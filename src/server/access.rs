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
}

impl Permission {
    pub const ALL: [Self; 5] = [
        Self::BillingRead,
        Self::BillingManage,
        Self::BillingAudit,
        Self::UsageWrite,
        Self::AgentsExecute,
    ];

    /// The name that scopes and the API use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BillingRead => "billing.read",
            Self::BillingManage => "billing.manage",
            Self::BillingAudit => "billing.audit",
            Self::UsageWrite => "usage.write",
            Self::AgentsExecute => "agents.execute",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.as_str() == name)
    }
}

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everyone.
    Public,
    /// Stripe, which signs what it sends. The handler checks the signature.
    StripeSignature,
    /// Whoever has a session token.
    Token,
    /// A tenant's user or API key with this permission.
    Tenant(Permission),
    /// A tenant's API key, not a user's token, with this permission.
    ApiKey(Permission),
    /// An operator.
    Operator,
}

impl Access {
    /// Whether requests carry a bearer credential.
    pub fn needs_credential(self) -> bool {
        !matches!(self, Self::Public | Self::StripeSignature)
    }
}
