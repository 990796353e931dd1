//! Readiness: opens a connection as the service's parts do, and checks what they need.
//! Load does not make the service unready.

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

/// Time limits for checking on a new connection, and then on a pooled one; together
/// less than a probe's timeout.
const ANEW: Duration = Duration::from_millis(1_500);
const KEPT: Duration = Duration::from_millis(1_000);
/// Probes within this time share a result.
const FRESH: Duration = Duration::from_millis(250);

/// The roles that the service's parts need.
const ROLES: &[&str] = &["SET ROLE billing_app", "SET ROLE billing_worker"];

/// The readiness check; clones share its last result.
#[derive(Clone)]
pub struct Readiness(Arc<Inner>);

struct Inner {
    options: PgConnectOptions,
    kept: PgPool,
    embedded: Option<Watch>,
    last: Mutex<Option<(Instant, Vec<String>)>>,
}

impl Readiness {
    /// The pool `kept` usually has open connections.
    pub fn new(options: PgConnectOptions, kept: PgPool, embedded: Option<Watch>) -> Self {
        Self(Arc::new(Inner {
            options,
            kept,
            embedded,
            last: Mutex::new(None),
        }))
    }

    /// Why the service is not ready; empty if it is. It is checked in a task of its own:
    /// nobody who hangs up, or is not polled, keeps the others waiting.
    pub async fn reasons(&self) -> Vec<String> {
        let inner = self.0.clone();
        let checking = tokio::spawn(async move { inner.reasons().await });
        checking
            .await
            .unwrap_or_else(|_| vec!["the check failed".to_owned()])
    }
}

impl Inner {
    async fn reasons(&self) -> Vec<String> {
        let mut last = self.last.lock().await;
        match &*last {
            Some((at, reasons)) if at.elapsed() < FRESH => reasons.clone(),
            _ => {
                let reasons = self.check().await;
                let before = last.as_ref().map(|(_, reasons)| &**reasons);
                log_change(before.unwrap_or_default(), &reasons);
                *last = Some((Instant::now(), reasons.clone()));
                reasons
            }
        }
    }

    async fn check(&self) -> Vec<String> {
        let error = match within(ANEW, self.check_anew()).await {
            Ok(reasons) => return reasons,
            Err(error) => error,
        };
        // A server without a spare connection, or a slow one, may just be busy: open
        // connections may still work.
        if is_load(&error)
            && let Ok(reasons) = within(KEPT, self.check_kept()).await
        {
            return reasons;
        }
        // The reasons do not name hosts and roles; the log does.
        tracing::warn!(%error, "not ready");
        if are_missing(&error) {
            return migrations_missing(migrations::MIGRATIONS.iter().map(|m| m.version));
        }
        vec![format!("database: {}", self.reason(&error))]
    }

    async fn check_anew(&self) -> Result<Vec<String>, sqlx::Error> {
        let mut conn = db::attempt(&self.options, ROLES, ANEW).await?;
        let reasons = reasons_of(&mut conn).await;
        let _ = sqlx::Connection::close(conn).await;
        reasons
    }

    async fn check_kept(&self) -> Result<Vec<String>, sqlx::Error> {
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

/// Logs one line for each change.
fn log_change(before: &[String], now: &[String]) {
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
    // Without some rights, the state of migrations cannot be read.
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

/// The reason for a refusal that is neither load nor an outage.
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

/// Before the first migration, the roles do not exist.
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
