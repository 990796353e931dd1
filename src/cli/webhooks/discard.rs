//! `webhooks discard`

use clap::Args;
use serde::Serialize;
use sqlx::postgres::PgPool;

use super::super::Failure;
use super::super::arguments;
use super::super::organization;
use super::super::output::{Format, Progress, printable};
use super::letters_of;
use crate::db::WorkerTx;
use crate::webhooks::dead_letters::discard;
use crate::webhooks::list_dead_letters;

#[derive(Debug, Args)]
pub struct Discard {
    /// Event ids (evt_…).
    #[arg(
        value_name = "EVT",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    event_ids: Vec<String>,
    /// All dead letters.
    #[arg(long)]
    all: bool,
    /// Only dead letters of this type.
    #[arg(long = "type", value_name = "T", requires = "all")]
    event_type: Option<String>,
    /// Only dead letters of this organization.
    #[arg(long, value_name = "ORG", requires = "all", value_parser = arguments::organization)]
    organization: Option<String>,
    /// Print what would be discarded without doing it.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    format: Format,
}

/// The result of discarding dead letters.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Discarded {
    dry_run: bool,
    discarded: usize,
    /// Events that are not dead letters.
    unknown: Vec<String>,
    event_ids: Vec<String>,
}

impl Discard {
    pub async fn run(self, pool: &PgPool) -> Result<(), Failure> {
        let chosen = match self.all {
            false => self.event_ids,
            true => {
                let named = self.organization.as_deref();
                let organization = organization::found_if_named(pool, named).await?;
                let filter = letters_of(self.event_type, organization);
                let mut tx = WorkerTx::begin(pool).await?;
                let letters = list_dead_letters(tx.conn(), &filter, i64::MAX).await?;
                tx.commit().await?;
                letters.into_iter().map(|letter| letter.event_id).collect()
            }
        };
        let mut progress = Progress::new(chosen.len());
        let (mut event_ids, mut unknown) = (Vec::new(), Vec::new());
        for event_id in chosen {
            let known = match self.dry_run {
                true => discard::is_dead_letter(pool, &event_id).await?,
                false => discard::discard_unasked(pool, &event_id).await?,
            };
            progress.step(&event_id);
            if known { &mut event_ids } else { &mut unknown }.push(event_id);
        }
        let done = Discarded {
            dry_run: self.dry_run,
            discarded: event_ids.len(),
            unknown,
            event_ids,
        };
        self.format.print(&done, describe_discarded)?;
        if done.unknown.is_empty() {
            Ok(())
        } else {
            Err(Failure::silent())
        }
    }
}

fn describe_discarded(done: &Discarded) -> String {
    let verb = match done.dry_run {
        true => "would be discarded",
        false => "discarded",
    };
    let known = done.event_ids.iter().map(|id| format!("{id} {verb}"));
    let unknown = done
        .unknown
        .iter()
        .map(|id| format!("{id} FAILED no such dead letter"));
    let mut lines: Vec<String> = known.chain(unknown).map(|line| printable(&line)).collect();
    lines.push(format!("{} {verb}", done.discarded));
    lines.join("\n")
}
