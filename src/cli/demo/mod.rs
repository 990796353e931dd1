//! `demo`: the service on the embedded database, with a stand-in for Stripe
//! beside it, organizations, a login, and a gentle stream of changes whose
//! events arrive signed, at the real endpoint.

mod account;
mod announcement;
mod tenants;
mod traffic;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use clap::Args;
use stripe_sandbox::Sandbox;
use tokio_util::sync::CancellationToken;

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
use tenants::Login;

#[derive(Debug, Args)]
pub struct Demo {
    #[command(flatten)]
    serve: ServeArgs,
    /// How many retries before an event is dead-lettered.
    #[arg(long, env = "WEBHOOK_MAX_RETRIES", default_value = "20", value_parser = or("20"))]
    webhook_max_retries: String,
}

impl Demo {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let serve_config = self.serve.check()?;
        let max_retries = retries(&self.webhook_max_retries)?;
        // A demo never touches the database or the Stripe account of the
        // environment it happens to be started in.
        let config = DatabaseConfig {
            location: DatabaseLocation::Embedded(Start::Allowed),
            migration: None,
            allow_privileged_role: false,
            data_dir: global.data_dir(),
        };
        let signals = StopSignals::listen()?;
        let account = Account::open().await?;
        let database = Database::open(&config).await?;
        let data_dir = &config.data_dir;
        let started = Self::start(&account, &database, &serve_config, max_retries, data_dir).await;
        let (service, login, tenants) = match started {
            Ok(started) => started,
            Err(failure) => {
                database.close().await;
                return Err(failure);
            }
        };
        let address = reachable(service.address);
        let base = account.api.base.clone();
        let announced = Announcement::write(data_dir, address, base);
        // Without it, `doctor` finds the demo less easily.
        let _announced = announced.inspect_err(|error| tracing::warn!(%error, "no demo.json"));
        announce(address, &account.sandbox, &database, &login)?;

        let stop = CancellationToken::new();
        let secret = app::kept_webhook_secret(data_dir)?;
        let traffic = tokio::spawn(traffic::run(
            address,
            account.client.clone(),
            secret,
            tenants,
            stop.clone(),
        ));
        let stopped = serve::until_stopped(service, database, signals, stop.clone()).await;
        if stopped.is_ok() {
            let _ = traffic.await;
        }
        stopped
    }

    async fn start(
        account: &Account,
        database: &Database,
        serve: &ServeConfig,
        max_retries: u32,
        data_dir: &Path,
    ) -> Result<(Service, Login, Vec<tenants::Tenant>), Failure> {
        let catalogue = Catalogue::load(None)?;
        catalogue::sync(&account.client, &catalogue, false).await?;
        // The kept secret is for `webhooks trigger`.
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
                "Those of an earlier demo are set aside"
            );
        }
        let pool = db::pool(database.service.clone(), 1);
        let login = tenants::login(&pool, &catalogue, account).await?;
        let tenants = tenants::samples(&pool, &catalogue, account).await?;
        pool.close().await;
        Ok((service, login, tenants))
    }
}

/// Where this host reaches a service that listens on all of its addresses.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()))
    } else {
        address
    }
}

fn announce(
    address: SocketAddr,
    sandbox: &Sandbox,
    database: &Database,
    login: &Login,
) -> Result<(), Failure> {
    let url = database
        .embedded
        .as_ref()
        .map(|embedded| embedded.admin_url())
        .unwrap_or_default();
    let (email, password, key) = (&login.email, &login.password, &login.api_key);
    let stripe = sandbox.url();
    output::print(&format!(
        "\n  ValueCanvas Billing demo\n\n  \
         API        http://{address}\n  \
         Docs       http://{address}/docs\n  \
         Webhooks   http://{address}/api/billing/webhooks/stripe\n  \
         Health     http://{address}/readyz\n  \
         Metrics    http://{address}/metrics\n  \
         Login      {email} / {password}\n  \
         API key    {key}\n  \
         Stripe     {stripe} (a stand-in; any sk_test_… key)\n  \
         Database   {url}\n\n  \
         Subscriptions change, their events arrive, and agents are used. In another terminal:\n\n    \
         TOKEN=$(curl -s http://{address}/api/auth/login -H 'Content-Type: application/json' \\\n      \
         -d '{{\"email\":\"{email}\",\"password\":\"{password}\"}}' | jq -r .token)\n    \
         curl -s http://{address}/api/billing/subscription/preview -H \"Authorization: Bearer $TOKEN\" \\\n      \
         -H 'Content-Type: application/json' -d '{{\"planTier\":\"standard\"}}' | jq\n    \
         curl -s -X PUT http://{address}/api/billing/subscription -H \"Authorization: Bearer $TOKEN\" \\\n      \
         -H 'Content-Type: application/json' -d '{{\"planTier\":\"standard\"}}' | jq\n    \
         eval \"$(valuecanvas-billing status --output env)\"\n    \
         psql $DATABASE_URL -c \"SELECT action, actor_type, created_at FROM billing_audit_log ORDER BY created_at DESC LIMIT 10;\"\n    \
         curl -s http://{address}/api/billing/usage -H \"Authorization: Bearer $TOKEN\" | jq\n    \
         valuecanvas-billing webhooks list\n    \
         valuecanvas-billing webhooks dead-letters\n    \
         valuecanvas-billing audit verify\n\n  \
         ^C stops it.\n"
    ))
}
