//! `retention`

use std::cell::Cell;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use clap::Subcommand;
use jiff::Timestamp;
use sqlx::postgres::PgPool;

use super::Failure;
use super::database::on_database;
use super::output::{Format, say, table};
use crate::app;
use crate::config::{GlobalArgs, RetentionArgs, RetentionConfig};
use crate::db;
use crate::maintenance::retention::{self, JOB, LEASE, Report};
use crate::maintenance::{PushGateway, Run};
use crate::telemetry::terminal::counted;

#[derive(Debug, Subcommand)]
pub enum Retention {
    /// Remove what is older than the RETENTION_ settings say: the daily job, which
    /// `serve` does as well.
    Run {
        /// Count what would be removed, and remove nothing.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        retention: RetentionArgs,
        /// A Pushgateway for the job's metrics.
        #[arg(long, help_heading = None, env = "PUSHGATEWAY_URL")]
        pushgateway_url: Option<String>,
        #[command(flatten)]
        format: Format,
    },
}

impl Retention {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let Self::Run {
            dry_run,
            retention,
            pushgateway_url,
            format,
        } = self;
        let config = global.database()?;
        let kept = retention.check()?;
        let gateway = PushGateway::given(pushgateway_url.as_deref())?;
        on_database(&config, async |database| {
            let pool = db::pool(database.service.clone(), 1);
            let report = match dry_run {
                true => retention::rehearse(&pool, &kept, Timestamp::now()).await?,
                false => run(&pool, &kept, gateway.as_ref()).await?,
            };
            format.print(&report, describe)?;
            match report.is_whole() {
                true => Ok(()),
                false => Err(Failure::silent()),
            }
        })
        .await
    }
}

async fn run(
    pool: &PgPool,
    kept: &RetentionConfig,
    gateway: Option<&PushGateway>,
) -> Result<Report, Failure> {
    let run = Run {
        job: JOB,
        pool,
        metrics: &app::metrics::install(std::iter::empty()),
        gateway,
    };
    let progress = Progress::default();
    let progress = |what: &str, rows: u64| progress.tell(what, rows);
    // A run that was killed holds its lease for a while.
    let patience = Instant::now() + LEASE + Duration::from_secs(5);
    let work = async {
        loop {
            let report = retention::run(pool, kept, Timestamp::now(), progress).await?;
            if !report.already_running || Instant::now() > patience {
                return Ok::<_, sqlx::Error>(report);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    Ok(run.counted(work, Report::is_whole).await?)
}

/// Says at most once a second how far it is: over one line on a terminal.
#[derive(Default)]
struct Progress {
    said_at: Cell<Option<Instant>>,
}

impl Progress {
    fn tell(&self, what: &str, rows: u64) {
        let since = self.said_at.get().map(|at| at.elapsed());
        if since.is_some_and(|since| since < Duration::from_secs(1)) {
            return;
        }
        self.said_at.set(Some(Instant::now()));
        let line = format!("{what}: {rows} removed");
        if io::stderr().is_terminal() {
            let _ = write!(io::stderr(), "\r\u{1b}[K{line}");
        } else {
            say(&line);
        }
    }
}

fn describe(report: &Report) -> String {
    if report.already_running {
        return "Another process runs retention; nothing was done here.".to_owned();
    }
    let rows: Vec<Vec<String>> = report
        .removed
        .iter()
        .map(|removed| {
            vec![
                removed.what.to_owned(),
                match removed.days {
                    Some(days) => counted(days, "day"),
                    None => "for ever".to_owned(),
                },
                removed.setting.to_owned(),
                removed.rows.to_string(),
                removed.error.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let gone = if report.dry_run {
        "TO REMOVE"
    } else {
        "REMOVED"
    };
    table(&["WHAT", "KEPT", "SETTING", gone, "PROBLEM"], &rows)
}
