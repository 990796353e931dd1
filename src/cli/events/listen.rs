//! `events listen`: this process sends, so that the address may be one that only this
//! machine can reach. The endpoint goes when the command ends, or a minute after it was
//! killed.

use std::time::Duration;

use clap::Args;
use reqwest::Url;
use serde_json::{Value, json};
use sqlx::postgres::PgPool;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Types;
use crate::app::Database;
use crate::cli::output::{Format, print, say};
use crate::cli::serve::StopSignals;
use crate::cli::{Failure, arguments, organization};
use crate::config::{AllowedAddresses, GlobalArgs};
use crate::db;
use crate::outbox::endpoints::{self, By, Kind, NewEndpoint, WithSecret};
use crate::outbox::sender::{self, Attempt, Running, Sender, Serves};
use crate::outbox::upkeep;

/// How long the endpoint stays without this command, and how often it is held on to.
const LEASE: Duration = Duration::from_secs(60);
const RENEW: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub struct Listen {
    /// Where events are sent, such as http://localhost:3000/webhooks.
    #[arg(long, value_name = "URL", value_parser = address)]
    forward_to: Url,
    #[command(flatten)]
    types: Types,
    /// Only the events of this organization: its id, or the product's id for it.
    #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
    organization: Option<String>,
    #[command(flatten)]
    format: Format,
}

fn address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok();
    let usable = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    usable.ok_or_else(|| "expected a URL such as http://localhost:3000/webhooks".to_owned())
}

impl Listen {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let config = global.database()?;
        let mut signals = StopSignals::listen()?;
        let database = Database::open(&config).await?;
        let result = self.run_on(&database, &mut signals).await;
        database.close().await;
        result
    }

    async fn run_on(self, database: &Database, signals: &mut StopSignals) -> Result<(), Failure> {
        database.check_login().await?;
        database.check_schema().await?;
        let pool = db::pool(database.service.clone(), 3);
        let organization = self.organization.as_deref();
        let new = NewEndpoint {
            url: self.forward_to.to_string(),
            description: Some("events listen".to_owned()),
            types: self.types.types.clone(),
            organization_id: organization::found_if_named(&pool, organization).await?,
        };
        let lease = Kind::Listen { lease: LEASE };
        let made =
            endpoints::create(&pool, new, lease, &AllowedAddresses::default(), &By::SYSTEM).await?;
        let id = made.endpoint.id;
        let listening = async {
            self.announce(&made)?;
            self.forward(&pool, &made).await
        };
        let result = tokio::select! {
            result = listening => result,
            () = signals.received() => Ok(()),
        };
        let removed = endpoints::remove(&pool, id, &By::SYSTEM).await;
        result?;
        removed?;
        Ok(())
    }

    fn announce(&self, made: &WithSecret) -> Result<(), Failure> {
        if self.format.json {
            return line(&json!({"listening": made}));
        }
        say(&format!(
            "Events are sent to {} until ^C, signed with {}",
            self.forward_to, made.secret
        ));
        Ok(())
    }

    async fn forward(&self, pool: &PgPool, made: &WithSecret) -> Result<(), Failure> {
        let id = made.endpoint.id;
        let (told, mut attempts) = mpsc::unbounded_channel();
        let serves = Serves::Listening {
            endpoint_id: id,
            told,
        };
        let allowed = AllowedAddresses::default();
        let sender = Sender::new(pool.clone(), serves, &allowed, CancellationToken::new());
        let sender = sender.map_err(|error| Failure::failed(error.to_string()))?;
        let mut running = Running::default();
        let mut renewal = tokio::time::interval(RENEW);
        loop {
            tokio::select! {
                _ = renewal.tick() => {
                    if !upkeep::renew(pool, id, LEASE).await? {
                        return Err(Failure::failed("the endpoint was removed meanwhile; start again"));
                    }
                }
                Some(attempt) = attempts.recv() => self.show(&attempt)?,
                () = running.any(sender::POLL) => {}
            }
            sender.begin_due(&mut running).await?;
        }
    }

    fn show(&self, attempt: &Attempt) -> Result<(), Failure> {
        let answer = &attempt.answer;
        let event: Value = serde_json::from_str(&attempt.body).unwrap_or_default();
        if self.format.json {
            return line(&json!({
                "event": event, "responseStatus": answer.status, "error": answer.error,
            }));
        }
        let status = match (answer.status, &answer.error) {
            (Some(status), _) => status.to_string(),
            (None, error) => error.clone().unwrap_or_default(),
        };
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        print(&format!(
            "{}  {}  {}  {}  {status}",
            text("time"),
            attempt.event_type,
            text("subject"),
            text("id"),
        ))
    }
}

/// A document on a line of its own, for programs that read while the command runs.
fn line(value: &Value) -> Result<(), Failure> {
    print(&value.to_string())
}
