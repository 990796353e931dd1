//! `doctor`: checks before and after a deployment, each with a verdict and a fix.
//!
//! Nothing here changes anything.

mod configuration;
mod database;
mod deliveries;
mod disk;
mod guards;
mod issuer;
mod jobs;
mod mail;
mod operators;
mod outbound;
mod service;
mod stripe;
mod subscriptions;
mod usage;

use embedded_postgres::Watch;
use serde::Serialize;
use sqlx::postgres::PgConnectOptions;

use crate::db::{self, DatabaseError, OpeningRefused};

pub use configuration::{Leniency, check as check_configuration};
pub use database::check as check_database;
pub use disk::check as check_disk;
pub use issuer::check as check_issuer;
pub use jobs::check as check_jobs;
pub use mail::{check as check_mails, check_server as check_mail_server};
pub use operators::check_provider;
pub use outbound::check as check_outbound;
pub use service::{Service, check as check_service};
pub use stripe::check as check_stripe;
pub use subscriptions::check as check_subscriptions;
pub use usage::check as check_usage;

/// Maximum difference between clocks; beyond it, signatures begin to fail.
const SKEW_SECS: u64 = 60;

/// The database, as it is checked.
pub trait Subject {
    /// For `serve` and the jobs.
    fn service(&self) -> &PgConnectOptions;
    /// For migrations.
    fn owner(&self) -> &PgConnectOptions;
    /// The embedded server, if it is that.
    fn embedded(&self) -> Option<Watch>;
    fn check_login(&self) -> impl Future<Output = Result<(), DatabaseError>>;
    fn check_owner(&self) -> impl Future<Output = Result<(), DatabaseError>>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// It works, but an operator should look at it.
    Warning,
    Failed,
    /// A prerequisite is not configured or failed.
    Skipped,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    pub name: &'static str,
    pub verdict: Verdict,
    pub detail: String,
    /// What to do, if anything.
    pub fix: Option<String>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Verdict::Ok, detail, None)
    }

    fn warning(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(name, Verdict::Warning, detail, Some(fix.into()))
    }

    fn failed(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(name, Verdict::Failed, detail, Some(fix.into()))
    }

    fn skipped(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, Verdict::Skipped, detail, None)
    }

    /// A check that the database did not answer.
    fn unanswered(name: &'static str, error: sqlx::Error) -> Self {
        let (verdict, fix) = unanswered(&error);
        let error = db::opening_refusal(error);
        match verdict {
            Verdict::Skipped => {
                let detail =
                    format!("not possible with the service's login: see `login` ({error})");
                Self::skipped(name, detail)
            }
            verdict => Self::new(name, verdict, error.to_string(), Some(fix)),
        }
    }

    fn new(
        name: &'static str,
        verdict: Verdict,
        detail: impl Into<String>,
        fix: Option<String>,
    ) -> Self {
        Self {
            name,
            verdict,
            detail: detail.into(),
            fix,
        }
    }
}

/// The verdict and the fix for a database error. Logins that are refused, or may
/// not become the service's roles, have a check of their own.
fn unanswered(error: &sqlx::Error) -> (Verdict, String) {
    let refused_role =
        matches!(error, sqlx::Error::Configuration(cause) if cause.is::<OpeningRefused>());
    let state = db::sql_state(error).unwrap_or_default();
    if refused_role || state.starts_with("28") {
        return (Verdict::Skipped, String::new());
    }
    let fix = match &*state {
        // Undefined tables and columns, and missing privileges.
        state if state.starts_with("42") => "run `migrate up`, then `migrate verify`".to_owned(),
        _ if db::is_outage(error) => connection_fix(error, "DATABASE_URL"),
        _ if db::is_conflict(error) || db::is_timeout(error) => {
            "try again: the database was busy; if this persists, see its log".to_owned()
        }
        _ => "run `migrate verify`; if it finds nothing, see the database's log".to_owned(),
    };
    (Verdict::Failed, fix)
}

/// What to do about a connection that failed or was lost.
fn connection_fix(error: &sqlx::Error, variable: &str) -> String {
    match db::sql_state(error).as_deref() {
        Some(code) if code.starts_with("28") => format!(
            "the server refuses the login: check the role and the password in {variable}, and pg_hba.conf; \
             a changed password takes effect when the service restarts"
        ),
        Some("3D000") => format!("check the database's name in {variable}"),
        Some("53300") => {
            "raise max_connections, or run fewer replicas; see docs/database.md, Connections"
                .to_owned()
        }
        Some("57P03") => "wait until the server has started".to_owned(),
        Some("25006") => {
            "name the primary in DATABASE_URL, or find out why the database is read-only".to_owned()
        }
        Some(code) if code.starts_with("53") => {
            "the server lacks disk space or memory; free some".to_owned()
        }
        None if matches!(error, sqlx::Error::PoolTimedOut) => format!(
            "check {variable}, and that PostgreSQL runs; behind PgBouncer, all connections of its pool may be \
             in use: {}",
            db::RAISE
        ),
        _ => format!("check {variable}, and that PostgreSQL runs"),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn the_database_error_decides_the_verdict() {
        let of = |error: sqlx::Error| Check::unanswered("backlog", error);
        let away = of(sqlx::Error::Io(io::ErrorKind::ConnectionRefused.into()));
        assert_eq!(away.verdict, Verdict::Failed);
        assert!(away.fix.unwrap().contains("DATABASE_URL"));
        let garbled = of(sqlx::Error::RowNotFound);
        assert_eq!(garbled.verdict, Verdict::Failed);
        assert!(garbled.fix.unwrap().contains("migrate verify"));
        let refused = OpeningRefused(sqlx::Error::RowNotFound);
        let refused = of(sqlx::Error::Configuration(Box::new(refused)));
        assert_eq!((refused.verdict, refused.fix), (Verdict::Skipped, None));
        assert!(refused.detail.contains("`login`"), "{}", refused.detail);
    }
}
