//! `import`

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan as _};
use sqlx::postgres::PgPool;

use super::Failure;
use super::backfill::{PATIENCE, stripe_client};
use super::database::on_database;
use super::output::{Format, counted, printable, say, table};
use crate::catalogue::Catalogue;
use crate::config::{GlobalArgs, StripeArgs};
use crate::db;
use crate::maintenance::stripe_import::{self, ImportError};
use crate::subscriptions::Subscriptions;
use crate::subscriptions::import::{
    Beginning, CustomerMap, Finding, ImportReport, MapError, Reason, Terms,
};

/// How many findings of a kind are shown to people; JSON has all.
const SHOWN: usize = 20;
/// A plain line of progress is written for so many objects.
const EACH: u64 = 1_000;

#[derive(Debug, Subcommand)]
pub enum Import {
    /// Bring the customers of an existing Stripe account here, with their subscriptions,
    /// payment methods, invoices and payments.
    ///
    /// Safe to repeat, and beside the running service. Nothing changes in Stripe, unless
    /// --stamp is given. Begin with --dry-run.
    Stripe(Stripe),
}

#[derive(Debug, Args)]
pub struct Stripe {
    /// Say what maps and what does not, and why, and change nothing.
    #[arg(long, help_heading = None)]
    dry_run: bool,
    /// A file that says which organization a customer is: CSV with the header
    /// `customer,organization`; organizations by the product's ids or ours.
    #[arg(long, value_name = "FILE.csv")]
    map: Option<PathBuf>,
    /// Make an organization of each customer that neither the map nor its metadata names
    /// one for; what its metadata call it becomes the external id.
    #[arg(long, help_heading = None, conflicts_with = "resume")]
    create_organizations: bool,
    /// How far back to bring invoices and payments: an age (24mo, 2y, 90d) or a time.
    #[arg(
        long,
        value_name = "AGE|TIME",
        default_value = "24mo",
        conflicts_with = "resume"
    )]
    invoices_since: String,
    /// Write each customer's organization into its metadata in Stripe, where none is named.
    #[arg(long, help_heading = None, conflicts_with = "resume")]
    stamp: bool,
    /// Go on with the import that was interrupted, as it was asked for; give its map again.
    #[arg(long, help_heading = None, conflicts_with = "dry_run")]
    resume: bool,
    /// The most calls to Stripe a second. Stripe takes 25 with a test key and 100 with a
    /// live one, which the service needs as well.
    #[arg(long, value_name = "CALLS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    #[command(flatten)]
    stripe: StripeArgs,
    #[command(flatten)]
    format: Format,
}

impl Import {
    pub async fn run(self, global: &GlobalArgs) -> Result<(), Failure> {
        let Self::Stripe(asked) = self;
        let now = Timestamp::now();
        let since = since(&asked.invoices_since, now)?;
        let config = global.database()?;
        let stripe = asked.stripe.check()?;
        let catalogue = Catalogue::load(stripe.plans_file.as_deref())?;
        let live = stripe
            .api
            .as_ref()
            .is_some_and(|_| stripe.key_is_live == Some(true));
        let client = stripe_client(&asked.stripe, PATIENCE)?.paced(asked.rate);
        let file = asked.map.as_deref().map(open).transpose()?;
        on_database(&config, async |database| {
            let pool = db::pool(database.service.clone(), 6);
            let map = match file {
                Some(file) => CustomerMap::read(&pool, file).await?,
                None => CustomerMap::default(),
            };
            let subscriptions = Subscriptions::new(
                pool.clone(),
                db::lookup_pool(database.service.clone(), 1),
                Arc::new(catalogue),
                Some(client),
            );
            asked.run_on(&pool, &subscriptions, &map, since, live).await
        })
        .await
    }
}

impl Stripe {
    async fn run_on(
        &self,
        pool: &PgPool,
        subscriptions: &Subscriptions,
        map: &CustomerMap,
        since: Timestamp,
        live: bool,
    ) -> Result<(), Failure> {
        let (source, other_mode) = subscriptions.import_source(live).await?;
        if other_mode {
            let (this, that) = if live {
                ("live", "test")
            } else {
                ("test", "live")
            };
            return Err(Failure::usage(format!(
                "STRIPE_SECRET_KEY: is a key of {this} mode, and what is here is of {that} mode; \
                 nothing was done: use the key that the service has"
            )));
        }
        let terms = Terms {
            create_organizations: self.create_organizations,
            since,
            stamp: self.stamp,
            map_digest: map.digest().to_owned(),
            source,
        };
        let progress = Progress::new();
        let heard = |kind: &'static str, number: u64| progress.hear(kind, number);
        if self.dry_run {
            let report = subscriptions.rehearse_import(map, &terms, &heard).await;
            progress.end();
            return self.report(&report?, Ok(()));
        }
        let begin = async || match self.resume {
            false => {
                if subscriptions.unfinished_import().await?.is_some() {
                    say(
                        "an import was interrupted; this one begins anew (--resume goes on with it)",
                    );
                }
                Ok(Beginning::New(terms))
            }
            true => {
                let import = subscriptions.unfinished_import().await?;
                let import = import.ok_or(ImportError::NothingToResume)?;
                if import.terms.source != terms.source {
                    return Err(ImportError::OtherAccount);
                }
                if import.terms.map_digest != map.digest() {
                    return Err(ImportError::OtherMap);
                }
                Ok(Beginning::Resumed(import))
            }
        };
        let done = stripe_import::run(pool, subscriptions, map, begin, &heard).await;
        progress.end();
        let (report, ended) = done?;
        let ended = ended.map_err(|failure| {
            let mut failure = Failure::from(failure);
            let message = failure.message.take().unwrap_or_default();
            failure.message = Some(format!(
                "{message}; what was done stays: `import stripe --resume` goes on"
            ));
            failure
        });
        self.report(&report, ended)
    }

    /// Prints what was found and done, also where a failure has ended it.
    fn report(&self, report: &ImportReport, ended: Result<(), Failure>) -> Result<(), Failure> {
        self.format.print(report, describe)?;
        ended?;
        if report.is_whole() {
            Ok(())
        } else {
            Err(Failure::silent())
        }
    }
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| Failure::usage(format!("--map: {}: {error}", path.display())))
}

/// Parses `--invoices-since`: an age or a time.
fn since(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    let text = text.trim();
    let time = match text.parse::<Timestamp>() {
        Ok(time) => Some(time),
        Err(_) => age(text).and_then(|age| {
            let now = now.to_zoned(TimeZone::UTC);
            Some(now.checked_sub(age).ok()?.timestamp())
        }),
    };
    let expected = "expected an age (24mo, 2y, 90d) or a time (2026-01-31T12:00:00Z) that is past";
    time.filter(|time| *time <= now)
        .ok_or_else(|| Failure::usage(format!("--invoices-since: {expected}, got `{text}`")))
}

fn age(text: &str) -> Option<Span> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: i32 = number.parse().ok().filter(|n| (1..=10_000).contains(n))?;
    match unit {
        "d" => Some(number.days()),
        "mo" => Some(number.months()),
        "y" if number <= 100 => Some(number.years()),
        _ => None,
    }
}

/// What is under way, on stderr: a line that is overwritten on a terminal, plain lines
/// elsewhere.
struct Progress {
    terminal: bool,
    told: Mutex<(&'static str, u64)>,
}

impl Progress {
    fn new() -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            told: Mutex::new(("", 0)),
        }
    }

    fn hear(&self, kind: &'static str, number: u64) {
        if number == 0 {
            return;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if self.terminal {
            let _ = write!(io::stderr(), "\r\u{1b}[K{number} {kind}");
            *told = (kind, number);
            return;
        }
        let (last, before) = *told;
        if last != kind || number / EACH > before / EACH {
            say(&format!("{number} {kind}"));
            *told = (kind, number);
        }
    }

    fn end(&self) {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if self.terminal && told.1 > 0 {
            let _ = writeln!(io::stderr());
        }
    }
}

fn describe(report: &ImportReport) -> String {
    let mut text = String::new();
    let mut of_reason = BTreeMap::<Reason, Vec<&Finding>>::new();
    for finding in &report.findings {
        of_reason.entry(finding.reason).or_default().push(finding);
    }
    for (reason, findings) in of_reason {
        let number = findings.len();
        let what = counted(number, "finding");
        text.push_str(&format!("{}: {what}; {}\n", reason.as_str(), reason.fix()));
        let shown = findings.iter().take(SHOWN).map(|finding| {
            let subscription = finding.subscription.as_deref().unwrap_or_default();
            vec![
                format!("  {}", finding.customer),
                subscription.to_owned(),
                printable(&finding.detail),
            ]
        });
        let rows: Vec<Vec<String>> = shown.collect();
        text.push_str(&table(&["  CUSTOMER", "SUBSCRIPTION", "WHY"], &rows));
        if number > SHOWN {
            text.push_str(&format!(
                "\n  … and {} more: --json has all",
                number - SHOWN
            ));
        }
        text.push_str("\n\n");
    }
    let source = &report.source;
    text.push_str(&format!(
        "account {}, {} mode\n",
        source.account.as_deref().unwrap_or("unknown"),
        if source.livemode { "live" } else { "test" }
    ));
    let customers = &report.customers;
    text.push_str(&format!(
        "{} in Stripe: {} linked already, {} by the map, {} by metadata, {} as new organizations, \
         {} not imported\n",
        counted(customers.found, "customer"),
        customers.linked,
        customers.by_file,
        customers.by_metadata,
        customers.new,
        customers.not_imported
    ));
    let statuses = report.subscriptions.iter();
    let statuses: Vec<String> = statuses
        .map(|(status, n)| format!("{n} {status}"))
        .collect();
    let total = report.subscriptions.values().sum::<usize>();
    text.push_str(&counted(total, "subscription"));
    if !statuses.is_empty() {
        text.push_str(&format!(": {}", statuses.join(", ")));
    }
    if report.dry_run {
        text.push_str("\nnothing was changed");
        return text;
    }
    let rows: Vec<Vec<String>> = report
        .done
        .iter()
        .map(|(kind, count)| {
            vec![
                kind.replace('_', " "),
                count.seen.to_string(),
                count.written.to_string(),
            ]
        })
        .collect();
    text.push_str(&format!("\n\n{}", table(&["", "SEEN", "WRITTEN"], &rows)));
    text
}

impl From<MapError> for Failure {
    fn from(error: MapError) -> Self {
        match error {
            MapError::Database(error) => error.into(),
            MapError::Wrong(_) => Self::usage(format!("--map: nothing was done\n{error}")),
        }
    }
}

impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Database(error) => error.into(),
            ImportError::Failed(failure) => failure.into(),
            ImportError::OtherMap => Self::usage(format!("--map: {error}")),
            ImportError::OtherAccount => Self::usage(format!("STRIPE_SECRET_KEY: {error}")),
            other => Self::failed(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invoices_are_brought_since_an_age_or_a_time() {
        let now: Timestamp = "2026-03-31T12:00:00Z".parse().unwrap();
        let read = |text: &str| since(text, now).map(|time| time.to_string());
        assert_eq!(read("24mo").unwrap(), "2024-03-31T12:00:00Z");
        assert_eq!(read("1mo").unwrap(), "2026-02-28T12:00:00Z");
        assert_eq!(read("2y").unwrap(), "2024-03-31T12:00:00Z");
        assert_eq!(read("90d").unwrap(), "2025-12-31T12:00:00Z");
        assert_eq!(
            read("2020-01-01T00:00:00Z").unwrap(),
            "2020-01-01T00:00:00Z"
        );
        for wrong in [
            "",
            "mo",
            "0d",
            "-1d",
            "24",
            "1.5y",
            "2w",
            "99999999999d",
            "2027-01-01T00:00:00Z",
        ] {
            assert_eq!(read(wrong).unwrap_err().status, 2, "{wrong}");
        }
    }
}
