//! `POST /api/agents/execute`, `/api/enforce`, and the product's routes.

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use super::calls::Calls;
use super::forward_auth::{Asked, Query};
use super::gateway::Gateway;
use crate::metering::ledger::NewEvent;
use crate::metering::usage::response::QuotaExceeded;
use crate::metering::usage::routes::Usage;
use crate::server::body;
use crate::server::extract::parse_json;
use crate::server::problem::Problem;
use crate::server::routes::{Access, Permission, Routes, Rules, tenant};
use crate::tenancy::auth::Principal;

const AGENTS_METRIC: &str = "agent_executions";

/// Where agents are executed.
#[derive(Clone)]
pub struct Agents {
    pub usage: Usage,
    /// None: by the built-in agent, which repeats its input.
    pub upstream: Option<reqwest::Url>,
    pub calls: Calls,
    /// Whether proxies that ask first set the headers that say for what.
    pub trust_headers: bool,
}

/// What answers proxies that ask first.
#[derive(Clone)]
pub struct ForwardAuth {
    usage: Usage,
    trust_headers: bool,
}

impl ForwardAuth {
    pub fn of(agents: &Agents) -> Self {
        Self {
            usage: agents.usage.clone(),
            trust_headers: agents.trust_headers,
        }
    }
}

/// What proxies ask first, by their clients' methods and with their clients'
/// paths below.
pub fn forward_auth() -> Routes<ForwardAuth> {
    let rules = Rules::of(Access::ApiKey(Permission::UsageWrite)).forward_auth();
    Routes::new()
        .route(routes!(enforce), rules)
        .any("/api/enforce", any(enforce), rules)
        .any("/api/enforce/", any(enforce_below), rules)
        .any("/api/enforce/{*rest}", any(enforce_below), rules)
}

const EXECUTE: Rules = tenant(Permission::AgentsExecute).forwarded();

pub fn agents() -> Routes<Agents> {
    Routes::new().route(routes!(execute), EXECUTE)
}

/// The product's own routes, which are configuration.
pub fn of_product(agents: &Agents) -> Routes {
    let mut routes = Routes::new();
    for route in agents.usage.catalogue.enforced() {
        let gateway = Gateway::of(route, agents.usage.clone(), agents.calls.clone());
        let handler = if route.path.ends_with("{*rest}") {
            any(pass_below)
        } else {
            any(pass)
        };
        routes = routes.any(&route.path, handler.with_state(gateway), EXECUTE);
    }
    routes
}

async fn pass(
    State(gateway): State<Gateway>,
    caller: Principal,
    request: Request,
) -> Result<Response, Problem> {
    gateway.call(&caller, None, request).await
}

async fn pass_below(
    State(gateway): State<Gateway>,
    caller: Principal,
    route: MatchedPath,
    request: Request,
) -> Result<Response, Problem> {
    // The raw path: what is decoded here, the upstream would not see.
    let fixed = route.as_str().trim_end_matches("{*rest}");
    let rest = request.uri().path().strip_prefix(fixed);
    let rest = rest.ok_or_else(Problem::internal)?.to_owned();
    gateway.call(&caller, Some(&rest), request).await
}

/// What an agent is to do.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Execute {
    #[schema(example = "test")]
    agent_id: String,
    /// Whatever the agent takes.
    #[schema(value_type = Object)]
    input: Value,
}

/// What the built-in agent did.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Executed {
    agent_id: String,
    /// The input, repeated.
    #[schema(value_type = Object)]
    output: Value,
}

/// Execute an agent, if the quota covers it
///
/// The call is forwarded (`AGENTS_UPSTREAM_URL`) and counted if it succeeds; without an upstream
/// the built-in agent repeats its input.
#[utoipa::path(
    post,
    path = "/api/agents/execute",
    operation_id = "executeAgent",
    tag = "Enforcement",
    request_body = Execute,
    responses(
        (status = 200, description = "What the agent answered.", body = Executed),
        (status = 402, description = "`QUOTA_EXCEEDED` or `QUOTA_EXCEEDED_GRACE_EXPIRED`.",
         body = QuotaExceeded, content_type = "application/problem+json"),
        (status = 502, description = "The agent cannot be reached; nothing was counted."),
        (status = 504, description = "The agent took too long; nothing was counted."),
    ),
)]
async fn execute(
    State(agents): State<Agents>,
    caller: Principal,
    request: Request,
) -> Result<Response, Problem> {
    if let Some(upstream) = agents.upstream {
        let metric = agents.usage.catalogue.metric(AGENTS_METRIC);
        let gateway = Gateway {
            usage: agents.usage,
            calls: agents.calls,
            metric: AGENTS_METRIC.to_owned(),
            amount: rust_decimal::Decimal::ONE,
            upstream,
            fail_open: metric.is_some_and(|metric| metric.fail_open),
        };
        return gateway.call(&caller, None, request).await;
    }
    let (parts, body) = request.into_parts();
    let body = body::read(&parts, body).await?;
    let asked: Execute = parse_json(&body)?;
    let event = one(AGENTS_METRIC, rust_decimal::Decimal::ONE, None);
    let decided = agents
        .usage
        .decide(caller.organization_id, AGENTS_METRIC, event, true, false)
        .await?;
    if decided.status() != StatusCode::OK {
        return Ok(decided);
    }
    let executed = Executed {
        agent_id: asked.agent_id,
        output: asked.input,
    };
    let mut response = axum::Json(executed).into_response();
    let quota = decided.headers().iter();
    let quota = quota.filter(|(name, _)| name.as_str().starts_with("x-"));
    for (name, value) in quota {
        response.headers_mut().append(name.clone(), value.clone());
    }
    Ok(response)
}

fn one(metric: &str, quantity: rust_decimal::Decimal, id: Option<String>) -> NewEvent {
    NewEvent {
        id: id.unwrap_or_else(|| Uuid::now_v7().to_string()),
        metric: metric.to_owned(),
        quantity,
        occurred_at: None,
        metadata: None,
    }
}

/// Decide about a call, for a proxy that asks first
///
/// For nginx `auth_request`, Traefik ForwardAuth and Envoy ext_authz, by any method and with any
/// path below: 200 lets the call pass. What is asked is said in the query that the proxy is
/// configured with; the headers `X-Quota-Metric` and `X-Quota-Amount` are read only with
/// `ENFORCE_TRUST_HEADERS=true`. The quota headers of the answer may be copied to the call. An `id`
/// that came before is allowed again and not counted, which `X-Quota-Duplicate: true` says.
#[utoipa::path(
    get,
    path = "/api/enforce",
    operation_id = "enforceQuota",
    tag = "Enforcement",
    params(Query),
    responses(
        (status = 200, description = "It is allowed, and counted.",
         body = crate::metering::usage::response::Checked),
        (status = 402, description = "`QUOTA_EXCEEDED` or `QUOTA_EXCEEDED_GRACE_EXPIRED`.",
         body = QuotaExceeded, content_type = "application/problem+json"),
        (status = 409, description = "The id came before, with another content."),
        (status = 422, description = "The total would be too large."),
    ),
)]
async fn enforce(
    State(route): State<ForwardAuth>,
    caller: Principal,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let asked = Asked::of(&uri, &headers, false, route.trust_headers)?;
    route.decide(&caller, asked).await
}

async fn enforce_below(
    State(route): State<ForwardAuth>,
    caller: Principal,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let asked = Asked::of(&uri, &headers, true, route.trust_headers)?;
    route.decide(&caller, asked).await
}

impl ForwardAuth {
    async fn decide(&self, caller: &Principal, asked: Asked) -> Result<Response, Problem> {
        let Asked {
            metric,
            amount,
            id,
            consume,
        } = asked;
        self.usage.check_names(&metric, id.as_deref())?;
        let named = id.is_some();
        let event = one(&metric, amount, id);
        self.usage
            .decide(caller.organization_id, &metric, event, consume, named)
            .await
    }
}
