//! Logs: on stderr, so that stdout has what a command prints.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use crate::config::{ConfigError, LogFormat};
use crate::terminal;

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
    let on_terminal = io::stderr().is_terminal();
    let format = format.unwrap_or(if on_terminal {
        LogFormat::Pretty
    } else {
        LogFormat::Json
    });
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .log_internal_errors(false)
        .with_writer(|| Escaping(io::stderr()));
    match format {
        // Its colours are escape sequences; it escapes those of others itself.
        LogFormat::Pretty if on_terminal => {
            subscriber.with_writer(io::stderr).with_target(false).init()
        }
        LogFormat::Pretty => subscriber.with_ansi(false).with_target(false).init(),
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Standard error, for lines that hold what others sent.
struct Escaping(io::Stderr);

impl io::Write for Escaping {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let plain = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n');
        if line.iter().all(plain) {
            return self.0.write(line);
        }
        let escaped = terminal::escaped(&String::from_utf8_lossy(line));
        self.0.write_all(escaped.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
