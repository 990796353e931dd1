//! The home page: whether all is well, and what to do where it is not.

use std::sync::Arc;
use std::time::Duration;

use axum::extract;
use axum::response::Response;
use jiff::{SignedDuration, Timestamp};
use sqlx::postgres::PgPool;
use uuid::Uuid;

use super::beside::{Beside, Kept};
use super::organizations::Names;
use super::screen::{Bar, Block, Card, Cell, Grid, Refusal, Screen, Tone, grouped};
use super::session::Signed;
use super::time::span;
use super::{Console, dead_letters, explained, webhooks};
use crate::catalogue::Catalogue;
use crate::db::WorkerTx;
use crate::doctor::{self, Check, Verdict};
use crate::maintenance::{self, LastRun, Retried};
use crate::metering::grace;
use crate::stripe::requests;
use crate::webhooks::{self as events, Backlog, Hour};

/// An event that waits longer than this is late.
const LATE_SECS: i64 = 600;
/// How long verdicts are shown before they are made anew: they read more than a page should.
const FRESH: Duration = Duration::from_secs(30);

/// Grace periods that are shown.
const NEXT_GRACES: i64 = 10;
/// A request that has no answer for longer than this is open.
const IN_FLIGHT: SignedDuration = SignedDuration::from_mins(5);

/// The verdicts of `doctor` that need nothing but the database, and the hours.
pub type Verdicts = Beside<Found>;

#[derive(Clone)]
pub struct Found {
    checks: Vec<Check>,
    /// What came in by the hour; `None` if it could not be read.
    hours: Option<Vec<Hour>>,
}

async fn find(pool: PgPool, catalogue: Arc<Catalogue>) -> Option<Found> {
    let mut checks = doctor::check_jobs(&pool).await;
    checks.extend(doctor::check_usage(&pool, &catalogue).await);
    checks.push(doctor::check_outbound(&pool).await);
    checks.push(doctor::check_mails(&pool).await);
    checks.extend(doctor::check_subscriptions(&pool, &catalogue).await);
    let hours = by_hour(&pool).await;
    let hours = hours.inspect_err(|error| {
        tracing::warn!(%error, "the home page cannot show what came in by the hour");
    });
    Some(Found {
        checks,
        hours: hours.ok(),
    })
}

/// It counts a day of events, which is more than a page should read.
async fn by_hour(pool: &PgPool) -> Result<Vec<Hour>, sqlx::Error> {
    let mut tx = WorkerTx::begin(pool).await?;
    events::hours(tx.conn()).await
}

pub async fn page(
    extract::State(console): extract::State<Arc<Console>>,
    signed: Signed,
) -> Result<Response, Refusal> {
    let pool = &console.shared.pool;
    let reasons = (console.readiness)().await;
    let mut tx = WorkerTx::begin(pool).await?;
    let backlog = events::backlog(tx.conn()).await?;
    let graces = grace::active_by_metric(tx.conn()).await?;
    let ending = grace::ending(tx.conn(), NEXT_GRACES).await?;
    let unsettled = requests::unsettled(tx.conn(), IN_FLIGHT).await?;
    tx.commit().await?;
    let drift = maintenance::drift_left(pool).await?;
    let names = Names::of(&console, ending.iter().map(|(id, ..)| *id)).await?;
    let runs = maintenance::last_runs(pool, &maintenance::SCHEDULED).await?;
    let retried = maintenance::retried_today(pool).await?;
    let finding = find(pool.clone(), console.catalogue.clone());
    let checks = console.verdicts.get(FRESH, finding).await;
    let screen = Screen::new(&signed, "/console", "Home")
        .with(health(&reasons))
        .with(Block::Cards(vec![
            waiting(&backlog),
            letters(&backlog),
            success(retried),
            in_grace(graces.values().sum(), graces.len()),
            open_requests(unsettled),
            drifted(&drift, &runs),
        ]))
        .with(findings(checks.as_ref()))
        .with_all(
            checks
                .as_ref()
                .and_then(|kept| kept.value.hours.as_deref())
                .map(intake),
        )
        .with(ending_graces(&ending, &names))
        .with(jobs(&runs));
    Ok(screen.answer())
}

fn health(reasons: &[String]) -> Block {
    match reasons.is_empty() {
        true => webhooks::notice(
            Tone::Good,
            "Ready",
            "Requests are served, and events stored.",
        ),
        false => webhooks::notice(Tone::Bad, "Not ready", &reasons.join("; ")),
    }
}

fn waiting(backlog: &Backlog) -> Card {
    let late = backlog.oldest_unprocessed_secs > LATE_SECS;
    Card {
        label: "Oldest event not processed",
        value: match backlog.unprocessed {
            0 => "none".to_owned(),
            _ => span(backlog.oldest_unprocessed_secs),
        },
        note: format!("{} wait", grouped(backlog.unprocessed)),
        tone: if late { Tone::Bad } else { Tone::Good },
        href: Some(format!("{}?status=unprocessed", webhooks::PATH)),
    }
}

fn letters(backlog: &Backlog) -> Card {
    Card {
        label: "Dead letters",
        value: grouped(backlog.dead_letters),
        note: match backlog.dead_letters {
            0 => "every event was applied".to_owned(),
            _ => "replay or discard them".to_owned(),
        },
        tone: match backlog.dead_letters {
            0 => Tone::Good,
            _ => Tone::Warn,
        },
        href: Some(dead_letters::PATH.to_owned()),
    }
}

/// Of the events that were tried again, since all others succeeded at once.
fn success(retried: Retried) -> Card {
    let ended = retried.ended();
    let percent = (retried.succeeded * 100).checked_div(ended);
    Card {
        label: "Retries that succeeded",
        value: percent.map_or_else(|| "none".to_owned(), |percent| format!("{percent} %")),
        note: match ended {
            0 => "no event needed one within a day".to_owned(),
            _ => format!(
                "{} of {} within a day",
                grouped(retried.succeeded),
                grouped(ended)
            ),
        },
        tone: match percent {
            Some(percent) if percent < 95 => Tone::Bad,
            Some(_) => Tone::Good,
            None => Tone::Plain,
        },
        href: None,
    }
}

fn in_grace(periods: i64, metrics: usize) -> Card {
    Card {
        label: "Grace periods running",
        value: grouped(periods),
        note: match metrics {
            0 => "nobody is over a grace quota".to_owned(),
            1 => "of 1 metric".to_owned(),
            many => format!("of {many} metrics"),
        },
        tone: if periods > 0 { Tone::Warn } else { Tone::Plain },
        href: None,
    }
}

/// Those that nobody has heard the answer of.
fn open_requests((abandoned, open): (i64, i64)) -> Card {
    Card {
        label: "Requests to Stripe without an answer",
        value: grouped(open + abandoned),
        note: match abandoned {
            0 => "serve asks for what is open".to_owned(),
            _ => format!("{} given up: see the findings", grouped(abandoned)),
        },
        tone: match (abandoned, open) {
            (0, 0) => Tone::Good,
            (0, _) => Tone::Warn,
            _ => Tone::Bad,
        },
        href: None,
    }
}

/// What the newest reconciliation left.
fn drifted(drift: &[(&'static str, u64)], runs: &[LastRun]) -> Card {
    let ran = runs
        .iter()
        .any(|run| run.job == maintenance::reconciliation::JOB);
    let all: u64 = drift.iter().map(|(_, left)| left).sum();
    let kinds: Vec<String> = drift
        .iter()
        .map(|(kind, left)| format!("{left} {}", kind.replace('_', " ")))
        .collect();
    Card {
        label: "Differences from Stripe",
        value: match ran {
            true => grouped(all),
            false => "not known".to_owned(),
        },
        note: match (ran, kinds.is_empty()) {
            (false, _) => "subscriptions reconcile has never run".to_owned(),
            (true, true) => "the newest reconciliation left none".to_owned(),
            (true, false) => kinds.join(", "),
        },
        tone: match (ran, all) {
            (false, _) => Tone::Plain,
            (true, 0) => Tone::Good,
            (true, _) => Tone::Warn,
        },
        href: None,
    }
}

/// What came in by the hour, and how much of it succeeded.
fn intake(hours: &[Hour]) -> Block {
    let most = hours.iter().map(Hour::received).max().unwrap_or(0).max(1);
    let bars = hours.iter().map(|hour| Bar {
        // Whatever came in is seen.
        height: (hour.received() * 100 / most).max(i64::from(hour.received() > 0)),
        bad: (hour.received() - hour.at_once()) * 100 / most,
    });
    let rows = hours.iter().rev().map(|hour| {
        let percent = (hour.at_once() * 100).checked_div(hour.received());
        vec![
            Cell::text(hour.at.strftime("%d %b %H:00").to_string()),
            Cell::Number(grouped(hour.received())),
            Cell::maybe(percent, |percent| Cell::Number(format!("{percent} %"))),
            Cell::Number(grouped(hour.retried)),
            Cell::Number(grouped(hour.waiting)),
            Cell::Number(grouped(hour.dead_letters)),
        ]
    });
    let received: i64 = hours.iter().map(Hour::received).sum();
    let at_once: i64 = hours.iter().map(Hour::at_once).sum();
    let percent = (at_once * 100).checked_div(received);
    let rows: Vec<Vec<Cell>> = rows.collect();
    Block::Bars {
        bars: bars.collect(),
        grid: Grid {
            title: "Events in, by the hour".to_owned(),
            note: Some(match percent {
                Some(percent) => format!(
                    "{} came within 24 hours, and {percent} % succeeded at the first attempt. \
                     Red are those that were tried again, wait or are dead letters.",
                    grouped(received)
                ),
                None => "None came within 24 hours.".to_owned(),
            }),
            columns: vec![
                "Hour (UTC)",
                "Received",
                "Succeeded at once",
                "After retries",
                "Wait",
                "Dead letters",
            ],
            rows,
            ..Grid::default()
        },
    }
}

fn ending_graces(ending: &[(Uuid, String, Timestamp)], names: &Names) -> Block {
    let rows = ending.iter().map(|(id, metric, at)| {
        vec![
            Cell::time(*at),
            names.link(*id),
            Cell::link(explained::of_metric(*id, metric), metric),
        ]
    });
    Block::Grid(Grid {
        title: "Grace periods that end next".to_owned(),
        note: Some("After its end, what is over the quota is refused.".to_owned()),
        columns: vec!["Ends", "Organization", "Metric"],
        rows: rows.collect(),
        empty: "None runs.",
        ..Grid::default()
    })
}

fn findings(kept: Option<&Kept<Found>>) -> Block {
    let Some(Kept { at, value }) = kept else {
        return webhooks::notice(
            Tone::Plain,
            "Findings are being made",
            "They take longer than a page waits. Look again in a while.",
        );
    };
    let checks = &value.checks;
    let open = |check: &&Check| matches!(check.verdict, Verdict::Failed | Verdict::Warning);
    let mut found: Vec<&Check> = checks.iter().filter(open).collect();
    found.sort_by_key(|check| check.verdict != Verdict::Failed);
    let rows = found.into_iter().map(|check| {
        let badge = match check.verdict {
            Verdict::Failed => Cell::Badge(Tone::Bad, "failed".to_owned()),
            _ => Cell::Badge(Tone::Warn, "warning".to_owned()),
        };
        vec![
            badge,
            Cell::text(check.name),
            Cell::Prose(check.detail.clone()),
            Cell::maybe(check.fix.clone(), Cell::Prose),
        ]
    });
    let rows: Vec<Vec<Cell>> = rows.collect();
    let good = checks.len() - rows.len();
    Block::Grid(Grid {
        title: "Findings".to_owned(),
        note: Some(format!(
            "{good} of {} checks found nothing. They are doctor's that read the database; `doctor` \
             also asks Stripe and looks at the settings. Made {} s ago.",
            checks.len(),
            at.elapsed().as_secs()
        )),
        columns: vec!["Verdict", "Check", "Found", "What to do"],
        rows,
        empty: "Nothing is to be done.",
        next: None,
    })
}

fn jobs(runs: &[LastRun]) -> Block {
    let rows = maintenance::SCHEDULED.iter().map(|job| {
        let run = runs.iter().find(|run| run.job == **job);
        let state = match run {
            None => Cell::Badge(Tone::Plain, "has never run".to_owned()),
            Some(run) if run.last_succeeded => Cell::Badge(Tone::Good, "succeeded".to_owned()),
            Some(_) => Cell::Badge(Tone::Bad, "failed".to_owned()),
        };
        let succeeded = run.and_then(|run| run.success_secs);
        let succeeded = succeeded.and_then(|secs| Timestamp::from_second(secs).ok());
        vec![Cell::text(*job), state, Cell::maybe(succeeded, Cell::time)]
    });
    Block::Grid(Grid {
        title: "Jobs".to_owned(),
        columns: vec!["Job", "Its last run", "Last succeeded"],
        rows: rows.collect(),
        ..Grid::default()
    })
}
