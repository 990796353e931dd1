//! Logs: on stderr, so that stdout has what a command prints. With the feature
//! `otlp`, traces as well.

mod lines;
pub mod metrics;
#[cfg(feature = "otlp")]
mod otlp;
pub mod seldom;
pub mod terminal;
pub mod trace_context;

use std::io::{self, IsTerminal as _};
use std::sync::OnceLock;
use std::time::Duration;

use axum::http::HeaderMap;
use tracing::Span;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{ConfigError, LogFormat};
use crate::projection::StoredEvent;
use lines::Lines;
use trace_context::TraceParent;

/// The writer of a process that serves.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Who writes log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// Whoever logs: a command's lines stay in order with what it prints.
    AtOnce,
    /// A thread of its own.
    Apart,
}

/// Starts to write logs; `default_filter` is the filter where RUST_LOG is unset.
pub fn install(
    format: Option<LogFormat>,
    default_filter: &str,
    writing: Writing,
) -> Result<(), ConfigError> {
    if writing == Writing::Apart {
        write_apart();
    }
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
        .with_writer(|| Escaping(Lines::or_stderr()));
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
        // Its colours are escape sequences; it escapes those of others itself.
        LogFormat::Pretty if on_terminal => lines
            .with_writer(Lines::or_stderr)
            .with_target(false)
            .boxed(),
        LogFormat::Pretty => lines.with_ansi(false).with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter));
    #[cfg(feature = "otlp")]
    let subscriber = subscriber.with(otlp::layer()?);
    subscriber.init();
    Ok(())
}

/// Lets a thread of its own write the lines; where none can be started, whoever
/// logs does.
fn write_apart() {
    let Ok(lines) = Lines::to(io::stderr()) else {
        return;
    };
    if LINES.set(lines).is_ok() {
        // A panic may be the process's end, and what led to it is in the log.
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            flush_lines();
            tell(panic);
        }));
    }
}

/// Writes the lines that wait.
fn flush_lines() {
    if let Some(lines) = LINES.get() {
        lines.flush();
    }
}

/// Writes what is left of the log, and sends what is left of the traces.
pub fn flush() {
    flush_lines();
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

/// Where a line goes.
enum Out {
    Lines(Lines),
    Stderr(io::Stderr),
}

impl Lines {
    fn or_stderr() -> Out {
        match LINES.get() {
            Some(lines) => Out::Lines(lines.clone()),
            None => Out::Stderr(io::stderr()),
        }
    }
}

impl io::Write for Out {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self {
            Self::Lines(lines) => lines.write(line),
            Self::Stderr(stderr) => stderr.write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Lines(_) => Ok(()),
            Self::Stderr(stderr) => stderr.flush(),
        }
    }
}

/// For lines that hold what others sent.
struct Escaping(Out);

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
