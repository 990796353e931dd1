//! `webhooks`

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
use crate::telemetry::metrics;
use crate::tenancy::organizations::sample;
use crate::webhooks::dead_letters::replay::{self, Replayed};
use crate::webhooks::inspect::{self, EventFilter};
use crate::webhooks::worker::Processor;
use crate::webhooks::{DeadLetterFilter, list_dead_letters};
use describe::{describe_dead_letters, describe_details, describe_events, describe_report};
use discard::Discard;

#[derive(Debug, Subcommand)]
pub enum Webhooks {
    /// Process the events that are due: the five-minute job.
    Retry(Retry),
    /// List the newest events.
    List {
        /// Only those that are not processed yet.
        #[arg(long)]
        unprocessed: bool,
        /// Only those of this organization; an event has one once it is processed.
        #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
        organization: Option<Uuid>,
        /// Only those of this type.
        #[arg(long = "type", value_name = "T")]
        event_type: Option<String>,
        /// How many at most.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        limit: u16,
        #[command(flatten)]
        format: Format,
    },
    /// Show an event with its attempts and its payload.
    Show {
        /// The event's id (evt_…).
        #[arg(value_name = "EVT")]
        event_id: String,
        #[command(flatten)]
        format: Format,
    },
    /// List the events that could not be processed.
    DeadLetters {
        /// Only those of this type.
        #[arg(long = "type", value_name = "T")]
        event_type: Option<String>,
        /// Only those of this organization.
        #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
        organization: Option<Uuid>,
        #[command(flatten)]
        format: Format,
    },
    /// Run the handler again for dead letters, or for events processed before.
    Replay(Replay),
    /// Put dead letters away that nobody wants applied; sent again, they are
    /// duplicates.
    Discard(Discard),
    /// Read what Stripe has into the inbox: what was never delivered, above all.
    Backfill(Backfill),
    /// Send a signed sample event to the running service, about a sample
    /// organization and never about a customer's.
    Trigger(Trigger),
}

#[derive(Debug, Args)]
pub struct Retry {
    /// Where to push the job's metrics.
    #[arg(long, env = "PUSHGATEWAY_URL", hide_env_values = true)]
    pushgateway_url: Option<String>,
    /// Do not wait for the next attempts of events that failed: make all due.
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    stripe: StripeArgs,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
pub struct Replay {
    /// Which events (evt_…).
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
    /// Run the handler, say what came of it, and undo it.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    stripe: StripeArgs,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
pub struct Trigger {
    /// Such as invoice.payment_succeeded.
    event_type: String,
    /// The sample organization's id; no other is taken, since the state of a
    /// customer's organization comes from Stripe alone.
    #[arg(long, value_name = "ORG", value_parser = arguments::organization)]
    organization: Option<Uuid>,
    /// Where the service listens.
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
        let plan = Plan::of(&self)?;
        on_database(&config, async |database| {
            self.run_on(db::pool(database.service.clone(), 2), plan, &config)
                .await
        })
        .await
    }

    async fn run_on(
        self,
        pool: PgPool,
        plan: Plan,
        config: &DatabaseConfig,
    ) -> Result<(), Failure> {
        match self {
            Self::Retry(retry) => {
                let metrics = metrics::install(projection::audit_actions());
                let gateway = plan.gateway.as_ref();
                let tally =
                    webhook_retry::run(&plan.processor(pool)?, &metrics, gateway, retry.now)
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
                    organization_id: organization,
                    processed: unprocessed.then_some(false),
                    before: None,
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
                let filter = letters_of(event_type, organization);
                let mut tx = WorkerTx::begin(&pool).await?;
                let letters = list_dead_letters(tx.conn(), &filter, i64::MAX).await?;
                format.print(&letters, |letters| describe_dead_letters(letters))
            }
            Self::Replay(replay) => replay.run(&plan.processor(pool)?).await,
            Self::Discard(discard) => discard.run(&pool).await,
            Self::Backfill(_) => unreachable!("it has its own way"),
            Self::Trigger(trigger) => {
                let address = plan.service.expect("a trigger's plan has it");
                let (stripe, catalogue) = (&plan.stripe, &plan.catalogue);
                trigger.run(address, &pool, stripe, catalogue, config).await
            }
        }
    }
}

/// What a command needs besides the database, checked before it is touched.
struct Plan {
    stripe: StripeConfig,
    catalogue: Catalogue,
    gateway: Option<PushGateway>,
    /// Where `trigger` finds the service.
    service: Option<SocketAddr>,
}

impl Plan {
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
        "no event {} in the inbox or among the dead letters; `webhooks list` shows what is there",
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
}

/// All dead letters, or those of one type or organization.
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
            // Each is a transaction of its own: interrupted, what was replayed
            // is replayed, and the rest is as it was.
            let result = match self.dry_run {
                true => replay::rehearse(processor, &event_id).await?,
                false => replay::replay(processor, &event_id).await?,
            };
            match &result {
                Replayed::Succeeded { .. } => report.replayed += 1,
                _ => report.failed += 1,
            }
            progress.step(&event_id);
            report.events.push(ReplayedEvent { event_id, result });
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
    /// The service's address, if there is a sample to send to it.
    fn check(&self, stripe: &StripeConfig) -> Result<SocketAddr, Failure> {
        if !HANDLED_TYPES.contains(&self.event_type.as_str()) {
            return Err(Failure::usage(format!(
                "there is no sample of {:?}; there are {}",
                self.event_type,
                HANDLED_TYPES.join(", ")
            )));
        }
        if self.organization.is_some_and(|id| id != sample::ID) {
            return Err(Failure::usage(format!(
                "--organization: sample events are about the sample organization {} only: in another's state \
                 they would stay, and Stripe knows nothing of them",
                sample::ID
            )));
        }
        if stripe.key_is_live == Some(true) {
            return Err(Failure::usage(
                "STRIPE_SECRET_KEY: is of live mode, where no sample events are sent; \
                 try them with a key of test mode, on a database of its own",
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
                "STRIPE_WEBHOOK_SECRET: is not set, and DATA_DIR has none that a service made; \
                 set the one that the service has",
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
