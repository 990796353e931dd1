//! Starting `serve`: from settings to running parts.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::api::{self, Api, CustomerPages};
use super::background::{Background, PartEnded};
use super::connections::{self, Pools};
use super::database::Database;
use super::health::{Probes, Readiness};
use super::outbox::Reads;
use super::parts::Parts;
use super::refused::RefusedPages;
use super::secrets::webhook_secrets;
use super::threads::{Processing, wake_workers};
use super::{StartError, metrics, stripe_client};
use crate::catalogue::Catalogue;
use crate::config::{ServeConfig, SigningSecret, StripeConfig};
use crate::features;
use crate::http_client;
use crate::limits;
use crate::metering::denials::Denials;
use crate::metering::enforcement::{Agents, Calls, RENEW_EVERY};
use crate::metering::ledger::{self, Ledger, Rules};
use crate::metering::usage;
use crate::metering::usage::routes::Usage;
use crate::portal::Look;
use crate::server::budget::Budget;
use crate::server::budget::organizations::Shares;
use crate::server::layers::checks::Checks;
use crate::server::layers::cors;
use crate::server::layers::idempotency::Keeper;
use crate::server::layers::rate_limit::Limits;
use crate::server::return_address::ReturnAddresses;
use crate::server::{self, Shared, Site};
use crate::state::States;
use crate::subscriptions::{self, Subscriptions, VanishedPlans};
use crate::tenancy::auth::issued::Issuer;
use crate::tenancy::auth::portal_sessions::Codes;
use crate::tenancy::auth::{Guard, Login, OperatorPolicy, SessionCookie, SingleSignOn};
use crate::tenancy::names::Names;
use crate::webhooks::backpressure::Backpressure;
use crate::webhooks::bulk;
use crate::webhooks::endpoint::Endpoint;
use crate::webhooks::intake::{self, Source};
use crate::webhooks::rejections::{self, Rejections};
use crate::webhooks::worker::{POLL, Processor};
use embedded_postgres::EmbeddedPostgres;

/// How long the parts may take to stop: longer than open requests and a batch in
/// progress take.
const DRAIN: Duration = Duration::from_secs(25);

/// A running service.
pub struct Service {
    pub address: SocketAddr,
    /// Its parts.
    pub background: Background,
}

/// Starts to listen and to process.
pub async fn start(
    database: &Database,
    serve: &ServeConfig,
    stripe: &StripeConfig,
    data_dir: &Path,
) -> Result<Service, StartError> {
    let catalogue = Arc::new(api::catalogue(stripe.plans_file.as_deref())?);
    let mailer = super::mailer(serve, catalogue.clone())?;
    let secrets = webhook_secrets(stripe, data_dir)?;
    database.check_login().await?;
    let (workers, lanes) = (serve.worker_concurrency, counting_lanes());
    let needed = connections::needed(workers, lanes);
    let missing = connections::missing(&database.service, needed).await?;
    let listener = listen("LISTEN_ADDR", serve.listen_addr).await?;
    let address = listener.local_addr().unwrap_or(serve.listen_addr);
    let starting = Starting {
        database,
        serve,
        stripe,
        recorder: metrics::of_service(&catalogue, missing),
        catalogue: catalogue.clone(),
        pools: Pools::new(&database.service, workers),
        stop: CancellationToken::new(),
        address,
        issuer: issuer(serve)?,
    };
    let in_stripe = stripe.api.is_some();
    starting.check_plans(in_stripe).await?;
    let mut background = Background::new(starting.stop.clone());
    let intake = starting.intake(secrets, &mut background);
    let metering = starting.metering(lanes, &mut background)?;
    let subscriptions = starting.subscriptions()?;
    let states = starting.states(&subscriptions);
    Parts {
        pool: starting.pools.api.clone(),
        yielding: starting.pools.yielding(),
        catalogue: catalogue.clone(),
        in_stripe,
        ledger: metering.ledger.clone(),
        denials: metering.agents.usage.denials.clone(),
        subscriptions: subscriptions.clone(),
        bulk: starting.bulk_actions(&intake)?,
        reads: Arc::new(Reads {
            states: states.clone(),
            pressure: intake.pressure.clone(),
        }),
        mailer,
        recorder: starting.recorder.clone(),
        issuer: starting.issuer.clone(),
        schema: Arc::default(),
        stop: starting.stop.clone(),
    }
    .register(serve, &mut background);
    let (wake, pressure) = (intake.wake, intake.pressure);
    starting
        .listeners(
            listener,
            intake.endpoint,
            metering,
            (subscriptions, states),
            &mut background,
        )
        .await?;
    starting.processing(wake, pressure, &mut background)?;
    // The operators' guide searches the log for this name.
    tracing::info!(
        routes = catalogue.enforced().len() + 1,
        grace_hours = serve.usage.grace_hours,
        "PlanEnforcementMiddleware loaded"
    );
    tracing::info!(%address, workers, connections = needed, "Listening");
    Ok(Service {
        address,
        background,
    })
}

impl Service {
    /// Waits for a part that ends without being told to.
    pub async fn failed(&mut self) -> PartEnded {
        self.background.ended_early().await
    }

    /// Answers accepted requests, finishes the batches in progress, and stops. The
    /// writers end after the last connection, with everything written.
    pub async fn drain(self) {
        self.background.stop(DRAIN).await;
    }

    /// Stops, but takes no longer than `patience`.
    pub async fn abandon(self, patience: Duration) {
        self.background.stop(patience).await;
    }
}

/// What the parts of a starting service have in common.
struct Starting<'a> {
    database: &'a Database,
    serve: &'a ServeConfig,
    stripe: &'a StripeConfig,
    catalogue: Arc<Catalogue>,
    pools: Pools,
    recorder: PrometheusHandle,
    stop: CancellationToken,
    /// Of the API's listener.
    address: SocketAddr,
    /// Of the product's own tokens.
    issuer: Option<Issuer>,
}

/// The webhook endpoint, and what its writer tells the workers.
struct Intake {
    endpoint: Endpoint,
    wake: Arc<Notify>,
    pressure: Arc<Backpressure>,
}

/// Counting and enforcing usage.
struct Metering {
    ledger: Ledger,
    rules: Rules,
    agents: Agents,
}

impl Starting<'_> {
    async fn check_plans(&self, in_stripe: bool) -> Result<(), StartError> {
        let (pool, catalogue) = (&self.pools.api, &self.catalogue);
        // Where the schema is older, this cannot be checked, and nothing is processed.
        match subscriptions::check_vanished(pool, catalogue).await {
            Ok(()) | Err(VanishedPlans::Database(_)) => {}
            Err(found) => return Err(StartError::VanishedPlans(found.to_string())),
        }
        // Where the schema is older, a part of its own goes on trying.
        if let Err(error) = catalogue.record_versions(pool, in_stripe).await {
            tracing::warn!(%error, "The plans' versions are not recorded yet");
        }
        Ok(())
    }

    fn intake(&self, secrets: Vec<SigningSecret>, background: &mut Background) -> Intake {
        let wake = Arc::new(Notify::new());
        let pressure = Arc::new(Backpressure::default());
        let (waking, noting) = (wake.clone(), pressure.clone());
        let on_commit = move |stored| {
            noting.note(stored);
            wake_workers(&waking);
        };
        let options = self.database.service.clone();
        let (intake, writer) = intake::new(options, Source::Delivery, on_commit);
        background.task("intake writer", writer.run());
        let rejections = Arc::new(Rejections::default());
        let endpoint = Endpoint {
            intake,
            secrets,
            tolerance_secs: self.serve.tolerance_secs,
            rejections: rejections.clone(),
        };
        let (pool, stop) = (self.pools.api.clone(), self.stop.clone());
        background.looping("refused deliveries", rejections::PAUSE, |runs| async move {
            rejections.keep(pool, runs, stop).await;
        });
        Intake {
            endpoint,
            wake,
            pressure,
        }
    }

    fn metering(&self, lanes: usize, background: &mut Background) -> Result<Metering, StartError> {
        let rules = Rules {
            catalogue: self.catalogue.clone(),
            grace_hours: self.serve.usage.grace_hours,
        };
        let options = self.database.service.clone();
        let (ledger, counting, answers) = ledger::new(options, rules.clone(), lanes);
        background.thread("usage ledger", move || counting.run());
        background.task("usage answers", answers);
        let client = http_client::direct_client().map_err(StartError::Client)?;
        let calls = Calls::new(client, self.stop.clone());
        let (keeping, pool) = (calls.clone(), self.pools.api.clone());
        background.looping("forwarded calls", RENEW_EVERY, |runs| {
            keeping.keep(pool, runs)
        });
        let agents = Agents {
            usage: Usage {
                ledger: ledger.clone(),
                denials: Denials::default(),
                catalogue: self.catalogue.clone(),
                offload: usage::Offload::default(),
                stored: usage::Stored::new(self.pools.credentials.clone()),
                organizations: Names::new(self.pools.credentials.clone()),
            },
            features: features::Lookup::new(self.pools.credentials.clone()),
            upstream: self.serve.usage.agents_upstream.clone(),
            calls,
            trust_headers: self.serve.usage.trust_headers,
        };
        Ok(Metering {
            ledger,
            rules,
            agents,
        })
    }

    fn subscriptions(&self) -> Result<Subscriptions, StartError> {
        Ok(Subscriptions::new(
            self.pools.api.clone(),
            self.pools.previews.clone(),
            self.catalogue.clone(),
            stripe_client(self.stripe)?,
        ))
    }

    fn states(&self, subscriptions: &Subscriptions) -> States {
        States::new(
            self.pools.api.clone(),
            self.pools.credentials.clone(),
            self.catalogue.clone(),
            subscriptions.clone(),
            self.stop.clone(),
        )
    }

    fn probes(&self, budget: Arc<Budget>) -> Probes {
        let database = self.database;
        Probes {
            budget,
            readiness: Readiness::new(
                database.service.clone(),
                self.pools.probes.clone(),
                database.embedded.as_ref().map(EmbeddedPostgres::watch),
            ),
            pools: self.pools.named(),
            pool: self.pools.probes.clone(),
            metrics: self.recorder.clone(),
        }
    }

    /// The API's listener, and the one for scrapes if it is separate.
    async fn listeners(
        &self,
        listener: TcpListener,
        endpoint: Endpoint,
        metering: Metering,
        subscriptions: (Subscriptions, States),
        background: &mut Background,
    ) -> Result<(), StartError> {
        let budget = Budget::of_service(self.serve.trusted_proxies);
        let probes = self.probes(budget.clone());
        let site = self.site(endpoint, &probes, metering, subscriptions)?;
        if let Some(metrics_addr) = self.serve.metrics_addr {
            let listener = listen("METRICS_ADDR", metrics_addr).await?;
            let site = api::metrics_site(&probes);
            let scrapes = Budget::new(limits::METRICS_CONNECTIONS, 0);
            background.task(
                "metrics listener",
                server::serve_within(scrapes, listener, site, self.stop.clone()),
            );
        }
        let site = cors::allow(site, &self.serve.surface.cors_origins);
        background.task(
            "HTTP server",
            server::serve_within(budget, listener, site, self.stop.clone()),
        );
        Ok(())
    }

    fn site(
        &self,
        endpoint: Endpoint,
        probes: &Probes,
        metering: Metering,
        (subscriptions, states): (Subscriptions, States),
    ) -> Result<Site, StartError> {
        let (pools, catalogue, serve) = (&self.pools, &self.catalogue, self.serve);
        let public = serve.surface.addresses.public.as_ref();
        let cookie = SessionCookie::new(public.is_some_and(|url| url.scheme() == "https"));
        let pages = self.customer_pages(cookie);
        let operators = &serve.surface.operators;
        let policy = OperatorPolicy {
            second_factor: operators.require_second_factor,
            passwords: operators
                .oidc
                .as_ref()
                .is_none_or(|oidc| oidc.allow_passwords),
            provider: operators
                .oidc
                .as_ref()
                .map(|oidc| oidc.issuer.as_str().into()),
        };
        let checks = Checks {
            guard: Guard::new(
                pools.credentials.clone(),
                self.issuer.clone(),
                serve.trusted_proxies,
                serve.usage.trust_headers,
                (cookie, pages.cookie),
                policy.clone(),
            ),
            limits: Limits::new(serve.surface.rates),
            shares: Shares::default(),
            keeper: Keeper::new(pools.api.clone()),
            pages: Arc::new(RefusedPages(pages.look.clone())),
        };
        let processor = self.processor()?;
        let api = Api {
            states,
            shared: Shared::new(pools.api.clone()),
            logins: Login::new(pools.logins.clone(), policy),
            cookie,
            single_sign_on: self.single_sign_on()?,
            catalogue: catalogue.clone(),
            endpoint: Arc::new(endpoint),
            processor,
            subscriptions,
            addresses: Arc::new(ReturnAddresses::new(&serve.surface.addresses)),
            rules: metering.rules,
            agents: metering.agents,
            probes: probes.clone(),
            names: Names::new(pools.credentials.clone()),
            pages,
            outbound: Arc::new(serve.outbound.clone()),
        };
        Ok(api.site(checks, serve.metrics_addr.is_none()))
    }

    fn customer_pages(&self, cookie: SessionCookie) -> CustomerPages {
        let surface = &self.serve.surface;
        let public_url = surface.addresses.public_url(self.address);
        if !surface.portal.frame_ancestors.is_empty() && !public_url.starts_with("https://") {
            tracing::warn!(
                "FRAME_ANCESTORS lets other sites frame the customer pages, but browsers keep \
                 sessions in frames by https alone: set PUBLIC_URL to an address of https"
            );
        }
        CustomerPages {
            cookie: cookie.framed(!surface.portal.frame_ancestors.is_empty()),
            look: Arc::new(Look::of(&surface.portal)),
            codes: Codes::new(self.pools.credentials.clone()),
            public_url: public_url.into(),
        }
    }

    /// The operators' identity provider, if there is one.
    fn single_sign_on(&self) -> Result<Option<SingleSignOn>, StartError> {
        let surface = &self.serve.surface;
        let Some(oidc) = surface.operators.oidc.clone() else {
            return Ok(None);
        };
        let public = surface.addresses.public_url(self.address);
        let made = SingleSignOn::new(oidc, &public, self.pools.logins.clone());
        made.map(Some).map_err(StartError::Client)
    }

    fn bulk_actions(&self, intake: &Intake) -> Result<bulk::Running, StartError> {
        Ok(bulk::Running {
            processor: self.processor()?,
            pressure: intake.pressure.clone(),
            stop: self.stop.clone(),
            renew_every: bulk::RENEW_EVERY,
        })
    }

    /// Processing of single events, for operators.
    fn processor(&self) -> Result<Arc<Processor>, StartError> {
        Ok(Arc::new(Processor::new(
            self.pools.api.clone(),
            Catalogue::clone(&self.catalogue),
            self.stripe,
            stripe_client(self.stripe)?,
        )))
    }

    /// The processing thread, unless this replica leaves events to others.
    fn processing(
        self,
        wake: Arc<Notify>,
        pressure: Arc<Backpressure>,
        background: &mut Background,
    ) -> Result<(), StartError> {
        let client = stripe_client(self.stripe)?;
        let Some(pool) = self.pools.processing else {
            return Ok(());
        };
        let work = Processing {
            options: self.database.service.clone(),
            pool,
            workers: self.serve.worker_concurrency,
            catalogue: Catalogue::clone(&self.catalogue),
            stripe: self.stripe.clone(),
            client,
            wake,
            pressure,
            stop: self.stop,
        };
        background.looping_thread("processing", POLL, move |runs| work.run(runs));
        Ok(())
    }
}

/// Whose tokens are accepted beside our own.
fn issuer(serve: &ServeConfig) -> Result<Option<Issuer>, StartError> {
    let issuer = serve.surface.issuer.clone().map(Issuer::new);
    issuer.transpose().map_err(StartError::Client)
}

/// The number of lanes that count usage, by cores: each has a connection and a server
/// process.
fn counting_lanes() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(limits::USAGE_LANES))
}

async fn listen(variable: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| StartError::Listen {
            variable,
            address,
            error,
        })
}
