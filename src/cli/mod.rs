//! The commands: each reads its arguments, does its work through a feature,
//! prints the result and says by its exit status how it went.

mod api_keys;
mod arguments;
mod audit;
mod backfill;
mod backup;
mod completions;
mod database;
#[cfg(feature = "sandbox")]
mod demo;
mod doctor;
mod failure;
mod grace_periods;
mod initiator;
mod migrate;
mod openapi;
mod organizations;
mod output;
mod plans;
mod quotas;
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
use crate::config::{self, GlobalArgs};
use crate::telemetry::{self, Writing};
pub use failure::Failure;

/// What has no flag, since the arguments of a process are public.
const SECRETS: &str = "\
Secrets come from the environment, or from files that NAME_FILE names, and have no flags:
  STRIPE_SECRET_KEY, STRIPE_WEBHOOK_SECRET, APPLICATION_WEBHOOK_SECRET
A .env file in the working directory is read. docs/deployment.md says how to begin, .env.example what
can be set.";

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
    /// Reads the command line, or ends with what is wrong with it; and who runs
    /// it.
    pub fn read() -> (Self, Initiator) {
        let matches = Self::command().get_matches();
        let arguments = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        let initiator = initiator::of(&matches, arguments.global.acting_as());
        (arguments, initiator)
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take webhooks, process them, and answer the API.
    Serve(serve::Serve),
    /// Everything at once, on the embedded database, with sample traffic.
    #[cfg(feature = "sandbox")]
    Demo(demo::Demo),
    /// Bring the database's schema up to date, look at it, or undo it.
    #[command(subcommand)]
    Migrate(migrate::Migrate),
    /// Stripe's events: retry, look at, replay, and send samples.
    #[command(subcommand)]
    Webhooks(webhooks::Webhooks),
    /// The audit log: look at it, verify its chains, export it.
    #[command(subcommand)]
    Audit(audit::Audit),
    /// The tenants.
    #[command(subcommand)]
    Organizations(organizations::Organizations),
    /// The plan catalogue, here and in Stripe.
    #[command(subcommand)]
    Plans(plans::Plans),
    /// Subscriptions, here and in Stripe.
    #[command(subcommand)]
    Subscriptions(subscriptions::Subscriptions),
    /// What organizations may use, beside their plans.
    #[command(subcommand)]
    Quotas(quotas::Quotas),
    /// The times for which soft limits may be exceeded.
    #[command(subcommand)]
    GracePeriods(grace_periods::GracePeriods),
    /// Usage: tell Stripe of it.
    #[command(subcommand)]
    Usage(usage::Usage),
    /// Check a deployment: what is wrong, and what to do.
    Doctor(doctor::Doctor),
    /// Who may log in.
    #[command(subcommand)]
    Users(users::Users),
    /// What an organization's own programs call with.
    #[command(subcommand)]
    ApiKeys(api_keys::ApiKeys),
    /// The stand-in for Stripe, alone.
    #[cfg(feature = "sandbox")]
    Sandbox(sandbox::Run),
    /// Print the API's description, OpenAPI 3.1.
    Openapi(openapi::Openapi),
    /// Write a backup, and read it back.
    Backup(backup::Backup),
    /// Restore a backup into an empty database.
    Restore(backup::Restore),
    /// Print what completes commands in a shell.
    Completions(completions::Completions),
    /// What runs where.
    Status(status::Status),
}

impl Command {
    /// Whether it is the service itself, and runs until it is told to stop.
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

    /// What is logged where RUST_LOG is unset: a command that prints data says
    /// only what went wrong.
    fn log_filter(&self) -> &'static str {
        let job = matches!(
            self,
            Self::Webhooks(webhooks::Webhooks::Retry(_))
                | Self::GracePeriods(grace_periods::GracePeriods::Cleanup { .. })
                | Self::Usage(usage::Usage::Report { .. })
        );
        match self.serves() || job {
            true => "info",
            false => "warn",
        }
    }
}

/// Writes what is left of the log and the traces, at an end by panic, too.
struct Flush;

impl Drop for Flush {
    fn drop(&mut self) {
        telemetry::flush();
    }
}

/// Runs a command on a runtime of one thread.
pub fn run(command: Command, global: &GlobalArgs, initiator: Initiator) -> ExitCode {
    // What the service does is nobody's work.
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
                })
                .map_err(Failure::from)
                .inspect(|()| warn_of_passwords())
                .and_then(|()| runtime.block_on(dispatch(command, global)));
            drop(flush);
            // Who was told twice to stop does not wait for a thread that hangs.
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

/// Of those that whoever ran this wrote where everyone sees them.
fn warn_of_passwords() {
    let arguments: Vec<String> = std::env::args().collect();
    for variable in config::passwords_in(&arguments) {
        tracing::warn!(
            variable,
            "a password is among the arguments, which every user of this host can list: set the variable instead"
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
        Command::Quotas(quotas) => quotas.run(global).await,
        Command::GracePeriods(periods) => periods.run(global).await,
        Command::Usage(usage) => usage.run(global).await,
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
