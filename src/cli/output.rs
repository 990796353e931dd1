//! Output of commands: one JSON document, or text for people.

use std::io::{self, IsTerminal as _, Write as _};

use clap::Args;
use serde::Serialize;

use super::Failure;
pub use crate::telemetry::terminal::{counted, escaped, printable};

/// The output format of commands that print data.
#[derive(Debug, Clone, Copy, Args)]
pub struct Format {
    /// Print one JSON document.
    #[arg(long, help_heading = None)]
    pub json: bool,
}

impl Format {
    /// Prints `value` as JSON, or the text that `human` makes of it.
    pub fn print<T: Serialize + ?Sized>(
        self,
        value: &T,
        human: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let text = if self.json {
            serde_json::to_string_pretty(value)
                .map_err(|error| Failure::failed(error.to_string()))?
        } else {
            human(value)
        };
        print(&escaped(text.trim_end()))
    }
}

impl Format {
    /// As [`print`](Self::print), after `made` was made: if it cannot be shown, that is said on
    /// stderr, since it is there.
    pub fn print_made<T: Serialize + ?Sized>(
        self,
        value: &T,
        made: &str,
        human: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        self.print(value, human).map_err(|failure| {
            let why = failure.message;
            let why = why.unwrap_or_else(|| "standard output was closed".to_owned());
            Failure::failed(format!("made, but not shown: {made}; {why}"))
        })
    }
}

/// Prints a text and a line end. If the reader has gone, the command ends quietly,
/// as other tools do.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure {
            status: 0,
            message: None,
        }),
        Err(error) => Err(Failure::failed(format!(
            "cannot write to standard output: {error}"
        ))),
        Ok(()) => Ok(()),
    }
}

/// A table with headings; each column is as wide as its widest cell.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| printable(cell)).collect())
        .collect();
    let widths: Vec<usize> = headings
        .iter()
        .enumerate()
        .map(|(i, heading)| {
            let cells = rows.iter().map(|row| row[i].chars().count());
            cells.max().unwrap_or(0).max(heading.chars().count())
        })
        .collect();
    let line = |cells: &[String]| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let headings: Vec<String> = headings
        .iter()
        .map(|heading| (*heading).to_owned())
        .collect();
    let mut lines = vec![line(&headings)];
    lines.extend(rows.iter().map(|row| line(row)));
    lines.join("\n")
}

/// Prints a line on stderr; errors are ignored, since there is nowhere to report
/// them.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{}", escaped(line));
}

/// Progress of long work, on stderr: one line that is overwritten on a terminal,
/// plain lines elsewhere.
pub struct Progress {
    total: usize,
    done: usize,
    terminal: bool,
}

impl Progress {
    pub fn new(total: usize) -> Self {
        Self {
            total,
            done: 0,
            terminal: io::stderr().is_terminal(),
        }
    }

    pub fn step(&mut self, what: &str) {
        self.done += 1;
        let (done, total, what) = (self.done, self.total, printable(what));
        if self.terminal {
            let end = if done == total { "\n" } else { "" };
            let _ = write!(io::stderr(), "\r\u{1b}[K{done} of {total}: {what}{end}");
        } else if done == total || done.is_multiple_of(100) {
            say(&format!("{done} of {total} done"));
        }
    }
}
