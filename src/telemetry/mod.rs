//! Logs: on stderr, so that stdout has what a command prints. With the feature
//! `otlp`, traces as well.

#[cfg(feature = "otlp")]
mod otlp;

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use axum::http::HeaderMap;
use tracing::Span;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{ConfigError, LogFormat};
use crate::event_handlers::StoredEvent;
use crate::terminal;
use crate::trace_context::TraceParent;

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
    let lines = tracing_subscriber::fmt::layer()
        .log_internal_errors(false)
        .with_writer(|| Escaping(io::stderr()));
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
        // Its colours are escape sequences; it escapes those of others itself.
        LogFormat::Pretty if on_terminal => {
            lines.with_writer(io::stderr).with_target(false).boxed()
        }
        LogFormat::Pretty => lines.with_ansi(false).with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter));
    #[cfg(feature = "otlp")]
    let subscriber = subscriber.with(otlp::layer()?);
    subscriber.init();
    Ok(())
}

/// Sends what is left of the traces.
pub fn flush() {
    #[cfg(feature = "otlp")]
    otlp::flush();
}

/// Makes a request's span a part of the trace that its caller named.
pub fn follow(span: &Span, headers: &HeaderMap) {
    #[cfg(feature = "otlp")]
    otlp::follow(span, headers);
    let _ = (span, headers);
}

/// The trace that goes on with what a request leaves behind: that of its own
/// span where spans are exported, or else its caller's.
pub fn trace_of(headers: &HeaderMap) -> Option<TraceParent> {
    #[cfg(feature = "otlp")]
    if let Some(trace) = otlp::current() {
        return Some(trace);
    }
    TraceParent::of(headers)
}

/// Tells of an event's processing, which took `took` until now, as a part of
/// its delivery's trace.
pub fn processed(trace: &TraceParent, event: &StoredEvent, took: Duration, succeeded: bool) {
    #[cfg(feature = "otlp")]
    otlp::processed(trace, event, took, succeeded);
    let _ = (trace, event, took, succeeded);
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
