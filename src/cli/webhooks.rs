//! `webhooks`

use std::net::SocketAddr;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::Serialize;
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::backfill::Backfill;
use super::database::on_database;
use super::output::{Format, Progress, printable, table};
use super::samples::Sample;
use super::{Failure, samples};
use crate::app;
use crate::config::{self, DatabaseConfig, GlobalArgs, StripeArgs, StripeConfig};
use crate::db::{self, WorkerTx};
use crate::event_handlers::{self, HANDLED_TYPES};
use crate::inbox::inspect::{self, DeadLetter, Details, Listed};
use crate::inbox::replay::{self, Replayed};
use crate::inbox::worker::Processor;
use crate::inbox::{DeadLetterFilter, dead_letters};
use crate::jobs::{PushGateway, webhook_retry};
use crate::metrics;
use crate::organizations::sample;
use crate::plans::Catalogue;
use crate::stripe::signature;

#[derive(Debug, Subcommand)]
pub enum Webhooks {
    /// Process the events that are due: the five-minute job.
    Retry(Retry),
    /// List the newest events.
    List {
        /// Only those that are not processed yet.
        #[arg(long)]
        unprocessed: bool,
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        limit: u16,
        #[command(flatten)]
        format: Format,
    },
    /// Show an event with its attempts and its payload.
    Show {
        #[arg(value_name = "EVT")]
        event_id: String,
        #[command(flatten)]
        format: Format,
    },
    /// List the events that could not be processed.
    DeadLetters {
        #[arg(long = "type", value_name = "T")]
        event_type: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Run the handler again for dead letters, or for events processed before.
    Replay(Replay),
    /// Read what Stripe has into the inbox: what was never delivered, above all.
    Backfill(Backfill),
    /// Send a signed sample event to the running service. It is about an
    /// organization of its own, made for it, and never about a customer's.
    Trigger(Trigger),
}

#[derive(Debug, Args)]
pub struct Retry {
    /// Where to push the job's metrics.
    #[arg(long, env = "PUSHGATEWAY_URL", hide_env_values = true)]
    pushgateway_url: Option<String>,
    #[command(flatten)]
    stripe: StripeArgs,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
pub struct Replay {
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
    /// Say what would be replayed, and do nothing.
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
    #[arg(long, value_name = "ORG")]
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
                let metrics = metrics::install(event_handlers::audit_actions());
                let gateway = plan.gateway.as_ref();
                let tally = webhook_retry::run(&plan.processor(pool), &metrics, gateway).await?;
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
                limit,
                format,
            } => {
                let mut tx = WorkerTx::begin(&pool).await?;
                let events = inspect::list(tx.conn(), unprocessed, i64::from(limit)).await?;
                format.print(&events, |events| describe_events(events))
            }
            Self::Show { event_id, format } => {
                let mut tx = WorkerTx::begin(&pool).await?;
                match inspect::show(tx.conn(), &event_id).await? {
                    Some(details) => format.print(&details, describe_details),
                    None => Err(unknown_event(&event_id)),
                }
            }
            Self::DeadLetters { event_type, format } => {
                let mut tx = WorkerTx::begin(&pool).await?;
                let letters = dead_letters(tx.conn(), &of_type(event_type), i64::MAX).await?;
                format.print(&letters, |letters| describe_dead_letters(letters))
            }
            Self::Replay(replay) => replay.run(&plan.processor(pool)).await,
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

    fn processor(&self, pool: PgPool) -> Processor {
        Processor {
            pool,
            catalogue: self.catalogue.clone(),
            key_is_live: self.stripe.key_is_live,
            max_retries: self.stripe.max_retries,
            unknown_customers: self.stripe.unknown_customers,
        }
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
    result: Option<Replayed>,
}

/// All dead letters, or those of one type.
fn of_type(event_type: Option<String>) -> DeadLetterFilter {
    DeadLetterFilter {
        event_type,
        ..DeadLetterFilter::default()
    }
}

impl Replay {
    async fn run(self, processor: &Processor) -> Result<(), Failure> {
        let event_ids = match self.all {
            false => self.event_ids,
            true => {
                let mut tx = WorkerTx::begin(&processor.pool).await?;
                let letters = dead_letters(tx.conn(), &of_type(self.event_type), i64::MAX).await?;
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
                true => check_known(&processor.pool, &event_id).await?,
                false => Some(replay::replay(processor, &event_id).await?),
            };
            match &result {
                None | Some(Replayed::Succeeded { .. }) => report.replayed += 1,
                Some(_) => report.failed += 1,
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

async fn check_known(pool: &PgPool, event_id: &str) -> Result<Option<Replayed>, Failure> {
    let mut tx = WorkerTx::begin(pool).await?;
    let known = inspect::show(tx.conn(), event_id).await?.is_some();
    Ok(if known { None } else { Some(Replayed::Unknown) })
}

fn describe_report(report: &Report) -> String {
    let mut lines: Vec<String> = report
        .events
        .iter()
        .map(|event| {
            let what = match &event.result {
                None => "would be replayed".to_owned(),
                Some(Replayed::Succeeded { outcome }) => format!("replayed ({outcome})"),
                Some(Replayed::Failed { error }) => format!("FAILED {error}"),
                Some(Replayed::InFlight) => {
                    "FAILED a worker has it at this moment; try again".to_owned()
                }
                Some(Replayed::Unknown) => "FAILED no such event".to_owned(),
            };
            printable(&format!("{} {what}", event.event_id))
        })
        .collect();
    let verb = if report.dry_run {
        "would be replayed"
    } else {
        "replayed"
    };
    lines.push(format!(
        "{} {verb}, {} failed",
        report.replayed, report.failed
    ));
    lines.join("\n")
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

fn describe_events(events: &[Listed]) -> String {
    let rows: Vec<Vec<String>> = events
        .iter()
        .map(|event| {
            let state = match (&event.outcome, event.next_retry_at) {
                (Some(outcome), _) => outcome.clone(),
                (None, Some(at)) => format!("retry {} at {at}", event.retry_count),
                (None, None) => "waiting".to_owned(),
            };
            vec![
                event.received_at.to_string(),
                event.event_id.clone(),
                event.event_type.clone(),
                state,
                event.error_message.clone().unwrap_or_default(),
            ]
        })
        .collect();
    table(&["RECEIVED", "EVENT", "TYPE", "STATE", "ERROR"], &rows)
}

fn describe_dead_letters(letters: &[DeadLetter]) -> String {
    let rows: Vec<Vec<String>> = letters
        .iter()
        .map(|letter| {
            vec![
                letter.dead_lettered_at.to_string(),
                letter.event_id.clone(),
                letter.event_type.clone(),
                letter.retry_count.to_string(),
                letter.error_message.clone(),
            ]
        })
        .collect();
    table(&["DEAD SINCE", "EVENT", "TYPE", "RETRIES", "REASON"], &rows)
}

fn describe_details(details: &Details) -> String {
    let line = |name: &str, value: String| format!("{name:<13}{}", printable(&value));
    let mut lines = vec![
        line("event", details.event_id.clone()),
        line("type", details.event_type.clone()),
        line("state", details.state.to_owned()),
        line("outcome", details.outcome.clone().unwrap_or_default()),
        line(
            "organization",
            details
                .organization_id
                .map(|id| id.to_string())
                .unwrap_or_default(),
        ),
        line("created", details.created_at.to_string()),
        line("received", details.received_at.to_string()),
        line("retries", details.retry_count.to_string()),
    ];
    for attempt in details.attempts.as_array().into_iter().flatten() {
        lines.push(line(
            "attempt",
            format!("{} {}", attempt["at"], attempt["error"]),
        ));
    }
    // As it was received: laying it out anew would change numbers.
    lines.push(details.payload.get().trim().to_owned());
    lines.join("\n")
}
