//! The API: the features' routes behind what is asked of every request, and
//! the document that describes them.

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use serde_json::Value;
use sqlx::postgres::PgPool;
use utoipa::OpenApi as _;

use crate::app::health;
use crate::catalogue::{self, Catalogue};
use crate::metering::enforcement::Agents;
use crate::metering::ledger::Rules;
use crate::metering::usage;
use crate::metering::{alerts, enforcement, grace, quotas};
use crate::server::layers::idempotency::Keeper;
use crate::server::layers::parameters::{self, Parameters};
use crate::server::layers::rate_limit::{self, Limits};
use crate::server::layers::{accept, idempotency, time_limit};
use crate::server::{self, Shared, openapi};
use crate::subscriptions::{self, Subscriptions};
use crate::tenancy::auth::{self, Guard};
use crate::tenancy::organizations;
use crate::webhooks::worker::Processor;
use crate::{audit, invoices, payment_methods, webhooks};

/// What the routes need.
pub struct Api {
    pub pool: PgPool,
    /// Serves logins and nothing else.
    pub logins: PgPool,
    pub catalogue: Arc<Catalogue>,
    pub guard: Guard,
    /// For operators' replays.
    pub processor: Processor,
    pub limits: Limits,
    pub subscriptions: Subscriptions,
    pub rules: Rules,
    pub agents: Agents,
}

impl Api {
    pub fn router(self) -> Router {
        let shared = Shared::new(self.pool.clone());
        let description = document();
        let parameters = Parameters::of(&description);
        let routes = Router::new()
            .merge(auth::router(self.logins))
            .merge(audit::routes::router(shared.clone()))
            .merge(webhooks::operator::router(shared.clone(), self.processor))
            .merge(organizations::routes::router(shared.clone()))
            .merge(invoices::routes::router(shared.clone()))
            .merge(grace::routes::router(shared.clone()))
            .merge(quotas::routes::router(shared.clone(), self.rules))
            .merge(alerts::routes::router(shared.clone()))
            .merge(usage::routes::router(self.agents.usage.clone()))
            .merge(enforcement::router(self.agents))
            .merge(payment_methods::routes::router(shared.clone()))
            .merge(catalogue::routes::router(self.catalogue, shared))
            .merge(subscriptions::routes::router(self.subscriptions))
            .merge(server::docs::router(description));
        // The last layer is the first to see a request.
        routes
            .route_layer(from_fn_with_state(
                Keeper::new(self.pool),
                idempotency::once,
            ))
            .route_layer(from_fn_with_state(parameters, parameters::refuse_unknown))
            .route_layer(from_fn_with_state(self.limits, rate_limit::limit))
            .route_layer(from_fn_with_state(self.guard, auth::enforce))
            .route_layer(from_fn(time_limit::within))
            .route_layer(from_fn(accept::offered))
    }
}

/// The OpenAPI document of all routes.
pub fn document() -> Value {
    let mut document = openapi::Base::openapi();
    let features = [
        health::ProbesApi::openapi(),
        server::docs::Api::openapi(),
        auth::Api::openapi(),
        webhooks::endpoint::Api::openapi(),
        webhooks::operator::Api::openapi(),
        audit::routes::Api::openapi(),
        organizations::routes::Api::openapi(),
        invoices::routes::Api::openapi(),
        payment_methods::routes::Api::openapi(),
        catalogue::routes::Api::openapi(),
        subscriptions::routes::Api::openapi(),
        usage::routes::Api::openapi(),
        quotas::routes::Api::openapi(),
        grace::routes::Api::openapi(),
        alerts::routes::Api::openapi(),
        enforcement::Api::openapi(),
    ];
    for feature in features {
        document.merge(feature);
    }
    openapi::complete(document)
}
