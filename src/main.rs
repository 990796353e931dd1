//! The one binary: its commands are its processes.

use std::process::ExitCode;

use clap::Parser;
use valuecanvas_billing::cli::{self, Command};
use valuecanvas_billing::config::{self, GlobalArgs};

/// Self-hosted billing between Stripe, your product and your operators.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: GlobalArgs,
}

fn main() -> ExitCode {
    // Before anything reads the environment; there is one thread yet.
    if let Err(error) = config::read_environment() {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    let arguments = Arguments::parse();
    cli::run(arguments.command, &arguments.global)
}
