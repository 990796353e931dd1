//! Logs, metrics and, with the feature `otlp`, traces. Logs go to stderr, so that
//! stdout has only what a command prints.
//!
//! This room uses no other: what it counts and traces comes as plain values.

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

use lines::Lines;
use trace_context::TraceParent;

/// The writer of a process that serves.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Which thread writes log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// The one that logs: a command's lines stay in order with its output.
    AtOnce,
    /// A separate one.
    Apart,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Pretty,
    Json,
}

/// A malformed variable that telemetry reads itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {problem}")]
pub struct InvalidSetting {
    pub variable: &'static str,
    pub problem: String,
}

/// Starts to write logs; `default_filter` applies where RUST_LOG is unset.
pub fn install(
    format: Option<LogFormat>,
    default_filter: &str,
    writing: Writing,
) -> Result<(), InvalidSetting> {
    if writing == Writing::Apart {
        write_apart();
    }
    let filter = filter(default_filter)?;
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
        // Colours are escape sequences; this formatter escapes others' itself.
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

fn filter(default_filter: &str) -> Result<EnvFilter, InvalidSetting> {
    let given = std::env::var("RUST_LOG").ok();
    let Some(text) = given.filter(|value| !value.trim().is_empty()) else {
        return Ok(EnvFilter::new(default_filter));
    };
    EnvFilter::try_new(&text).map_err(|error| InvalidSetting {
        variable: "RUST_LOG",
        problem: format!("{text:?} is not a valid filter: {error}"),
    })
}

/// Starts the thread that writes the lines. Where none can be started, the
/// threads that log write them.
fn write_apart() {
    let Ok(lines) = Lines::to(io::stderr()) else {
        return;
    };
    if LINES.set(lines).is_ok() {
        // A panic may end the process, and the log says what led to it.
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            flush_lines();
            report(panic);
        }));
    }
}

/// Writes the lines that are waiting.
fn flush_lines() {
    if let Some(lines) = LINES.get() {
        lines.flush();
    }
}

/// Writes the remaining log lines and sends the remaining traces.
pub fn flush() {
    flush_lines();
    #[cfg(feature = "otlp")]
    otlp::flush();
}

/// Makes a request's span part of the trace that its headers name.
pub fn follow(span: &Span, headers: &HeaderMap) {
    #[cfg(feature = "otlp")]
    otlp::follow(span, headers);
    let _ = (span, headers);
}

/// The trace to continue with work that a request leaves behind: the request's own
/// span where spans are exported, else the one that its headers name.
pub fn trace_of(headers: &HeaderMap) -> Option<TraceParent> {
    #[cfg(feature = "otlp")]
    if let Some(trace) = otlp::current() {
        return Some(trace);
    }
    TraceParent::of(headers)
}

/// The processing of a webhook event.
#[derive(Debug, Clone, Copy)]
pub struct Processed<'a> {
    pub event_id: &'a str,
    pub event_type: &'a str,
    pub took: Duration,
    pub succeeded: bool,
}

/// Exports a span for processing that has just ended, as part of the delivery's
/// trace.
pub fn processed(trace: &TraceParent, event: Processed<'_>) {
    #[cfg(feature = "otlp")]
    otlp::processed(trace, event);
    let _ = (trace, event);
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

/// Escapes lines that may contain text from elsewhere.
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
