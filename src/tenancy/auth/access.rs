//! The one table of who may call which route.

use axum::http::Method;

use super::Permission;

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everyone. Stripe's webhooks are checked by their signature.
    Public,
    /// Whoever has a token.
    Token,
    /// A tenant's user or key with this permission.
    Tenant(Permission),
    /// A tenant's API key, not a user's token, with this permission.
    ApiKey(Permission),
    /// An operator.
    Operator,
}

use Access::{ApiKey, Operator, Public, Tenant, Token};
use Permission::{AgentsExecute, BillingManage, BillingRead, UsageWrite};

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

/// Every route of the API: a method and path that is not here is refused,
/// whatever handler it has.
pub const ROUTES: &[(Method, &str, Access)] = &[
    (GET, "/healthz", Public),
    (GET, "/readyz", Public),
    (GET, "/metrics", Public),
    (GET, "/openapi.json", Public),
    (GET, "/docs", Public),
    (POST, "/api/billing/webhooks/stripe", Public),
    (POST, "/api/auth/login", Public),
    (POST, "/api/auth/logout", Token),
    (GET, "/api/billing/subscription", Tenant(BillingRead)),
    (POST, "/api/billing/subscription", Tenant(BillingManage)),
    (PUT, "/api/billing/subscription", Tenant(BillingManage)),
    (DELETE, "/api/billing/subscription", Tenant(BillingManage)),
    (
        POST,
        "/api/billing/subscription/preview",
        Tenant(BillingManage),
    ),
    (
        POST,
        "/api/billing/subscription/reactivate",
        Tenant(BillingManage),
    ),
    (GET, "/api/billing/plans", Tenant(BillingRead)),
    (GET, "/api/billing/usage", Tenant(BillingRead)),
    (GET, "/api/billing/usage/{metric}", Tenant(BillingRead)),
    (GET, "/api/billing/usage-alerts", Tenant(BillingRead)),
    (GET, "/api/billing/quotas", Tenant(BillingRead)),
    (POST, "/api/billing/usage/events", Tenant(UsageWrite)),
    (POST, "/api/billing/usage/check", Tenant(UsageWrite)),
    (GET, "/api/billing/grace-periods", Tenant(BillingRead)),
    (GET, "/api/billing/invoices", Tenant(BillingRead)),
    (GET, "/api/billing/invoices/upcoming", Tenant(BillingRead)),
    (GET, "/api/billing/invoices/{id}", Tenant(BillingRead)),
    (GET, "/api/billing/invoices/{id}/pdf", Tenant(BillingRead)),
    (GET, "/api/billing/payment-methods", Tenant(BillingRead)),
    (GET, "/api/billing/audit-log", Tenant(BillingRead)),
    (POST, AGENTS, Tenant(AgentsExecute)),
    (GET, "/api/enforce", ApiKey(UsageWrite)),
    (GET, "/api/operator/organizations", Operator),
    (GET, "/api/operator/webhook-events", Operator),
    (GET, "/api/operator/webhook-events/{id}", Operator),
    (GET, "/api/operator/dead-letters", Operator),
    (GET, "/api/operator/dead-letters/{id}", Operator),
    (DELETE, "/api/operator/dead-letters/{id}", Operator),
    (POST, "/api/operator/dead-letters/{id}/replay", Operator),
    (POST, "/api/operator/dead-letters/replay", Operator),
    (
        GET,
        "/api/operator/organizations/{organization}/quotas",
        Operator,
    ),
    (
        PUT,
        "/api/operator/organizations/{organization}/quotas/{metric}",
        Operator,
    ),
];

/// Where proxies ask first: by their clients' methods, and with their clients'
/// paths below.
pub const FORWARD_AUTH: [&str; 3] = ["/api/enforce", "/api/enforce/", "/api/enforce/{*rest}"];

/// Whether the route answers proxies about the requests of others, of which it
/// sees headers, method and path.
pub fn is_forward_auth(path: &str) -> bool {
    FORWARD_AUTH.contains(&path)
}

/// Whether calls of the route are forwarded, and take as long as others take:
/// agents' calls, and the product's own routes, which are in no table.
pub fn is_forwarded(method: &Method, path: &str) -> bool {
    path == AGENTS || access_of(method, path).is_none()
}

const AGENTS: &str = "/api/agents/execute";

/// Whether the path is in the table, with whatever method.
pub(super) fn has_path(path: &str) -> bool {
    ROUTES.iter().any(|(_, template, _)| *template == path)
}

/// What the route asks; None: it is not in the table. HEAD asks what GET does.
pub fn access_of(method: &Method, path: &str) -> Option<Access> {
    if is_forward_auth(path) {
        return Some(ApiKey(UsageWrite));
    }
    let method = if *method == Method::HEAD {
        &Method::GET
    } else {
        method
    };
    ROUTES
        .iter()
        .find(|(listed, template, _)| listed == method && *template == path)
        .map(|(_, _, access)| *access)
}
