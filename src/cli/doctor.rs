//! `doctor`

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::Args;
use embedded_postgres::Watch;
use reqwest::Url;
use sqlx::postgres::PgConnectOptions;

use super::Failure;
use super::output::Format;
use super::running_demo::Running;
use crate::app::{Database, api};
use crate::config::{
    self, DatabaseConfig, DatabaseLocation, GlobalArgs, IssuerArgs, MailArgs, OperatorArgs,
    StripeArgs, StripeConfig,
};
use crate::db::{self, DatabaseError};
use crate::doctor::{self, Check, Leniency, Service, Verdict};
use crate::http_client;
use crate::stripe::client::Client;

#[derive(Debug, Args)]
pub struct Doctor {
    #[command(flatten)]
    stripe: StripeArgs,
    #[command(flatten)]
    issuer: IssuerArgs,
    #[command(flatten)]
    operators: OperatorArgs,
    #[command(flatten)]
    mail: MailArgs,
    /// Public URL of the running service, as Stripe reaches it; unset:
    /// LISTEN_ADDR.
    #[arg(long, help_heading = None, value_name = "URL")]
    url: Option<Url>,
    /// Address of the service on this host.
    #[arg(long, help_heading = None, env = "LISTEN_ADDR", default_value = config::LISTEN_ADDR,
          value_parser = config::or(config::LISTEN_ADDR))]
    listen_addr: String,
    #[command(flatten)]
    format: Format,
}

impl doctor::Subject for Database {
    fn service(&self) -> &PgConnectOptions {
        &self.service
    }

    fn owner(&self) -> &PgConnectOptions {
        &self.owner
    }

    fn embedded(&self) -> Option<Watch> {
        Some(self.embedded.as_ref()?.watch())
    }

    async fn check_login(&self) -> Result<(), DatabaseError> {
        Self::check_login(self).await
    }

    async fn check_owner(&self) -> Result<(), DatabaseError> {
        Self::check_owner(self).await
    }
}

impl Doctor {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let config = global.database()?;
        let mut stripe = self.stripe.check()?;
        let issuer = self.issuer.check()?;
        let operators = self.operators.check()?;
        let mail = self.mail.check()?;
        let demo = self.demo(&config, &stripe);
        if let Some(demo) = &demo {
            stripe = demo.stripe(&config.data_dir);
        }
        let catalogue = api::catalogue(stripe.plans_file.as_deref())?;
        let client = stripe
            .api
            .clone()
            .map(|api| Client::new(api.base, api.key, api.patience))
            .transpose()
            .map_err(|error| Failure::failed(error.to_string()))?;
        let service = match demo {
            Some(demo) if self.url.is_none() => self.at(demo.address, true)?,
            _ => self.service()?,
        };
        let caller =
            http_client::direct_client().map_err(|error| Failure::failed(error.to_string()))?;
        // `doctor` changes nothing: `open` would migrate.
        let database = Database::locate(&config).await?;
        let leniency = Leniency {
            embedded_database: database.embedded.is_some(),
            privileged_role: config.allow_privileged_role,
        };
        let mut checks = doctor::check_configuration(&stripe, &leniency);
        checks.extend(doctor::check_database(&database).await);
        let data_dir = leniency.embedded_database.then_some(&*config.data_dir);
        checks.push(doctor::check_disk(data_dir));
        let pool = db::pool(database.service.clone(), 1);
        checks.extend(doctor::check_jobs(&pool).await);
        checks.extend(doctor::check_usage(&pool, &catalogue).await);
        checks.push(doctor::check_issuer(issuer.as_ref()).await);
        checks.push(doctor::check_provider(operators.oidc.as_ref()).await);
        checks.push(doctor::check_outbound(&pool).await);
        checks.push(doctor::check_mails(&pool).await);
        checks.push(doctor::check_mail_server(mail.as_ref()).await);
        checks.extend(doctor::check_service(&service, &caller).await);
        checks.extend(doctor::check_stripe(&stripe, client.as_ref(), &catalogue, &pool).await);
        checks.extend(doctor::check_subscriptions(&pool, &catalogue).await);
        pool.close().await;
        database.close().await;
        self.format.print(&checks, |checks| describe(checks))?;
        if checks.iter().any(|check| check.verdict == Verdict::Failed) {
            return Err(Failure::silent());
        }
        Ok(())
    }

    /// The demo that runs here, if the settings name no other service.
    fn demo(&self, config: &DatabaseConfig, stripe: &StripeConfig) -> Option<Running> {
        let unset = matches!(config.location, DatabaseLocation::Embedded(_))
            && stripe.api.is_none()
            && self.listen_addr == config::LISTEN_ADDR;
        unset.then(|| Running::find(&config.data_dir)).flatten()
    }

    fn service(&self) -> Result<Service, Failure> {
        if let Some(url) = &self.url {
            return Ok(Service {
                base: url.clone(),
                expected: true,
            });
        }
        let mut address = config::address("LISTEN_ADDR", &self.listen_addr)?;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        self.at(address, false)
    }

    fn at(&self, address: SocketAddr, expected: bool) -> Result<Service, Failure> {
        let base = Url::parse(&format!("http://{address}"));
        Ok(Service {
            base: base.map_err(|error| Failure::failed(error.to_string()))?,
            expected,
        })
    }
}

fn describe(checks: &[Check]) -> String {
    let mut lines = Vec::new();
    for check in checks {
        let verdict = match check.verdict {
            Verdict::Ok => "ok     ",
            Verdict::Warning => "WARNING",
            Verdict::Failed => "FAILED ",
            Verdict::Skipped => "skipped",
        };
        lines.push(format!("{verdict} {}: {}", check.name, check.detail));
        lines.extend(check.fix.as_ref().map(|fix| format!("        {fix}")));
    }
    lines.join("\n")
}
