//! `status`

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::Failure;
use super::output::{self, Format};
use embedded_postgres::EmbeddedPostgres;

use crate::app::EMBEDDED;
use crate::config::{DatabaseLocation, GlobalArgs};

/// Says where the database is; nothing is started.
#[derive(Debug, Args)]
pub struct Status {
    /// How it is printed.
    #[arg(long, value_enum, default_value_t = Output::Pretty)]
    output: Output,
    /// The same as `--output json`.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Pretty,
    Json,
    /// Lines that a shell can eval.
    Env,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    database: &'static str,
    running: Option<bool>,
    database_url: Option<String>,
    data_dir: String,
    version: &'static str,
}

impl Status {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let config = global.database()?;
        let mut report = Report {
            database: "external",
            running: None,
            database_url: None,
            data_dir: config.data_dir.display().to_string(),
            version: env!("CARGO_PKG_VERSION"),
        };
        match config.location {
            DatabaseLocation::Url(_) => report.database_url = global.database_url(),
            DatabaseLocation::Embedded(_) => {
                let running = EmbeddedPostgres::running(EMBEDDED, &config.data_dir)
                    .await
                    .map_err(|error| Failure::unreachable(error.to_string()))?;
                report.database = "embedded";
                report.running = Some(running.is_some());
                report.database_url = running.map(|endpoint| endpoint.admin_url());
            }
        }
        if !self.json && self.output == Output::Env {
            return env_lines(&report);
        }
        let format = Format {
            json: self.json || self.output == Output::Json,
        };
        format.print(&report, describe)
    }
}

fn describe(report: &Report) -> String {
    let state = match report.running {
        None => "external (DATABASE_URL)",
        Some(true) => "embedded, running",
        Some(false) => "embedded, not running; `serve` or `demo` starts it",
    };
    let url = match report.running {
        // An external URL has a password, which stays off screens.
        None => "",
        Some(_) => report.database_url.as_deref().unwrap_or(""),
    };
    format!(
        "database  {state}\nurl       {url}\ndata      {}\nversion   {}",
        report.data_dir, report.version
    )
}

fn env_lines(report: &Report) -> Result<(), Failure> {
    let Some(url) = &report.database_url else {
        return Err(Failure::failed(
            "the embedded database is not running; start `serve` or `demo` first",
        ));
    };
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    output::print(&format!(
        "DATABASE_URL={}\nDATA_DIR={}",
        quoted(url),
        quoted(&report.data_dir)
    ))
}
