//! Logs: on stderr, so that stdout has what a command prints.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::{ConfigError, LogFormat};

/// Starts to write logs; `quiet` is the filter where RUST_LOG is unset.
pub fn install(format: Option<LogFormat>, default_filter: &str) -> Result<(), ConfigError> {
    let filter = match std::env::var("RUST_LOG")
        .ok()
        .filter(|value| !value.trim().is_empty())
    {
        Some(text) => EnvFilter::try_new(&text).map_err(|error| {
            ConfigError::new("RUST_LOG", format!("{text:?} is no filter: {error}"))
        })?,
        None => EnvFilter::new(default_filter),
    };
    let terminal = std::io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal {
        LogFormat::Pretty
    } else {
        LogFormat::Json
    });
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Pretty => subscriber.with_ansi(terminal).with_target(false).init(),
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
    Ok(())
}
