//! `serve`: what runs together, and how it starts and stops.
//!
//! The main thread, a runtime of one thread, has everything that answers:
//! intake, the API, probes, and the sweepers beside them. Processing and the
//! counting of usage have a thread each, so that deliveries do not wait behind them.

pub mod api;
pub mod background;
mod connections;
mod database;
pub mod health;
mod threads;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::postgres::PgPool;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::app::api::Api;
use crate::app::health::{Probes, Readiness};
use crate::catalogue::{Catalogue, CatalogueError};
use crate::config::{ServeConfig, StripeConfig};
use crate::db::DatabaseError;
use crate::http_client;
use crate::limits;
use crate::maintenance;
use crate::metering::enforcement::{Agents, Calls};
use crate::metering::ledger::{self, Rules};
use crate::metering::usage;
use crate::metering::usage::routes::Usage;
use crate::metering::{alerts, grace, quotas};
use crate::migrations::MigrationError;
use crate::projection;
use crate::server;
use crate::server::budget::Budget;
use crate::server::layers::cors;
use crate::server::layers::rate_limit::Limits;
use crate::stripe::client::Client;
use crate::stripe::signature::SigningSecret;
use crate::subscriptions::{self, Subscriptions};
use crate::telemetry::metrics;
use crate::tenancy::auth::Guard;
use crate::tenancy::organizations;
use crate::webhooks::backpressure::Pressure;
use crate::webhooks::endpoint::Endpoint;
use crate::webhooks::event_log::Source;
use crate::webhooks::rejections::Rejections;
use crate::webhooks::worker::Processor;
use crate::webhooks::{self, event_log};
use background::{Background, PartEnded};
use connections::Pools;
use embedded_postgres::{EmbeddedPostgres, EmbeddedPostgresError};
use threads::{Processing, wake_workers};

pub use database::{Database, EMBEDDED};

/// How soon quotas are brought to the catalogue that could not be.
const FOLLOW_AGAIN: Duration = Duration::from_secs(5);
/// How long the parts may take to end, once they are told to: longer than open
/// requests and a batch that is being processed do.
const DRAIN: Duration = Duration::from_secs(25);

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Embedded(#[from] EmbeddedPostgresError),
    #[error(
        "DATABASE_URL: is not set, and no embedded database runs under {}; set it, \
         start `serve` or `demo` first, or give --embedded to start the embedded one",
        .0.display()
    )]
    NoDatabase(std::path::PathBuf),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Migration(#[from] MigrationError),
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error("{variable}: cannot listen on {address}: {error}")]
    Listen {
        variable: &'static str,
        address: std::net::SocketAddr,
        error: std::io::Error,
    },
    #[error("a client for Stripe cannot be made: {0}")]
    Client(reqwest::Error),
    #[error("DATA_DIR: cannot keep the generated webhook secret in {path}: {error}")]
    Secret {
        path: std::path::PathBuf,
        error: std::io::Error,
    },
}

/// The secrets that deliveries are checked with: those configured, else one
/// that is made once and kept in the data directory.
pub fn webhook_secrets(
    stripe: &StripeConfig,
    data_dir: &Path,
) -> Result<Vec<SigningSecret>, StartError> {
    if let Some(secrets) = &stripe.webhook_secrets {
        return Ok(secrets.clone());
    }
    Ok(vec![kept_webhook_secret(data_dir)?])
}

/// Those that a running service checks deliveries with, where it shares our
/// settings or our data directory; None: it can share neither.
pub fn shared_webhook_secrets(
    stripe: &StripeConfig,
    data_dir: &Path,
) -> Result<Option<Vec<SigningSecret>>, StartError> {
    let kept = data_dir.join("webhook-secret").exists();
    let shared = stripe.webhook_secrets.is_some() || kept;
    shared
        .then(|| webhook_secrets(stripe, data_dir))
        .transpose()
}

/// The secret of the data directory, made if it is not there.
pub fn kept_webhook_secret(data_dir: &Path) -> Result<SigningSecret, StartError> {
    let path = data_dir.join("webhook-secret");
    let secret = kept_secret(&path).map_err(|error| StartError::Secret { path, error })?;
    Ok(SigningSecret::new(secret))
}

fn kept_secret(path: &Path) -> std::io::Result<String> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    match std::fs::read_to_string(path) {
        Ok(secret) if secret.trim().starts_with("whsec_") => return Ok(secret.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let secret = format!("whsec_{}", hex::encode(rand::random::<[u8; 32]>()));
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    // Written aside and renamed: whoever reads sees all of it or nothing.
    let aside = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    std::fs::rename(&aside, path)?;
    Ok(secret)
}

/// A service that listens.
pub struct Service {
    pub address: std::net::SocketAddr,
    /// What it consists of.
    pub background: Background,
}

/// Starts to listen and to process.
pub async fn start(
    database: &Database,
    serve: &ServeConfig,
    stripe: &StripeConfig,
    data_dir: &Path,
) -> Result<Service, StartError> {
    let catalogue = Catalogue::load(stripe.plans_file.as_deref())?;
    let secrets = webhook_secrets(stripe, data_dir)?;
    database.check_login().await?;
    let (workers, lanes) = (serve.worker_concurrency, counting_lanes());
    let needed = connections::needed(workers, lanes);
    let missing = connections::missing(&database.service, needed).await?;
    let listener = listen("LISTEN_ADDR", serve.listen_addr).await?;
    let address = listener.local_addr().unwrap_or(serve.listen_addr);
    let stop = CancellationToken::new();
    let mut background = Background::new(stop.clone());
    let pools = Pools::new(&database.service, workers);
    let wake = Arc::new(Notify::new());

    let pressure = Arc::new(Pressure::default());
    let (waking, noting) = (wake.clone(), pressure.clone());
    let (intake, writer) =
        event_log::new(database.service.clone(), Source::Delivery, move |stored| {
            noting.note(stored);
            wake_workers(&waking);
        });
    let budget = Budget::of_service(serve.trusted_proxies);
    let probes = Probes {
        budget: budget.clone(),
        readiness: Readiness::new(
            database.service.clone(),
            pools.probes.clone(),
            database.embedded.as_ref().map(EmbeddedPostgres::watch),
        ),
        pools: pools.named(),
        pool: pools.probes.clone(),
        metrics: metrics::install(
            projection::audit_actions()
                .chain(webhooks::audit_actions())
                .chain(organizations::audit_actions())
                .chain(subscriptions::audit_actions())
                .chain(quotas::audit_actions())
                .chain(grace::audit_actions()),
        ),
    };
    let recorded = probes.metrics.clone();
    metrics::of_service(catalogue.metrics().keys().map(String::as_str));
    metrics::connections_missing(missing);
    let rejections = Arc::new(Rejections::default());
    let endpoint = Endpoint {
        intake,
        secrets,
        tolerance_secs: serve.tolerance_secs,
        rejections: rejections.clone(),
    };
    let catalogue = Arc::new(catalogue);
    let pool = pools.api.clone();
    let subscriptions = Subscriptions::new(
        pool.clone(),
        pools.previews.clone(),
        catalogue.clone(),
        stripe_client(stripe)?,
    );
    let processor = Processor::new(
        pool.clone(),
        Catalogue::clone(&catalogue),
        stripe,
        stripe_client(stripe)?,
    );
    let rules = Rules {
        catalogue: catalogue.clone(),
        grace_hours: serve.usage.grace_hours,
    };
    let (ledger, counting, answers) = ledger::new(database.service.clone(), rules.clone(), lanes);
    let calls = Calls::new(
        http_client::direct_client().map_err(StartError::Client)?,
        stop.clone(),
    );
    background.task("forwarded calls", calls.clone().keep(pool.clone()));
    let agents = Agents {
        usage: Usage {
            ledger: ledger.clone(),
            catalogue: catalogue.clone(),
            offload: usage::Offload::default(),
        },
        upstream: serve.usage.agents_upstream.clone(),
        calls,
        trust_headers: serve.usage.trust_headers,
    };
    let enforced = catalogue.enforced().iter().map(|route| route.path.clone());
    let api = Api {
        pool: pool.clone(),
        logins: pools.logins.clone(),
        catalogue: catalogue.clone(),
        guard: Guard::new(pools.credentials.clone(), serve.trusted_proxies, enforced),
        processor,
        limits: Limits::new(serve.surface.rates),
        subscriptions: subscriptions.clone(),
        rules,
        agents,
    };
    let mut router = webhooks::endpoint::router(endpoint)
        .merge(health::health_router(probes.clone()))
        .merge(api.router());
    let (kept, told_until) = (pool.clone(), stop.clone());
    background.task("refused deliveries", async move {
        rejections.keep(kept, told_until).await;
    });
    if serve.worker_concurrency > 0 {
        background.task(
            "subscription settler",
            subscriptions.keep_settled(stop.clone()),
        );
        background.task(
            "grace period sweeper",
            grace::keep_swept(pool.clone(), stop.clone()),
        );
        background.task(
            "reservation sweeper",
            ledger::keep_released(pool.clone(), ledger.clone(), stop.clone()),
        );
        background.task(
            "levels dated ahead",
            ledger::keep_due_taken(pool.clone(), ledger, catalogue.clone(), stop.clone()),
        );
        background.task(
            "purge",
            maintenance::purge::keep_purged(pool.clone(), stop.clone()),
        );
        background.task(
            "catalogue follower",
            follow_catalogue(pool.clone(), catalogue.clone(), stop.clone()),
        );
        if let Some(application) = serve.usage.application.clone() {
            let client = http_client::direct_client().map_err(StartError::Client)?;
            let sending = alerts::sender::keep_sending(pool, client, application, stop.clone());
            background.task("usage alert sender", sending);
        }
    }
    match serve.metrics_addr {
        None => router = router.merge(health::metrics_router(probes)),
        Some(metrics_addr) => {
            let listener = listen("METRICS_ADDR", metrics_addr).await?;
            let router = server::finish(health::metrics_router(probes));
            let scrapes = Budget::new(limits::METRICS_CONNECTIONS, 0);
            background.task(
                "metrics listener",
                server::serve_within(scrapes, listener, router, stop.clone()),
            );
        }
    }
    let router = cors::allow(server::finish(router), &serve.surface.cors_origins);
    background.task(
        "HTTP server",
        server::serve_within(budget, listener, router, stop.clone()),
    );
    background.task("intake writer", writer.run());
    background.thread("usage ledger", move || counting.run());
    background.task("usage answers", answers);
    background.task("metrics timer", keep_time(recorded, stop.clone()));
    let client = stripe_client(stripe)?;
    if let Some(pool) = pools.processing {
        let work = Processing {
            options: database.service.clone(),
            pool,
            workers: serve.worker_concurrency,
            catalogue: Catalogue::clone(&catalogue),
            stripe: stripe.clone(),
            client,
            wake,
            pressure,
            stop,
        };
        background.thread("processing", move || work.run());
    }
    // The name that the operators' guide looks for.
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

/// Folds what the histograms were told into their buckets, which would only
/// happen when somebody reads them.
///
/// A timer that would be the next to fire wakes the runtime when it is set;
/// behind this one, the deadlines of deliveries cost nothing.
async fn keep_time(recorded: PrometheusHandle, stop: CancellationToken) {
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {
                recorded.run_upkeep();
                give_memory_back();
            }
        }
    }
}

/// The allocator gives back to the system what has been free for a while, but only
/// looks for it when something large is freed: after a flood nothing is.
fn give_memory_back() {
    const LARGE: usize = 1024 * 1024;
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE)));
}

/// Each has a connection, and a server process that counts for it.
fn counting_lanes() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(limits::USAGE_LANES))
}

/// Brings the quotas to what the catalogue says now; those of organizations that
/// another transaction holds, as soon as it ends.
async fn follow_catalogue(pool: PgPool, catalogue: Arc<Catalogue>, stop: CancellationToken) {
    loop {
        match quotas::follow(&pool, &catalogue).await {
            Ok(followed) => {
                if followed.changed > 0 {
                    let changed = followed.changed;
                    tracing::info!(changed, "Quotas follow the catalogue");
                }
                if followed.held == 0 {
                    return stop.cancelled().await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the quotas could not be brought to the catalogue yet");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(FOLLOW_AGAIN) => {}
        }
    }
}

/// The client of Stripe's API; None without a key.
pub fn stripe_client(stripe: &StripeConfig) -> Result<Option<Client>, StartError> {
    let Some(api) = &stripe.api else {
        return Ok(None);
    };
    Client::new(api.base.clone(), api.key.clone(), api.patience)
        .map(Some)
        .map_err(StartError::Client)
}

async fn listen(
    variable: &'static str,
    address: std::net::SocketAddr,
) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| StartError::Listen {
            variable,
            address,
            error,
        })
}

impl Service {
    /// Waits for a part that ends though nothing told it to.
    pub async fn failed(&mut self) -> PartEnded {
        self.background.ended_early().await
    }

    /// Answers what was accepted, finishes what is being processed, and stops:
    /// the last connection takes the last intake and ledger with it, and the
    /// writers end with what they were given.
    pub async fn drain(self) {
        self.background.stop(DRAIN).await;
    }

    /// Stops as far as that takes no longer than `patience`.
    pub async fn abandon(self, patience: Duration) {
        self.background.stop(patience).await;
    }
}
