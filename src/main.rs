//! The one binary: its commands are its processes.

use std::process::ExitCode;

use valuecanvas_billing::cli::{self, Arguments};
use valuecanvas_billing::config;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    take_small_pages();
    // Before anything reads the environment; there is one thread yet.
    if let Err(error) = config::read_environment() {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    let (arguments, initiator) = Arguments::read();
    cli::run(arguments.command, &arguments.global, initiator)
}

/// The allocator asks for pages of 2 MiB, of which one small allocation keeps
/// all: after a flood, half of the process was such pages.
fn take_small_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        eprintln!("warning: large pages stay on, and memory is given back late: {error}");
    }
}
