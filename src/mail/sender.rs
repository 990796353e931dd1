//! Sends mails that are due, one by one: leased, read anew, rendered, handed over, and
//! marked. Whoever dies between handing a mail over and marking it leaves that one to be
//! sent again, under the same Message-ID.

use std::sync::Arc;
use std::time::{Duration, Instant};

use billing_domain::retry::Backoff;
use jiff::{SignedDuration, Timestamp};
use lettre::Message;
use lettre::message::Mailbox;
use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;

use super::content::{self, Finding, Site};
use super::kind::Kind;
use super::message::{MessageError, message};
use super::server::{Problem, Server, Session};
use super::store::sending::{self as store, Due, Outcome};
use super::templates::Templates;
use crate::catalogue::Catalogue;
use crate::config::{ConfigError, MailConfig};
use crate::db::{self, WorkerTx};
use crate::telemetry::metrics;

/// Longer than connecting, sending and recording take.
const LEASE_SECS: f64 = 120.0;
/// From half a minute to an hour, 48 times: about two days.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_secs(30),
    longest: Duration::from_secs(3_600),
};
const MOST_ATTEMPTS: u32 = 48;
/// After so long, the part's run ends, and the next begins.
const RUN: Duration = Duration::from_secs(5);
/// How long an outcome is recorded again where the database is away.
const RECORD_PATIENCE: Duration = Duration::from_secs(30);
const RECORD_PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
pub enum SendError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("the mail server takes no mails: {0}")]
    Server(String),
}

/// Whether there may be more to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    All,
    Some,
}

/// What mails are made and sent with.
#[derive(Clone)]
pub struct Mailer(Arc<Inner>);

struct Inner {
    server: Server,
    from: Mailbox,
    templates: Templates,
    site: Site,
    catalogue: Arc<Catalogue>,
}

/// What is to be done about a mail that was leased.
enum Task {
    /// Hand it over.
    Send(Box<Message>, String),
    /// It is decided already.
    Record(Outcome),
}

impl Mailer {
    pub fn new(
        config: &MailConfig,
        site: Site,
        catalogue: Arc<Catalogue>,
    ) -> Result<Self, ConfigError> {
        Ok(Self(Arc::new(Inner {
            server: Server::new(&config.smtp)?,
            from: config.from.clone(),
            templates: Templates::load(config.templates_dir.as_deref())?,
            site,
            catalogue,
        })))
    }

    /// Sends what is due. A server that takes nothing ends the run: the others would fare
    /// no better.
    pub async fn send_due(
        &self,
        pool: &PgPool,
        stop: &CancellationToken,
    ) -> Result<Sent, SendError> {
        let began = Instant::now();
        let mut session = None;
        let ended = loop {
            if stop.is_cancelled() || began.elapsed() > RUN {
                break Ok(Sent::Some);
            }
            match self.send_one(pool, &mut session, stop).await {
                Ok(true) => {}
                Ok(false) => break Ok(Sent::All),
                Err(error) => break Err(error),
            }
        };
        if let Some(session) = session {
            session.close().await;
        }
        ended
    }

    /// Returns false if nothing is due.
    async fn send_one(
        &self,
        pool: &PgPool,
        session: &mut Option<Session>,
        stop: &CancellationToken,
    ) -> Result<bool, SendError> {
        let mut tx = WorkerTx::begin(pool).await?;
        let Some(due) = store::claim(tx.conn(), LEASE_SECS).await? else {
            return Ok(false);
        };
        let task = self.task(&mut tx, &due).await?;
        tx.commit().await?;
        let (outcome, recipient, unreachable) = match task {
            Task::Record(outcome) => (outcome, None, None),
            Task::Send(message, recipient) => match self.hand_over(session, &message).await {
                Ok(()) => (Outcome::Sent, Some(recipient), None),
                Err(problem) => {
                    *session = None;
                    let (error, unreachable) = match &problem {
                        Problem::Unreachable(error) => (error.clone(), Some(error.clone())),
                        Problem::PutOff(error) | Problem::Refused(error) => (error.clone(), None),
                    };
                    let outcome = match problem {
                        Problem::Refused(_) => Outcome::Failed { error },
                        _ => after_failure(&due, error, Timestamp::now(), rand::random()),
                    };
                    (outcome, Some(recipient), unreachable)
                }
            },
        };
        record(pool, &due, recipient.as_deref(), &outcome, stop).await?;
        match unreachable {
            Some(error) => Err(SendError::Server(error)),
            None => Ok(true),
        }
    }

    /// Reads what the mail tells of, and makes the message of it.
    async fn task(&self, tx: &mut WorkerTx, due: &Due) -> Result<Task, sqlx::Error> {
        let inner = &*self.0;
        let Some(kind) = Kind::parse(&due.kind) else {
            let error = format!(
                "this version of the program has no mails of kind {}",
                due.kind
            );
            return Ok(Task::Record(after_failure(
                due,
                error,
                Timestamp::now(),
                rand::random(),
            )));
        };
        let found = content::read(tx.conn(), due, kind, &inner.site, &inner.catalogue).await?;
        let letter = match found {
            Finding::Say(letter) => letter,
            Finding::Withdraw(reason) => return Ok(Task::Record(Outcome::Withdrawn { reason })),
        };
        let rendered = match inner.templates.render(kind, &letter.content) {
            Ok(rendered) => rendered,
            Err(error) => {
                return Ok(Task::Record(Outcome::Failed {
                    error: format!("the template failed: {error}"),
                }));
            }
        };
        let made = message(due.id, &inner.from, &letter.recipient, rendered);
        Ok(match made {
            Ok(message) => Task::Send(Box::new(message), letter.recipient),
            Err(error @ (MessageError::Address | MessageError::Message(_))) => {
                Task::Record(Outcome::Failed {
                    error: error.to_string(),
                })
            }
        })
    }

    async fn hand_over(
        &self,
        session: &mut Option<Session>,
        message: &Message,
    ) -> Result<(), Problem> {
        let connected = match session.take() {
            Some(connected) => connected,
            None => self.0.server.connect().await?,
        };
        session.insert(connected).send(message).await
    }
}

/// What follows an attempt at `now` that failed for a reason that may pass.
fn after_failure(due: &Due, error: String, now: Timestamp, jitter: u32) -> Outcome {
    let failed_before = u32::try_from(due.attempts).unwrap_or(u32::MAX);
    if failed_before.saturating_add(1) >= MOST_ATTEMPTS {
        return Outcome::Failed { error };
    }
    let delay = BACKOFF.jittered(failed_before, jitter);
    let delay = SignedDuration::try_from(delay).unwrap_or(SignedDuration::MAX);
    Outcome::Retry {
        at: now.saturating_add(delay).unwrap_or(Timestamp::MAX),
        error,
    }
}

/// Records an outcome, also while the database is away for a moment.
async fn record(
    pool: &PgPool,
    due: &Due,
    recipient: Option<&str>,
    outcome: &Outcome,
    stop: &CancellationToken,
) -> Result<(), sqlx::Error> {
    let since = Instant::now();
    let recorded = loop {
        match try_record(pool, due, recipient, outcome).await {
            Err(error)
                if db::is_outage(&error)
                    && since.elapsed() < RECORD_PATIENCE
                    && !stop.is_cancelled() =>
            {
                tokio::time::sleep(RECORD_PAUSE).await;
            }
            recorded => break recorded?,
        }
    };
    if !recorded {
        tracing::warn!(mail = %due.id, kind = due.kind,
            "A mail's lease was lost before its outcome was recorded; it may be sent twice");
        return Ok(());
    }
    metrics::mail::outcome(&due.kind, outcome.as_str());
    match outcome {
        Outcome::Failed { error } => {
            tracing::error!(mail = %due.id, kind = due.kind, organization_id = %due.organization_id,
                error, "A mail was given up; `mails retry` tries it again");
        }
        Outcome::Withdrawn { reason } => {
            tracing::info!(mail = %due.id, kind = due.kind, organization_id = %due.organization_id,
                reason, "A mail was not sent");
        }
        Outcome::Sent | Outcome::Retry { .. } => {}
    }
    Ok(())
}

async fn try_record(
    pool: &PgPool,
    due: &Due,
    recipient: Option<&str>,
    outcome: &Outcome,
) -> Result<bool, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    let recorded = store::record(tx.conn(), due, recipient, outcome).await?;
    tx.commit().await?;
    Ok(recorded)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_mail_is_tried_for_two_days_and_given_up() {
        let due = |attempts| Due {
            organization_id: Uuid::nil(),
            id: Uuid::nil(),
            lease_id: Uuid::nil(),
            kind: "trial_ending".to_owned(),
            fact: "sub_1".to_owned(),
            resource_id: "sub_1".to_owned(),
            about_at: None,
            attempts,
        };
        let now = Timestamp::UNIX_EPOCH;
        let after = |attempts| after_failure(&due(attempts), "busy".to_owned(), now, u32::MAX);
        let pauses: Vec<i64> = (0..47)
            .map_while(|attempts| match after(attempts) {
                Outcome::Retry { at, .. } => Some(at.as_second()),
                _ => None,
            })
            .collect();
        assert_eq!(pauses.len(), 47);
        assert!(pauses.is_sorted() && pauses[0] <= 30, "{pauses:?}");
        let hours = pauses.iter().sum::<i64>() / 3_600;
        assert!((38..48).contains(&hours), "{hours}");
        assert!(matches!(after(47), Outcome::Failed { .. }));
    }
}
