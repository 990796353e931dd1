//! The API: the features' routes in one table, behind the checks of each, and
//! the document that describes them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use sqlx::postgres::PgPool;

use super::health::{self, Probes, Scrapes};
use crate::catalogue::routes::Plans;
use crate::catalogue::{self, Catalogue, CatalogueError};
use crate::features::routes::FeatureState;
use crate::metering::enforcement::{Agents, ForwardAuth};
use crate::metering::ledger::Rules;
use crate::metering::quotas::routes::Reading;
use crate::metering::{alerts, enforcement, grace, quotas, usage};
use crate::server::layers::checks::Checks;
use crate::server::openapi::routes::Documents;
use crate::server::routes::{Route, Unbound};
use crate::server::{self, Shared, Site};
use crate::state::{self, States};
use crate::subscriptions::{self, Subscriptions};
use crate::tenancy::auth::{self, Guard, Login};
use crate::tenancy::{audit_log, organizations};
use crate::webhooks::endpoint::Endpoint;
use crate::webhooks::operator::OperatorState;
use crate::webhooks::worker::Processor;
use crate::{invoices, payment_methods, webhooks};

/// What the handlers need.
pub struct Api {
    pub shared: Shared,
    /// Serves logins and nothing else.
    pub logins: PgPool,
    pub catalogue: Arc<Catalogue>,
    pub endpoint: Arc<Endpoint>,
    /// For operators' replays.
    pub processor: Arc<Processor>,
    pub subscriptions: Subscriptions,
    pub states: States,
    pub rules: Rules,
    pub agents: Agents,
    pub probes: Probes,
}

/// The routes of every feature: a new one is listed by its feature, and a new
/// feature here.
fn features() -> Unbound<Api> {
    webhooks::endpoint::routes()
        .of(|api: &Api| api.endpoint.clone())
        .merge(health::health().of(|api: &Api| Arc::new(api.probes.clone())))
        .merge(server::openapi::routes::routes().of(|_| Arc::new(Documents::new(&document()))))
        .merge(auth::routes().of(|api: &Api| Login::new(api.logins.clone())))
        .merge(audit_log::routes().of(|api: &Api| api.shared.clone()))
        .merge(webhooks::operator::routes().of(|api: &Api| OperatorState {
            shared: api.shared.clone(),
            processor: api.processor.clone(),
        }))
        .merge(organizations::routes::routes().of(|api: &Api| api.shared.clone()))
        .merge(organizations::product_routes::routes().of(|api: &Api| {
            organizations::product_routes::ManagedOrganizations {
                shared: api.shared.clone(),
                catalogue: api.catalogue.clone(),
            }
        }))
        .merge(invoices::routes::routes().of(|api: &Api| api.shared.clone()))
        .merge(grace::routes::routes().of(|api: &Api| api.shared.clone()))
        .merge(alerts::routes::routes().of(|api: &Api| api.shared.clone()))
        .merge(payment_methods::routes::routes().of(|api: &Api| api.shared.clone()))
        .merge(quotas::routes::routes().of(|api: &Api| Reading {
            shared: api.shared.clone(),
            rules: api.rules.clone(),
        }))
        .merge(
            crate::features::routes::routes().of(|api: &Api| FeatureState {
                shared: api.shared.clone(),
                catalogue: api.catalogue.clone(),
            }),
        )
        .merge(catalogue::routes::routes().of(|api: &Api| Plans {
            catalogue: api.catalogue.clone(),
            shared: api.shared.clone(),
        }))
        .merge(usage::routes::routes().of(|api: &Api| api.agents.usage.clone()))
        .merge(enforcement::forward_auth().of(|api: &Api| ForwardAuth::of(&api.agents)))
        .merge(enforcement::agents().of(|api: &Api| api.agents.clone()))
        .merge(subscriptions::routes::routes().of(|api: &Api| api.subscriptions.clone()))
        .merge(state::routes::routes().of(|api: &Api| api.states.clone()))
}

/// `GET /metrics`, which may have a listener of its own.
fn scrapes() -> Unbound<Probes> {
    health::metrics().of(|probes: &Probes| Arc::new(Scrapes::new(probes.clone())))
}

impl Api {
    /// All routes, those of the product included.
    pub fn site(self, checks: Checks<Guard>, with_metrics: bool) -> Site {
        let mut routes = features()
            .bind(&self)
            .merge(enforcement::of_product(&self.agents));
        if with_metrics {
            routes = routes.merge(scrapes().bind(&self.probes));
        }
        server::site(routes, Some(&Arc::new(checks)))
    }
}

/// `GET /metrics` alone.
pub fn metrics_site(probes: &Probes) -> Site {
    server::site::<Guard>(scrapes().bind(probes), None)
}

/// The table of all routes but the product's own, which are configuration.
pub fn table() -> Vec<Route> {
    let mut all = features().into_routes();
    all.extend(scrapes().into_routes());
    all
}

/// Reads the plan catalogue, whose routes of the product may not be in the way
/// of ours.
pub fn catalogue(plans_file: Option<&Path>) -> Result<Catalogue, CatalogueError> {
    let reserved: BTreeSet<String> = table().iter().map(Route::room).collect();
    Catalogue::load_beside(plans_file, &Vec::from_iter(reserved))
}

/// The OpenAPI document of all routes.
pub fn document() -> Value {
    let (features, scrapes) = (features(), scrapes());
    let schemas = [features.schemas(), scrapes.schemas()].concat();
    server::openapi::document(&table(), &schemas)
}
