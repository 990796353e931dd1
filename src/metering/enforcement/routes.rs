//! `POST /api/agents/execute`, `/api/enforce`, and the product's own routes.

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
use super::forward_auth::{ForwardAuthRequest, Query, Use};
use super::gateway::Gateway;
use crate::features::{self, FeatureAllowed, Needed};
use crate::metering::ledger::{NewEvent, Question};
use crate::metering::usage::response::{DecisionView, QuotaExceeded};
use crate::metering::usage::routes::Usage;
use crate::server::body;
use crate::server::extract::parse_json;
use crate::server::problem::Problem;
use crate::server::routes::{Access, Permission, Routes, Rules, tenant};
use crate::tenancy::auth::Principal;

const AGENTS_METRIC: &str = "agent_executions";

/// What the enforced routes need.
#[derive(Clone)]
pub struct Agents {
    pub usage: Usage,
    pub features: features::Lookup,
    /// Where agents run; `None` for the built-in agent, which echoes its input.
    pub upstream: Option<reqwest::Url>,
    pub calls: Calls,
    /// Whether `/api/enforce` reads the `X-Quota-…` headers.
    pub trust_headers: bool,
}

/// What the forward-auth routes need.
#[derive(Clone)]
pub struct ForwardAuth {
    usage: Usage,
    features: features::Lookup,
    trust_headers: bool,
}

impl ForwardAuth {
    pub fn of(agents: &Agents) -> Self {
        Self {
            usage: agents.usage.clone(),
            features: agents.features.clone(),
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
    // The raw path, so that the upstream sees what the client sent.
    let fixed = route.as_str().trim_end_matches("{*rest}");
    let rest = request.uri().path().strip_prefix(fixed);
    let rest = rest.ok_or_else(Problem::internal)?.to_owned();
    gateway.call(&caller, Some(&rest), request).await
}

/// A request to an agent.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Execute {
    #[schema(example = "test")]
    agent_id: String,
    /// The agent's input, passed on as is.
    #[schema(value_type = Object)]
    input: Value,
}

/// The built-in agent's response.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Executed {
    agent_id: String,
    /// A copy of the input.
    #[schema(value_type = Object)]
    output: Value,
}

/// Execute an agent, if the quota covers it
///
/// The call is forwarded to `AGENTS_UPSTREAM_URL` and counted if it succeeds. Without an upstream,
/// a built-in agent echoes its input.
#[utoipa::path(
    post,
    path = "/api/agents/execute",
    operation_id = "executeAgent",
    tag = "Enforcement",
    request_body = Execute,
    responses(
        (status = 200, description = "The agent's response.", body = Executed),
        (status = 402, description = "`QUOTA_EXCEEDED` or `QUOTA_EXCEEDED_GRACE_EXPIRED`.",
         body = QuotaExceeded, content_type = "application/problem+json"),
        (status = 502, description = "The agent could not be reached; nothing was counted."),
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
    let command: Execute = parse_json(&body)?;
    let question = Question {
        event: one(AGENTS_METRIC, rust_decimal::Decimal::ONE, None),
        consume: true,
        named: false,
        needs: None,
    };
    let decided = agents
        .usage
        .decide(caller.organization_id, question)
        .await?;
    if decided.status() != StatusCode::OK {
        return Ok(decided);
    }
    let executed = Executed {
        agent_id: command.agent_id,
        output: command.input,
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

/// What the call may use, or the feature it needs.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes the two answers")]
enum Enforced {
    Use(DecisionView),
    Feature(FeatureAllowed),
}

/// Decide whether a proxied call may pass
///
/// For nginx `auth_request`, Traefik ForwardAuth and Envoy ext_authz, with any method and any path
/// below: 200 lets the call pass. Metric, amount and feature come from the query that the proxy is
/// configured with; the headers `X-Quota-Metric`, `X-Quota-Amount` and `X-Quota-Feature` are read
/// only with `ENFORCE_TRUST_HEADERS=true`. With a `feature`, alone or beside a metric, the
/// organization must have it: the response then has its value in `X-Feature`. The proxy may copy the quota headers of the response to the call.
/// A repeated `id` is allowed again without being counted; the response then has
/// `X-Quota-Duplicate: true`.
#[utoipa::path(
    get,
    path = "/api/enforce",
    operation_id = "enforceQuota",
    tag = "Enforcement",
    params(Query),
    responses(
        (status = 200, description = "The call is allowed, and counted unless `consume=false`.",
         body = Enforced),
        (status = 402, description = "`QUOTA_EXCEEDED` or `QUOTA_EXCEEDED_GRACE_EXPIRED`.",
         body = QuotaExceeded, content_type = "application/problem+json"),
        (status = 403, description = "`feature_not_included`: the organization does not have the \
                                      feature. Nothing was counted."),
        (status = 409, description = "The id was used before with different content."),
        (status = 422, description = "The total would be too large."),
    ),
)]
async fn enforce(
    State(route): State<ForwardAuth>,
    caller: Principal,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let asked = ForwardAuthRequest::parse(&uri, &headers, false, route.trust_headers)?;
    route.decide(&caller, asked).await
}

async fn enforce_below(
    State(route): State<ForwardAuth>,
    caller: Principal,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let asked = ForwardAuthRequest::parse(&uri, &headers, true, route.trust_headers)?;
    route.decide(&caller, asked).await
}

impl ForwardAuth {
    async fn decide(
        &self,
        caller: &Principal,
        asked: ForwardAuthRequest,
    ) -> Result<Response, Problem> {
        let needed = match asked.feature {
            None => None,
            Some(id) => match Needed::of(&self.usage.catalogue, &id) {
                Some(needed) => Some(needed),
                None => return Err(features::unknown(&id)),
            },
        };
        match (asked.metered, needed) {
            (Some(used), needs) => self.decide_use(caller, used, needs).await,
            (None, Some(needed)) => self.decide_feature(caller, needed).await,
            (None, None) => Err(Problem::internal()),
        }
    }

    async fn decide_use(
        &self,
        caller: &Principal,
        used: Use,
        needs: Option<Needed>,
    ) -> Result<Response, Problem> {
        self.usage.check_names(&used.metric, used.id.as_deref())?;
        let question = Question {
            named: used.id.is_some(),
            consume: used.consume,
            event: one(&used.metric, used.amount, used.id),
            needs,
        };
        self.usage.decide(caller.organization_id, question).await
    }

    async fn decide_feature(
        &self,
        caller: &Principal,
        needed: Needed,
    ) -> Result<Response, Problem> {
        let values = self.features.find(caller.organization_id).await?;
        let Some(value) = values.grant(&needed) else {
            let denials = &self.usage.denials;
            denials.of_feature(
                caller.organization_id,
                &needed.feature,
                features::NOT_INCLUDED,
            );
            return Err(features::not_included(&needed.feature));
        };
        let mut headers = HeaderMap::new();
        features::included(&needed, &value, StatusCode::OK, &mut headers);
        let allowed = axum::Json(FeatureAllowed::of(needed, value));
        Ok((headers, allowed).into_response())
    }
}
