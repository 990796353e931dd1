//! The API: the features' routes in one table, behind the checks of each, and
//! the document that describes them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::Semaphore;

use super::health::{self, Probes, Scrapes};
use crate::catalogue::routes::Plans;
use crate::catalogue::{self, Catalogue, CatalogueError};
use crate::config::OutboundConfig;
use crate::console::{self, Console, Standings, Verdicts};
use crate::explain::{self, routes::Explaining};
use crate::features::routes::FeatureState;
use crate::metering::enforcement::{Agents, ForwardAuth};
use crate::metering::ledger::Rules;
use crate::metering::quotas::routes::Reading;
use crate::metering::{alerts, enforcement, grace, quotas, usage};
use crate::payment_methods::PaymentMethods;
use crate::portal::{self, Look, Portal};
use crate::server::layers::checks::Checks;
use crate::server::openapi::routes::Documents;
use crate::server::return_address::ReturnAddresses;
use crate::server::routes::{Route, Unbound};
use crate::server::{self, Shared, Site};
use crate::state::{self, States};
use crate::subscriptions::checkout::{self, routes::Checkouts};
use crate::subscriptions::{self, Subscriptions};
use crate::tenancy::auth::portal_routes::{self, PortalSessions};
use crate::tenancy::auth::portal_sessions::Codes;
use crate::tenancy::auth::{self, Guard, Login, SessionCookie, SingleSignOn};
use crate::tenancy::names::Names;
use crate::tenancy::{audit_log, organizations};
use crate::webhooks::endpoint::Endpoint;
use crate::webhooks::operator::OperatorState;
use crate::webhooks::worker::Processor;
use crate::{invoices, outbox, payment_methods, reporting, timeline, webhooks};

/// What the handlers need.
pub struct Api {
    pub shared: Shared,
    pub logins: Login,
    /// Of the console's sessions.
    pub cookie: SessionCookie,
    /// The operators' identity provider, if there is one.
    pub single_sign_on: Option<SingleSignOn>,
    pub catalogue: Arc<Catalogue>,
    pub endpoint: Arc<Endpoint>,
    /// For operators' replays.
    pub processor: Arc<Processor>,
    pub subscriptions: Subscriptions,
    /// Where Stripe's pages may lead back to.
    pub addresses: Arc<ReturnAddresses>,
    pub states: States,
    pub rules: Rules,
    pub agents: Agents,
    pub probes: Probes,
    /// By which the product calls its organizations.
    pub names: Names,
    pub pages: CustomerPages,
    /// For endpoints that operators enter.
    pub outbound: Arc<OutboundConfig>,
}

/// What the customer pages need besides.
pub struct CustomerPages {
    /// Of their sessions.
    pub cookie: SessionCookie,
    pub look: Arc<Look>,
    pub codes: Codes,
    /// Where this service is reached from outside.
    pub public_url: Arc<str>,
}

/// The routes of every feature: a new one is listed by its feature, and a new
/// feature here.
fn features() -> Unbound<Api> {
    webhooks::endpoint::routes()
        .of(|api: &Api| api.endpoint.clone())
        .merge(health::health().of(|api: &Api| Arc::new(api.probes.clone())))
        .merge(server::openapi::routes::routes().of(|_| Arc::new(Documents::new(&document()))))
        .merge(auth::routes().of(|api: &Api| api.logins.clone()))
        .merge(
            auth::operator_routes::routes()
                .of(|api: &Api| auth::operator_routes::Access::new(api.shared.clone())),
        )
        .merge(audit_log::routes().of(|api: &Api| api.shared.clone()))
        .merge(webhooks::operator::routes().of(|api: &Api| OperatorState {
            shared: api.shared.clone(),
            processor: api.processor.clone(),
        }))
        .merge(organizations::routes::routes().of(|api: &Api| api.shared.clone()))
        .merge(timeline::routes::routes().of(|api: &Api| api.shared.clone()))
        .merge(organizations::product_routes::routes().of(|api: &Api| {
            organizations::product_routes::ManagedOrganizations {
                shared: api.shared.clone(),
                catalogue: api.catalogue.clone(),
            }
        }))
        .merge(invoices::routes::routes().of(|api: &Api| api.shared.clone()))
        .merge(grace::routes::routes().of(|api: &Api| api.shared.clone()))
        .merge(alerts::routes::routes().of(|api: &Api| api.shared.clone()))
        .merge(payment_methods::routes::routes().of(|api: &Api| {
            PaymentMethods::new(
                api.shared.clone(),
                api.subscriptions.clone(),
                api.addresses.clone(),
            )
        }))
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
        .merge(checkout::routes::routes().of(|api: &Api| Checkouts {
            subscriptions: api.subscriptions.clone(),
            addresses: api.addresses.clone(),
        }))
        .merge(state::routes::routes().of(|api: &Api| api.states.clone()))
        .merge(explain::routes::routes().of(|api: &Api| Explaining {
            shared: api.shared.clone(),
            rules: api.rules.clone(),
        }))
        .merge(
            outbox::routes::routes().of(|api: &Api| outbox::routes::EventState {
                shared: api.shared.clone(),
                config: api.outbound.clone(),
            }),
        )
        .merge(reporting::routes::routes().of(|api: &Api| api.shared.clone()))
        .merge(pages())
}

/// What people use, and how they come there.
fn pages() -> Unbound<Api> {
    console::routes()
        .of(|api: &Api| Arc::new(api.console()))
        .merge(portal_routes::routes().of(|api: &Api| PortalSessions {
            shared: api.shared.clone(),
            names: api.names.clone(),
            addresses: api.addresses.clone(),
            public_url: api.pages.public_url.clone(),
        }))
        .merge(portal::routes().of(|api: &Api| Arc::new(api.portal())))
}

/// `GET /metrics`, which may have a listener of its own.
fn scrapes() -> Unbound<Probes> {
    health::metrics().of(|probes: &Probes| Arc::new(Scrapes::new(probes.clone())))
}

impl Api {
    fn console(&self) -> Console {
        let readiness = self.probes.readiness.clone();
        Console {
            shared: self.shared.clone(),
            login: self.logins.clone(),
            cookie: self.cookie,
            single_sign_on: self.single_sign_on.clone(),
            webhooks: OperatorState {
                shared: self.shared.clone(),
                processor: self.processor.clone(),
            },
            explaining: Explaining {
                shared: self.shared.clone(),
                rules: self.rules.clone(),
            },
            events: outbox::routes::EventState {
                shared: self.shared.clone(),
                config: self.outbound.clone(),
            },
            states: self.states.clone(),
            subscriptions: self.subscriptions.clone(),
            catalogue: self.catalogue.clone(),
            readiness: Arc::new(move || {
                let readiness = readiness.clone();
                Box::pin(async move { readiness.reasons().await })
            }),
            verdicts: Verdicts::default(),
            standings: Standings::default(),
            verifying: Semaphore::new(1),
        }
    }

    fn portal(&self) -> Portal {
        Portal {
            shared: self.shared.clone(),
            login: self.logins.clone(),
            cookie: self.pages.cookie,
            subscriptions: self.subscriptions.clone(),
            catalogue: self.catalogue.clone(),
            metering: self.rules.clone(),
            methods: PaymentMethods::new(
                self.shared.clone(),
                self.subscriptions.clone(),
                self.addresses.clone(),
            ),
            addresses: self.addresses.clone(),
            public_url: self.pages.public_url.clone(),
            look: self.pages.look.clone(),
            codes: self.pages.codes.clone(),
            failed: portal::Failed::default(),
        }
    }

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
    server::openapi::document(&table(), &schemas, outbox::webhooks())
}
