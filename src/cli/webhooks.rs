//! `webhooks`

mod bulk;
mod describe;
mod discard;

use std::net::SocketAddr;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::arguments;
use super::backfill::Backfill;
use super::database::on_database;
use super::organization;
use super::output::{Format, Progress, printable};
use super::samples::Sample;
use super::{Failure, samples};
use crate::app;
use crate::catalogue::Catalogue;
use crate::config::{self, DatabaseConfig, GlobalArgs, StripeArgs, StripeConfig};
use crate::db::{self, WorkerTx};
use crate::maintenance::{PushGateway, webhook_retry};
use crate::projection::{self, HANDLED_TYPES};
use crate::stripe::signature;
use crate::tenancy::organizations::sample;
use crate::webhooks::dead_letters::rehearsal::{self, Difference};
use crate::webhooks::dead_letters::replay::{self, Replayed};
use crate::webhooks::inspect::{self, EventFilter};
use crate::webhooks::worker::Processor;
use crate::webhooks::{DeadLetterFilter, list_dead_letters};
use bulk::Bulk;
use describe::{describe_dead_letters, describe_details, describe_events, describe_report};
use discard::Discard;

#[derive(Debug, Subcommand)]
pub enum Webhooks {
    /// Process due events: the five-minute job.
    Retry(Retry),
    /// List the newest events.
    List {
        /// Only events that are not processed yet.
        #[arg(long)]
        unprocessed: bool,
        /// Only events of this organization, which is known once they are processed.
        #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
        organization: Option<String>,
        /// Only events of this type.
        #[arg(long = "type", value_name = "T")]
        event_type: Option<String>,
        /// Maximum number of results.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        limit: u16,
        #[command(flatten)]
        format: Format,
    },
    /// Show an event with its attempts and payload.
    Show {
        /// The event's id (evt_…).
        #[arg(value_name = "EVT")]
        event_id: String,
        #[command(flatten)]
        format: Format,
    },
    /// List events that could not be processed.
    DeadLetters {
        /// Only events of this type.
        #[arg(long = "type", value_name = "T")]
        event_type: Option<String>,
        /// Only events of this organization.
        #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
        organization: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Process dead letters, or processed events, again.
    Replay(Replay),
    /// Discard dead letters that should not be applied. If Stripe sends one again,
    /// it is a duplicate.
    Discard(Discard),
    /// Replay or discard all events that match, in the background.
    #[command(subcommand)]
    Bulk(Bulk),
    /// Fetch events from Stripe that were never delivered.
    Backfill(Backfill),
    /// Send a signed sample event to the running service. It is about a sample
    /// organization, never a customer's.
    Trigger(Trigger),
}

#[derive(Debug, Args)]
pub struct Retry {
    /// The Pushgateway to push the job's metrics to.
    #[arg(long, env = "PUSHGATEWAY_URL", hide_env_values = true)]
    pushgateway_url: Option<String>,
    /// Retry failed events now instead of when they are due.
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    stripe: StripeArgs,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
pub struct Replay {
    /// Event ids (evt_…).
    #[arg(
        value_name = "EVT",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    event_ids: Vec<String>,
    /// All dead letters.
    #[arg(long)]
    all: bool,
    /// Only dead letters of this type.
    #[arg(long = "type", value_name = "T", requires = "all")]
    event_type: Option<String>,
    /// Process the event, print the outcome, and roll it back.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    stripe: StripeArgs,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
pub struct Trigger {
    /// Event type, such as invoice.payment_succeeded.
    event_type: String,
    /// The sample organization's id. No other is accepted: the state of a customer's
    /// organization comes from Stripe alone.
    #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
    organization: Option<String>,
    /// Address of the service.
    #[arg(long, env = "LISTEN_ADDR", default_value = config::LISTEN_ADDR,
          value_parser = config::or(config::LISTEN_ADDR))]
    listen_addr: String,
    #[command(flatten)]
    stripe: StripeArgs,
    #[command(flatten)]
    format: Format,
}

impl Webhooks {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        if let Self::Backfill(backfill) = self {
            return backfill.run(global).await;
        }
        let config = global.database()?;
        let settings = Settings::of(&self)?;
        on_database(&config, async |database| {
            self.run_on(db::pool(database.service.clone(), 2), settings, &config)
                .await
        })
        .await
    }

    async fn run_on(
        self,
        pool: PgPool,
        settings: Settings,
        config: &DatabaseConfig,
    ) -> Result<(), Failure> {
        match self {
            Self::Retry(retry) => {
                let metrics = app::metrics::install(projection::audit_actions());
                let gateway = settings.gateway.as_ref();
                let tally =
                    webhook_retry::run(&settings.processor(pool)?, &metrics, gateway, retry.now)
                        .await?;
                if retry.format.json {
                    retry.format.print(&tally, |_| String::new())?;
                }
                if tally.failed > 0 {
                    Err(Failure::silent())
                } else {
                    Ok(())
                }
            }
            Self::List {
                unprocessed,
                organization,
                event_type,
                limit,
                format,
            } => {
                let filter = EventFilter {
                    event_type,
                    organization_id: organization::found_if_named(&pool, organization.as_deref())
                        .await?,
                    processed: unprocessed.then_some(false),
                    ..EventFilter::default()
                };
                let mut tx = WorkerTx::begin(&pool).await?;
                let events = inspect::page(tx.conn(), &filter, i64::from(limit)).await?;
                format.print(&events, |events| describe_events(events))
            }
            Self::Show { event_id, format } => {
                let mut tx = WorkerTx::begin(&pool).await?;
                match inspect::show(tx.conn(), &event_id).await? {
                    Some(details) => format.print(&details, describe_details),
                    None => Err(unknown_event(&event_id)),
                }
            }
            Self::DeadLetters {
                event_type,
                organization,
                format,
            } => {
                let organization =
                    organization::found_if_named(&pool, organization.as_deref()).await?;
                let filter = letters_of(event_type, organization);
                let mut tx = WorkerTx::begin(&pool).await?;
                let letters = list_dead_letters(tx.conn(), &filter, i64::MAX).await?;
                format.print(&letters, |letters| describe_dead_letters(letters))
            }
            Self::Replay(replay) => replay.run(&settings.processor(pool)?).await,
            Self::Discard(discard) => discard.run(&pool).await,
            Self::Bulk(bulk) => bulk.run(&pool).await,
            Self::Backfill(_) => unreachable!("`run` handles it"),
            Self::Trigger(trigger) => {
                let address = settings.service.expect("`Settings::of` checks a trigger");
                let (stripe, catalogue) = (&settings.stripe, &settings.catalogue);
                trigger.run(address, &pool, stripe, catalogue, config).await
            }
        }
    }
}

/// What a command needs apart from the database, checked before that is touched.
struct Settings {
    stripe: StripeConfig,
    catalogue: Catalogue,
    gateway: Option<PushGateway>,
    /// The service's address, for `trigger`.
    service: Option<SocketAddr>,
}

impl Settings {
    fn of(command: &Webhooks) -> Result<Self, Failure> {
        let (stripe, url) = match command {
            Webhooks::Retry(retry) => (Some(&retry.stripe), retry.pushgateway_url.as_deref()),
            Webhooks::Replay(replay) => (Some(&replay.stripe), None),
            Webhooks::Trigger(trigger) => (Some(&trigger.stripe), None),
            _ => (None, None),
        };
        let stripe = match stripe {
            Some(stripe) => stripe.check()?,
            None => StripeConfig::default(),
        };
        let service = match command {
            Webhooks::Trigger(trigger) => Some(trigger.check(&stripe)?),
            _ => None,
        };
        Ok(Self {
            catalogue: Catalogue::load(stripe.plans_file.as_deref())?,
            stripe,
            gateway: PushGateway::given(url)?,
            service,
        })
    }

    fn processor(&self, pool: PgPool) -> Result<Processor, Failure> {
        let client = app::stripe_client(&self.stripe)?;
        Ok(Processor::new(
            pool,
            self.catalogue.clone(),
            &self.stripe,
            client,
        ))
    }
}

fn unknown_event(event_id: &str) -> Failure {
    Failure::failed(format!(
        "no event {}; `webhooks list` and `webhooks dead-letters` show those that are stored",
        printable(event_id)
    ))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    dry_run: bool,
    replayed: usize,
    failed: usize,
    events: Vec<ReplayedEvent>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReplayedEvent {
    event_id: String,
    #[serde(flatten)]
    result: Replayed,
    /// Of a dry run.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    difference: Option<Difference>,
}

/// Selects dead letters by type and organization.
fn letters_of(event_type: Option<String>, organization_id: Option<Uuid>) -> DeadLetterFilter {
    DeadLetterFilter {
        event_type,
        organization_id,
        ..DeadLetterFilter::default()
    }
}

impl Replay {
    async fn run(self, processor: &Processor) -> Result<(), Failure> {
        let event_ids = match self.all {
            false => self.event_ids,
            true => {
                let mut tx = WorkerTx::begin(&processor.pool).await?;
                let letters =
                    list_dead_letters(tx.conn(), &letters_of(self.event_type, None), i64::MAX)
                        .await?;
                tx.commit().await?;
                letters.into_iter().map(|letter| letter.event_id).collect()
            }
        };
        let mut report = Report {
            dry_run: self.dry_run,
            replayed: 0,
            failed: 0,
            events: Vec::new(),
        };
        let mut progress = Progress::new(event_ids.len());
        for event_id in event_ids {
            // Each replay is a transaction of its own: an interruption leaves the
            // rest as it was.
            let (result, difference) = match self.dry_run {
                true => {
                    let rehearsed = rehearsal::rehearse(processor, &event_id).await?;
                    (rehearsed.result, Some(rehearsed.difference))
                }
                false => (replay::replay(processor, &event_id).await?, None),
            };
            match &result {
                Replayed::Succeeded { .. } => report.replayed += 1,
                _ => report.failed += 1,
            }
            progress.step(&event_id);
            report.events.push(ReplayedEvent {
                event_id,
                result,
                difference,
            });
        }
        let failed = report.failed;
        self.format.print(&report, describe_report)?;
        if failed > 0 {
            Err(Failure::silent())
        } else {
            Ok(())
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Triggered {
    event_id: String,
    event_type: String,
    organization_id: Uuid,
    duplicate: bool,
}

fn no_service(address: SocketAddr, error: &dyn std::fmt::Display) -> Failure {
    Failure::unreachable(format!(
        "no service answers at {address} ({error}); start `serve`"
    ))
}

impl Trigger {
    /// Checks the arguments, and returns the service's address.
    fn check(&self, stripe: &StripeConfig) -> Result<SocketAddr, Failure> {
        if !HANDLED_TYPES.contains(&self.event_type.as_str()) {
            return Err(Failure::usage(format!(
                "no sample of {:?}; expected one of {}",
                self.event_type,
                HANDLED_TYPES.join(", ")
            )));
        }
        if self
            .organization
            .as_ref()
            .is_some_and(|id| id.parse() != Ok(sample::ID))
        {
            return Err(Failure::usage(format!(
                "--organization: sample events are only for the sample organization {}: Stripe knows nothing of \
                 them, and they would stay in another's state",
                sample::ID
            )));
        }
        if stripe.key_is_live == Some(true) {
            return Err(Failure::usage(
                "STRIPE_SECRET_KEY: is for live mode; send sample events with a test-mode key, \
                 to a service with a database of its own",
            ));
        }
        Ok(config::address("LISTEN_ADDR", &self.listen_addr)?)
    }

    async fn run(
        self,
        address: SocketAddr,
        pool: &PgPool,
        stripe: &StripeConfig,
        catalogue: &Catalogue,
        config: &DatabaseConfig,
    ) -> Result<(), Failure> {
        let secrets = app::shared_webhook_secrets(stripe, &config.data_dir)?;
        let Some(secrets) = secrets else {
            let answers = tokio::net::TcpStream::connect(address).await;
            answers.map_err(|error| no_service(address, &error))?;
            return Err(Failure::usage(
                "STRIPE_WEBHOOK_SECRET: is not set, and DATA_DIR holds no generated one; \
                 set it to the service's",
            ));
        };
        sample::ensure(pool, catalogue).await?;
        let sample = Sample::next(sample::progress(pool).await?);
        let event = sample.event(&self.event_type, Timestamp::now(), false);
        let header = signature::sign(
            &secrets[0],
            event.body.as_bytes(),
            Timestamp::now().as_second(),
        );
        let answer = samples::post(address, &event.body, &header)
            .await
            .map_err(|error| no_service(address, &error))?;
        if answer.status != 200 {
            return Err(Failure::failed(format!(
                "the service answers {}: {}",
                answer.status,
                printable(&answer.body)
            )));
        }
        let triggered = Triggered {
            event_id: event.id,
            event_type: self.event_type,
            organization_id: sample::ID,
            duplicate: answer.body.contains("\"duplicate\":true"),
        };
        self.format
            .print(&triggered, |triggered| triggered.event_id.clone())
    }
}
