//! `webhooks backfill`

use clap::Args;
use jiff::{SignedDuration, Timestamp};

use super::Failure;
use super::database::on_database;
use super::output::{self, Format};
use crate::app::Database;
use crate::config::{GlobalArgs, StripeArgs};
use crate::maintenance::backfill::{self, BackfillError, Backfilled, KEPT};
use crate::stripe::client::{Client, Patience};

/// For jobs, which nobody waits for.
pub const PATIENCE: Patience = Patience {
    attempts: 5,
    total: std::time::Duration::from_secs(60),
    attempt: std::time::Duration::from_secs(30),
    pause: std::time::Duration::from_millis(500),
    counting: std::time::Duration::from_secs(10),
};

#[derive(Debug, Args)]
pub struct Backfill {
    /// Start: an age, such as 90m, 2h or 3d, or a time (RFC 3339).
    #[arg(long, value_name = "AGE|TIME")]
    since: String,
    /// Resume after this event, as printed by a run that ended early.
    #[arg(long, value_name = "EVT")]
    after: Option<String>,
    #[command(flatten)]
    stripe: StripeArgs,
    #[command(flatten)]
    format: Format,
}

impl Backfill {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let config = global.database()?;
        let since = since(&self.since, Timestamp::now())?;
        let client = stripe_client(&self.stripe, PATIENCE)?;
        on_database(&config, async |database| {
            self.run_on(&client, database, since).await
        })
        .await
    }

    async fn run_on(
        &self,
        client: &Client,
        database: &Database,
        since: Timestamp,
    ) -> Result<(), Failure> {
        let mut last = Backfilled::default();
        let options = database.service.clone();
        let run = backfill::run(client, options, since, self.after.clone(), |done| {
            last = done.clone();
            let reached = done.reached.map(|at| format!(", back to {at}"));
            output::say(&format!(
                "{} events read, {} stored, {} already there{}",
                done.read,
                done.stored,
                done.duplicates,
                reached.unwrap_or_default()
            ));
        });
        match run.await {
            Ok(done) => self.format.print(&done, |done| {
                format!("{} of {} events were missing", done.stored, done.read)
            }),
            Err(error) => Err(interrupted(&error, &self.since, last.last_event_id)),
        }
    }
}

fn interrupted(error: &BackfillError, since: &str, last: Option<String>) -> Failure {
    let go_on = last.map_or_else(String::new, |id| {
        format!(
            "; what was read is stored; resume with `webhooks backfill --since {since} --after {id}`"
        )
    });
    let message = format!("{error}{go_on}");
    match error {
        BackfillError::Stripe(error) if error.is_outage() => Failure::unreachable(message),
        BackfillError::Stripe(_) => Failure::failed(message),
        BackfillError::Inbox(_) => Failure::unreachable(message),
    }
}

/// The client for commands that need Stripe.
pub fn stripe_client(stripe: &StripeArgs, patience: Patience) -> Result<Client, Failure> {
    let api = stripe.check()?.api.ok_or_else(|| {
        Failure::usage("STRIPE_SECRET_KEY: is required by this command; set it to sk_test_…, sk_live_… or rk_…")
    })?;
    Client::new(api.base, api.key, patience).map_err(|error| Failure::failed(error.to_string()))
}

/// Parses `--since`, which Stripe limits to 30 days.
fn since(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    let time = moment(text, now)?;
    if now.duration_since(time) > KEPT {
        return Err(Failure::usage(
            "--since: Stripe keeps events for 30 days only",
        ));
    }
    Ok(time)
}

/// Parses `--since`: an age or a time.
pub fn moment(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    let text = text.trim();
    let time = match text.parse::<Timestamp>() {
        Ok(time) => Some(time),
        Err(_) => age(text).and_then(|age| now.checked_sub(age).ok()),
    };
    let time = time.ok_or_else(|| {
        Failure::usage(format!(
            "--since: expected an age (90m, 2h, 3d) or a time (2026-01-31T12:00:00Z), got `{text}`"
        ))
    })?;
    if time > now {
        return Err(Failure::usage("--since: is in the future"));
    }
    Ok(time)
}

fn age(text: &str) -> Option<SignedDuration> {
    let unit = text.chars().last()?;
    let number: i64 = text.strip_suffix(unit)?.parse().ok().filter(|n| *n > 0)?;
    let secs = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return None,
    };
    number.checked_mul(secs).map(SignedDuration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_an_age_or_a_time() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let read = |text: &str| since(text, now).map(|time| time.to_string());
        assert_eq!(read("2h").unwrap(), "2026-11-23T10:00:00Z");
        assert_eq!(read("30d").unwrap(), "2026-10-24T12:00:00Z");
        assert_eq!(read("90m").unwrap(), "2026-11-23T10:30:00Z");
        let time = "2026-11-20T00:00:00Z";
        assert_eq!(read(time).unwrap(), time);
        for wrong in [
            "",
            "h",
            "0h",
            "-1h",
            "2w",
            "1.5h",
            "31d",
            "2026-11-24T00:00:00Z",
            "99999999999999999d",
        ] {
            let failure = read(wrong).unwrap_err();
            assert_eq!(failure.status, 2, "{wrong}");
        }
    }
}
