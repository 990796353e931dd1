//! `status`

use clap::{Args, ValueEnum};
use serde::Serialize;

use embedded_postgres::EmbeddedPostgres;

use super::Failure;
use super::output::{self, Format};
use super::running_demo::Running;
use crate::app::EMBEDDED;
use crate::config::{DatabaseLocation, GlobalArgs};

/// Shows where the database is, and the address and credentials of a running demo.
/// Starts nothing.
#[derive(Debug, Args)]
pub struct Status {
    /// Output format.
    #[arg(long, value_enum, default_value_t = Output::Pretty)]
    output: Output,
    /// Same as `--output json`.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Pretty,
    Json,
    /// Lines for a shell to eval.
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
    /// `None`: no demo runs in this data directory.
    demo: Option<Demo>,
}

/// A running demo.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Demo {
    console: String,
    operator: String,
    operator_password: String,
    url: String,
    email: String,
    password: String,
    api_key: String,
    stripe_api_base: String,
}

impl From<Running> for Demo {
    fn from(running: Running) -> Self {
        Self {
            console: format!("http://{}/console", running.address),
            operator: running.login.operator,
            operator_password: running.login.operator_password,
            url: format!("http://{}", running.address),
            email: running.login.email,
            password: running.login.password,
            api_key: running.login.api_key,
            stripe_api_base: running.stripe_api_base,
        }
    }
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
            demo: Running::find(&config.data_dir).map(Demo::from),
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
    let url = match (report.running, &report.database_url) {
        // An external URL has a password, which stays off screens.
        (Some(_), Some(url)) => format!("url       {url}\n"),
        _ => String::new(),
    };
    let mut text = format!(
        "database  {state}\n{url}data      {}\nversion   {}",
        report.data_dir, report.version
    );
    if let Some(demo) = &report.demo {
        let Demo {
            console,
            operator,
            operator_password,
            url,
            email,
            password,
            api_key,
            stripe_api_base,
        } = demo;
        text += &format!(
            "\n\nconsole   {console} ({operator} / {operator_password})\n\
             demo      {url}, documented at {url}/docs\n\
             login     {email} / {password}\nAPI key   {api_key}\nstripe    {stripe_api_base}"
        );
    }
    text
}

fn env_lines(report: &Report) -> Result<(), Failure> {
    let Some(url) = &report.database_url else {
        return Err(Failure::failed(
            "the embedded database is not running; start `serve` or `demo` first",
        ));
    };
    let mut lines = vec![("DATABASE_URL", url), ("DATA_DIR", &report.data_dir)];
    if let Some(demo) = &report.demo {
        lines.extend([
            ("BILLING_URL", &demo.url),
            ("BILLING_EMAIL", &demo.email),
            ("BILLING_PASSWORD", &demo.password),
            ("BILLING_API_KEY", &demo.api_key),
        ]);
    }
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let lines: Vec<String> = lines
        .into_iter()
        .map(|(name, value)| format!("{name}={}", quoted(value)))
        .collect();
    output::print(&lines.join("\n"))
}
