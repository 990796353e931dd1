//! Whether customers get their mails.

use sqlx::postgres::PgPool;

use super::Check;
use crate::config::{ConfigError, MailConfig};
use crate::mail::{self, Server};
use crate::telemetry::terminal::counted;

/// A mail that has waited longer is late.
const LATE_SECS: i64 = 3_600;

/// Mails as the database has them.
pub async fn check(pool: &PgPool) -> Check {
    let name = "mails";
    let state = match mail::state(pool).await {
        Ok(state) => state,
        Err(error) => return Check::unanswered(name, error),
    };
    let Some(searched_secs) = state.searched_secs else {
        return Check::skipped(name, "mails were never switched on (SMTP_URL)");
    };
    if let Some(secs) = state.oldest_secs.filter(|secs| *secs > LATE_SECS) {
        return Check::failed(
            name,
            format!(
                "a mail has waited for {} minutes; facts were last looked for {} minutes ago",
                secs / 60,
                searched_secs / 60
            ),
            "see `mails list --status pending`, and that `serve` runs with SMTP_URL and workers \
             (docs/runbook.md, MailsLate)",
        );
    }
    if state.failed > 0 {
        return Check::warning(
            name,
            format!(
                "{} given up within a week, the last since: {}",
                counted(state.failed.unsigned_abs(), "mail"),
                state.last_error.unwrap_or_default()
            ),
            "see `mails list --status failed`; once it is mended, `mails retry` \
             (docs/runbook.md, MailsFailed)",
        );
    }
    if state.unaddressed > 0 {
        return Check::warning(
            name,
            format!(
                "{} not sent within a week because the organization has no e-mail address",
                counted(state.unaddressed.unsigned_abs(), "mail")
            ),
            "give organizations an `email` (PATCH /api/organizations/{id}); `mails list --status \
             withdrawn` shows which",
        );
    }
    Check::ok(name, "none is late, and none was given up within a week")
}

/// The server that takes mails, asked with the settings of this command.
pub async fn check_server(config: Option<&MailConfig>) -> Check {
    let name = "mail server";
    let Some(config) = config else {
        return Check::skipped(name, "SMTP_URL is not set: no mails are sent");
    };
    match reach(config).await {
        Ok(Ok(())) => Check::ok(name, "takes a connection, and the login if there is one"),
        Ok(Err(problem)) => Check::failed(
            name,
            format!("{}:{}: {problem}", config.smtp.host, config.smtp.port),
            "check SMTP_URL and SMTP_PASSWORD, and that the server is reached from here",
        ),
        Err(error) => Check::failed(name, error.to_string(), "mend the template or the setting"),
    }
}

async fn reach(config: &MailConfig) -> Result<Result<(), mail::Problem>, ConfigError> {
    mail::check_templates(config.templates_dir.as_deref())?;
    let connected = Server::new(&config.smtp)?.connect().await;
    Ok(match connected {
        Ok(session) => {
            session.close().await;
            Ok(())
        }
        Err(problem) => Err(problem),
    })
}
