//! The commands. Each reads its arguments, does its work through a feature, prints
//! the result, and reports success by its exit status.
//!
//! Nothing here decides about billing.

mod api_keys;
mod arguments;
mod audit;
mod backfill;
mod backup;
mod completions;
mod consent;
mod database;
#[cfg(feature = "sandbox")]
mod demo;
mod doctor;
mod events;
mod explain;
mod failure;
mod features;
mod figures;
mod grace_periods;
mod import;
mod initiator;
mod mails;
mod migrate;
mod openapi;
mod organization;
mod organizations;
mod output;
mod plans;
mod quotas;
mod retention;
mod running_demo;
mod samples;
#[cfg(feature = "sandbox")]
mod sandbox;
mod serve;
mod status;
mod subscriptions;
mod usage;
mod users;
mod webhooks;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::audit::{Initiator, initiated_by};
use crate::config::{self, ConfigError, GlobalArgs};
use crate::telemetry::{self, Writing};
pub use failure::Failure;

/// Settings without flags: every user of the host can list a process's arguments.
const SECRETS: &str = "\
Secrets come from the environment or from the file that NAME_FILE names, and have no flags:
  STRIPE_SECRET_KEY, STRIPE_WEBHOOK_SECRET, APPLICATION_WEBHOOK_SECRET, SMTP_URL, SMTP_PASSWORD
A .env file in the working directory is read. Start with docs/deployment.md; .env.example lists all
settings.";

/// Self-hosted billing between Stripe, your product and your operators.
#[derive(Debug, Parser)]
#[command(name = "valuecanvas-billing", version, about, max_term_width = 100, after_help = SECRETS)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub global: GlobalArgs,
}

impl Arguments {
    /// Parses the command line, and determines who runs it. Exits on errors.
    pub fn read() -> (Self, Initiator) {
        let matches = Self::command().get_matches();
        let arguments = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        let initiator = initiator::of(&matches, arguments.global.acting_as());
        (arguments, initiator)
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service: receive and process webhooks, and serve the API.
    Serve(serve::Serve),
    /// Run the service with an embedded database, a stand-in for Stripe and sample
    /// traffic.
    #[cfg(feature = "sandbox")]
    Demo(demo::Demo),
    /// Apply, inspect or undo migrations of the database's schema.
    #[command(subcommand)]
    Migrate(migrate::Migrate),
    /// Retry, inspect, replay and fetch Stripe's events, and send samples.
    #[command(subcommand)]
    Webhooks(webhooks::Webhooks),
    /// Read, verify and export the audit log.
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Create, show and erase organizations.
    #[command(subcommand)]
    Organizations(organizations::Organizations),
    /// List the plan catalogue, and create it in Stripe.
    #[command(subcommand)]
    Plans(plans::Plans),
    /// Compare subscriptions with Stripe's.
    #[command(subcommand)]
    Subscriptions(subscriptions::Subscriptions),
    /// Bring an existing Stripe account's customers here.
    #[command(subcommand)]
    Import(import::Import),
    /// Override the quotas of plans for an organization.
    #[command(subcommand)]
    Quotas(quotas::Quotas),
    /// List the features of organizations, and override those of their plans.
    #[command(subcommand)]
    Features(features::Features),
    /// List and clean up grace periods.
    #[command(subcommand)]
    GracePeriods(grace_periods::GracePeriods),
    /// Remove what is older than the settings say.
    #[command(subcommand)]
    Retention(retention::Retention),
    /// Report usage to Stripe, and list undelivered usage alerts.
    #[command(subcommand)]
    Usage(usage::Usage),
    /// Explain an event, an invoice, a plan, a quota or a feature by its causes.
    Explain(explain::Explain),
    /// Who pays, how much a month, and how that moved.
    #[command(subcommand)]
    Figures(figures::Figures),
    /// Tell the product what changed: types of events, endpoints and deliveries.
    #[command(subcommand)]
    Events(events::Events),
    /// List mails to customers, and try them again.
    #[command(subcommand)]
    Mails(mails::Mails),
    /// Check a deployment, and say how to fix what is wrong.
    Doctor(doctor::Doctor),
    /// Manage users, who log in with a password.
    #[command(subcommand)]
    Users(users::Users),
    /// Manage API keys, for an organization's programs.
    #[command(subcommand)]
    ApiKeys(api_keys::ApiKeys),
    /// Run only the stand-in for Stripe.
    #[cfg(feature = "sandbox")]
    Sandbox(sandbox::Run),
    /// Print the OpenAPI 3.1 document.
    Openapi(openapi::Openapi),
    /// Write a backup and verify it.
    Backup(backup::Backup),
    /// Restore a backup into an empty database.
    Restore(backup::Restore),
    /// Print shell completions or the manual page.
    Completions(completions::Completions),
    /// Show what runs where, and how to use a running demo.
    Status(status::Status),
}

impl Command {
    /// Whether it is the service, which runs until it is told to stop.
    fn serves(&self) -> bool {
        match self {
            Self::Serve(_) => true,
            #[cfg(feature = "sandbox")]
            Self::Demo(_) => true,
            _ => false,
        }
    }

    fn log_writing(&self) -> Writing {
        match self.serves() {
            true => Writing::Apart,
            false => Writing::AtOnce,
        }
    }

    /// The log filter where RUST_LOG is unset: commands that print data log only
    /// warnings.
    fn log_filter(&self) -> &'static str {
        let job = matches!(
            self,
            Self::Webhooks(webhooks::Webhooks::Retry(_))
                | Self::GracePeriods(grace_periods::GracePeriods::Cleanup { .. })
                | Self::Usage(usage::Usage::Report { .. })
                | Self::Subscriptions(_)
                | Self::Retention(_)
        );
        match self {
            #[cfg(feature = "sandbox")]
            // Declined cards are part of the story.
            Self::Demo(demo) if !demo.verbose => "warn,valuecanvas_billing::stripe::client=error",
            _ if self.serves() || job => "info",
            _ => "warn",
        }
    }
}

/// Writes the remaining log lines and traces, also on a panic.
struct Flush;

impl Drop for Flush {
    fn drop(&mut self) {
        telemetry::flush();
    }
}

/// Runs a command on a single-threaded runtime.
pub fn run(command: Command, global: &GlobalArgs, initiator: Initiator) -> ExitCode {
    // The service acts for nobody in particular.
    if !command.serves() {
        initiated_by(initiator);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let flush = Flush;
            let result = global
                .log_format()
                .and_then(|format| {
                    telemetry::install(format, command.log_filter(), command.log_writing())
                        .map_err(ConfigError::from)
                })
                .map_err(Failure::from)
                .inspect(|()| warn_of_passwords())
                .and_then(|()| runtime.block_on(dispatch(command, global)));
            drop(flush);
            // A process that was told to stop twice does not wait for a hanging thread.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(Failure::failed(format!(
            "the runtime cannot be started: {error}"
        ))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(message) = &failure.message {
                output::say(&format!("error: {message}"));
            }
            ExitCode::from(failure.status)
        }
    }
}

/// Warns of passwords in our own arguments.
fn warn_of_passwords() {
    let arguments: Vec<String> = std::env::args().collect();
    for variable in config::passwords_in(&arguments) {
        tracing::warn!(
            variable,
            "the arguments contain a password, which every user of this host can list; set the variable instead"
        );
    }
}

async fn dispatch(command: Command, global: &GlobalArgs) -> Result<(), Failure> {
    match command {
        Command::Serve(serve) => serve.run(global).await,
        #[cfg(feature = "sandbox")]
        Command::Demo(demo) => demo.run(global).await,
        Command::Migrate(migrate) => migrate.run(global).await,
        Command::Webhooks(webhooks) => webhooks.run(global).await,
        Command::Audit(audit) => audit.run(global).await,
        Command::Organizations(organizations) => organizations.run(global).await,
        Command::Plans(plans) => plans.run(global).await,
        Command::Subscriptions(subscriptions) => subscriptions.run(global).await,
        Command::Import(import) => import.run(global).await,
        Command::Quotas(quotas) => quotas.run(global).await,
        Command::Features(features) => features.run(global).await,
        Command::Explain(explain) => explain.run(global).await,
        Command::Figures(figures) => figures.run(global).await,
        Command::GracePeriods(periods) => periods.run(global).await,
        Command::Retention(retention) => retention.run(global).await,
        Command::Usage(usage) => usage.run(global).await,
        Command::Events(events) => events.run(global).await,
        Command::Mails(mails) => mails.run(global).await,
        Command::Doctor(doctor) => doctor.run(global).await,
        Command::Users(users) => users.run(global).await,
        Command::ApiKeys(keys) => keys.run(global).await,
        #[cfg(feature = "sandbox")]
        Command::Sandbox(sandbox) => sandbox.run().await,
        Command::Openapi(openapi) => openapi.run(),
        Command::Backup(backup) => backup.run(global).await,
        Command::Restore(restore) => restore.run(global).await,
        Command::Completions(completions) => completions.run(),
        Command::Status(status) => status.run(global).await,
    }
}
