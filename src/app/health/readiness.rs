//! Whether the service can do its work: it opens what its parts open, and asks
//! what they need. Load is no reason.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use tokio::sync::Mutex;

use crate::db::disk::Writer;
use crate::db::{self, WorkerTx};
use crate::metering::ledger;
use crate::migrations::{self, State as MigrationState};
use crate::webhooks;
use embedded_postgres::Watch;

/// How long a new connection may take to be opened and asked, and then one that
/// is open; together less than a probe waits.
const ANEW: Duration = Duration::from_millis(1_500);
const KEPT: Duration = Duration::from_millis(1_000);
/// Probes that come together share an answer.
const FRESH: Duration = Duration::from_millis(250);

/// What every part of the service becomes.
const ROLES: &str = "SET ROLE billing_app; SET ROLE billing_worker";

/// What is asked whether the service is ready.
#[derive(Clone)]
pub struct Readiness(Arc<Asked>);

struct Asked {
    options: PgConnectOptions,
    kept: PgPool,
    embedded: Option<Watch>,
    last: Mutex<Option<(Instant, Vec<String>)>>,
}

impl Readiness {
    /// `kept` has connections that are open already, most of the time.
    pub fn new(options: PgConnectOptions, kept: PgPool, embedded: Option<Watch>) -> Self {
        Self(Arc::new(Asked {
            options,
            kept,
            embedded,
            last: Mutex::new(None),
        }))
    }

    /// Why the service cannot do its work; empty: it can.
    pub async fn reasons(&self) -> Vec<String> {
        let mut last = self.0.last.lock().await;
        match &*last {
            Some((at, reasons)) if at.elapsed() < FRESH => reasons.clone(),
            _ => {
                let reasons = self.0.ask().await;
                let before = last.as_ref().map(|(_, reasons)| &**reasons);
                tell(before.unwrap_or_default(), &reasons);
                *last = Some((Instant::now(), reasons.clone()));
                reasons
            }
        }
    }
}

impl Asked {
    async fn ask(&self) -> Vec<String> {
        let error = match within(ANEW, self.ask_anew()).await {
            Ok(reasons) => return reasons,
            Err(error) => error,
        };
        // A server without a connection to spare, or that takes its time, is
        // one that others keep busy: those that are open still do their work.
        if is_load(&error)
            && let Ok(reasons) = within(KEPT, self.ask_kept()).await
        {
            return reasons;
        }
        // Which host or role it was stays in the log.
        tracing::warn!(%error, "not ready");
        if are_missing(&error) {
            return migrations_missing(migrations::MIGRATIONS.iter().map(|m| m.version));
        }
        vec![format!("database: {}", self.reason(&error))]
    }

    async fn ask_anew(&self) -> Result<Vec<String>, sqlx::Error> {
        let mut conn = db::dedicated(&self.options, ROLES, ANEW).await?;
        let reasons = reasons_of(&mut conn).await;
        let _ = sqlx::Connection::close(conn).await;
        reasons
    }

    async fn ask_kept(&self) -> Result<Vec<String>, sqlx::Error> {
        let mut tx = WorkerTx::begin(&self.kept).await?;
        reasons_of(tx.conn()).await
    }

    fn reason(&self, error: &sqlx::Error) -> &'static str {
        let replaced = || self.embedded.as_ref().is_some_and(Watch::was_replaced);
        match db::sql_state(error).as_deref() {
            Some(code) if code.starts_with("28") => {
                "it refuses the login of DATABASE_URL (role, password or pg_hba.conf)"
            }
            Some("3D000") => "the database of DATABASE_URL does not exist",
            Some("42501") => {
                "the login may not connect to the database (CONNECT), or may not become billing_app and \
                 billing_worker; GRANT it"
            }
            Some("57P03" | "57P01" | "57P02") => "it is starting up or shutting down",
            Some("53100") => "its disk is full",
            Some("25006") => "it is read-only",
            Some(code) if code.starts_with("53") => "it has no connection left",
            _ if replaced() => {
                "the embedded server's programs were replaced while it runs; restart the service"
            }
            Some(_) => "it refuses new connections",
            None if is_timeout(error) => "no answer in time",
            None => "it cannot be reached",
        }
    }
}

/// One line for each change.
fn tell(before: &[String], now: &[String]) {
    if now == before {
        return;
    }
    match now.is_empty() {
        true => tracing::info!("Ready again"),
        false => tracing::warn!(reasons = now.join("; "), "Not ready"),
    }
}

async fn within<T>(
    patience: Duration,
    asking: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    tokio::time::timeout(patience, asking)
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

async fn reasons_of(conn: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    if db::is_read_only(conn).await? {
        let standby = db::is_standby(conn).await?;
        let why = if standby {
            "a standby, not the primary"
        } else {
            "default_transaction_read_only is on"
        };
        return Ok(vec![format!("database: it is read-only: {why}")]);
    }
    // Without some rights, the migrations cannot be asked for.
    let lost = db::rights::remedy(&db::rights::lost(conn).await?);
    let statuses = match migrations::status(conn).await {
        Err(error) if lost.is_none() => return Err(error),
        asked => asked.unwrap_or_default(),
    };
    let pending = statuses
        .iter()
        .filter(|status| status.state == MigrationState::Pending)
        .map(|status| status.version.as_str());
    let missing = migrations_missing(pending);
    if !missing.is_empty() {
        return Ok(missing);
    }
    if let Some(remedy) = lost {
        return Ok(vec![format!(
            "database: the service lost rights; as the owner: {remedy}"
        )]);
    }
    if Writer::Intake.may_be_refused() {
        match webhooks::rehearse(conn).await {
            Ok(()) => Writer::Intake.succeeded(),
            Err(error) => return refusal("store events", error),
        }
    }
    if Writer::Ledger.may_be_refused() {
        match ledger::rehearse(conn).await {
            Ok(()) => Writer::Ledger.succeeded(),
            Err(error) => return refusal("count usage", error),
        }
    }
    Ok(Vec::new())
}

/// A refusal that is neither load nor the server's state has its own reason.
fn refusal(work: &str, error: sqlx::Error) -> Result<Vec<String>, sqlx::Error> {
    let Some(code) = db::sql_state(&error) else {
        return Err(error);
    };
    if db::is_outage(&error) || db::is_conflict(&error) || db::is_timeout(&error) {
        return Err(error);
    }
    tracing::warn!(%error, "not ready: the database refuses to {work}");
    Ok(vec![format!(
        "database: it refuses to {work} (SQLSTATE {code}); `migrate verify` and the log say why"
    )])
}

fn migrations_missing<'a>(versions: impl Iterator<Item = &'a str>) -> Vec<String> {
    let versions: Vec<&str> = versions.collect();
    if versions.is_empty() {
        return Vec::new();
    }
    let versions = versions.join(", ");
    vec![format!(
        "migrations: {versions} not applied; run `migrate up`"
    )]
}

/// Before the first migration there are no roles to become.
fn are_missing(error: &sqlx::Error) -> bool {
    matches!(db::sql_state(error).as_deref(), Some("22023" | "42704"))
}

fn is_timeout(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::PoolTimedOut)
}

fn is_load(error: &sqlx::Error) -> bool {
    // Too many connections, of all or of this login.
    is_timeout(error) || db::sql_state(error).as_deref() == Some("53300")
}
