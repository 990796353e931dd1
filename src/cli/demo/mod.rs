//! `demo`: the service on the embedded database, with a stand-in for Stripe
//! beside it, organizations, a login, and a gentle stream of changes whose
//! events arrive signed at the real endpoint.

mod account;
mod announcement;
mod tenants;
mod terminal;
mod traffic;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::serve::{self, StopSignals};
use super::{Failure, output};
use crate::app::{self, Database, Service};
use crate::catalogue::{self, Catalogue};
use crate::config::{
    DatabaseConfig, DatabaseLocation, GlobalArgs, ServeArgs, ServeConfig, Start, StripeConfig, or,
    retries,
};
use crate::db;
use account::Account;
use announcement::Announcement;
pub use tenants::disable_operator;
use tenants::{Login, Tenant};
use terminal::Banner;
use traffic::{Counts, Traffic};

#[derive(Debug, Args)]
pub struct Demo {
    #[command(flatten)]
    serve: ServeArgs,
    /// Retries after the first attempt before an event is dead-lettered.
    #[arg(long, env = "WEBHOOK_MAX_RETRIES", default_value = "20", value_parser = or("20"))]
    webhook_max_retries: String,
    /// Print all log lines, not only warnings and a few lines a minute.
    #[arg(long)]
    pub(super) verbose: bool,
}

/// A demo that has started.
struct Started {
    service: Service,
    login: Login,
    tenants: Vec<Tenant>,
}

impl Demo {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let mut serve_config = self.serve.check()?;
        // Its customers are made up.
        serve_config.mail = None;
        // Whoever tries it has the product on this host.
        serve_config.outbound.allowed.loopback = true;
        let max_retries = retries(&self.webhook_max_retries)?;
        // A demo never touches the database or the Stripe account of the
        // environment in which it is started.
        let config = DatabaseConfig {
            location: DatabaseLocation::Embedded(Start::Allowed),
            migration: None,
            allow_privileged_role: false,
            data_dir: global.data_dir(),
        };
        let signals = StopSignals::listen()?;
        output::say("Starting PostgreSQL, the stand-in for Stripe and the service …");
        let account = Account::open().await?;
        let database = Database::open(&config).await?;
        let data_dir = &config.data_dir;
        let started = Self::start(&account, &database, &serve_config, max_retries, data_dir).await;
        let started = match started {
            Ok(started) => started,
            Err(failure) => {
                database.close().await;
                return Err(failure);
            }
        };
        self.show(started, account, database, signals, data_dir)
            .await
    }

    /// Announces what has started, and tells its story until it is stopped.
    async fn show(
        &self,
        started: Started,
        account: Account,
        database: Database,
        signals: StopSignals,
        data_dir: &Path,
    ) -> Result<(), Failure> {
        let Started {
            service,
            login,
            tenants,
        } = started;
        let address = reachable(service.address);
        let announced =
            Announcement::write(data_dir, address, account.api.base.clone(), login.clone());
        // Without it, `status` and `doctor` do not find the demo.
        let _announced = announced.inspect_err(
            |error| tracing::warn!(%error, "the demo's file could not be written; `status` will not show it"),
        );
        let embedded = database.embedded.as_ref();
        let banner = Banner {
            address,
            stripe: account.sandbox.url(),
            login,
            database_url: embedded
                .map(|embedded| embedded.admin_url())
                .unwrap_or_default(),
        };
        banner.print()?;

        let stop = CancellationToken::new();
        let counts = Arc::new(Counts::default());
        let traffic = Traffic {
            address,
            stripe: account.client.clone(),
            secret: app::kept_webhook_secret(data_dir)?,
            tenants,
            counts: counts.clone(),
        };
        let beside = TaskTracker::new();
        beside.spawn(traffic.run(stop.clone()));
        if self.verbose {
            beside.spawn(terminal::beside_the_log(banner, stop.clone()));
        } else {
            let pool = db::pool(database.service.clone(), 1);
            let lines = terminal::instead_of_the_log(banner, counts, pool, stop.clone());
            beside.spawn(lines);
        }
        beside.close();
        let stopped = serve::until_stopped(service, database, signals, stop).await;
        if stopped.is_ok() {
            beside.wait().await;
        }
        stopped
    }

    async fn start(
        account: &Account,
        database: &Database,
        serve: &ServeConfig,
        max_retries: u32,
        data_dir: &Path,
    ) -> Result<Started, Failure> {
        let catalogue = Catalogue::load(None)?;
        let synced = catalogue::sync(&account.client, &catalogue, false).await?;
        let pool = db::pool(database.service.clone(), 1);
        let recorded = catalogue::record(&pool, &catalogue, &synced).await;
        pool.close().await;
        recorded?;
        // `webhooks trigger` signs with the kept secret.
        let secrets = vec![app::kept_webhook_secret(data_dir)?, account.secret.clone()];
        let stripe = StripeConfig {
            api: Some(account.api.clone()),
            key_is_live: Some(false),
            webhook_secrets: Some(secrets),
            max_retries,
            ..StripeConfig::default()
        };
        let service = app::start(database, serve, &stripe, data_dir).await?;
        account.deliver_to(reachable(service.address)).await?;
        let mut owner = db::connect(&database.owner).await?;
        let earlier = tenants::set_aside(&mut owner).await?;
        if earlier > 0 {
            tracing::info!(
                organizations = earlier,
                "The organizations of an earlier demo are marked as such"
            );
        }
        let pool = db::pool(database.service.clone(), 1);
        let login = tenants::login(&pool, &catalogue, account).await?;
        let tenants = tenants::samples(&pool, &catalogue, account).await?;
        pool.close().await;
        Ok(Started {
            service,
            login,
            tenants,
        })
    }
}

/// The address at which this host reaches a service that listens on all addresses.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()))
    } else {
        address
    }
}
