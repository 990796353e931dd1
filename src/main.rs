//! The one binary: its commands are its processes.

use std::process::ExitCode;

use valuecanvas_billing::cli::{self, Arguments};
use valuecanvas_billing::config;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything reads the environment; there is one thread yet.
    if let Err(error) = config::read_environment() {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    let (arguments, initiator) = Arguments::read();
    cli::run(arguments.command, &arguments.global, initiator)
}
