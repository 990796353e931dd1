//! Dead letters: by reason, and one by one.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;

use super::organizations::Names;
use super::query::{address, filled};
use super::screen::{Block, Cell, Field, Filter, Grid, Refusal, Screen, Tone, grouped};
use super::session::Signed;
use super::webhooks::page_of;
use super::{Console, bulk_actions, organizations};
use crate::server::extract::Query;
use crate::server::pagination::page::{Limit, Page};
use crate::server::problem::Problem;
use crate::webhooks::inspect::DeadLetter;
use crate::webhooks::operator::LettersQuery;
use crate::webhooks::{DeadLetterGroup, GROUPED};

pub const PATH: &str = "/console/dead-letters";

/// The filter, as it is in the page's address.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct LettersFilter {
    #[serde(default, deserialize_with = "filled")]
    r#type: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    org: Option<String>,
    /// As a group shows it.
    #[serde(default, deserialize_with = "filled")]
    reason: Option<String>,
    #[serde(default, deserialize_with = "filled")]
    cursor: Option<String>,
}

impl LettersFilter {
    fn block(&self) -> Block {
        Block::Filter(Filter {
            action: PATH,
            label: "Find dead letters",
            submit: "Find",
            fields: vec![
                Field::text("type", "Type", self.r#type.as_deref(), "invoice.paid"),
                Field::text(
                    "org",
                    "Organization",
                    self.org.as_deref(),
                    "id or external id",
                ),
                Field::text(
                    "reason",
                    "Reason",
                    self.reason.as_deref(),
                    "as a group shows it",
                ),
            ],
        })
    }

    fn address(&self, cursor: Option<&str>) -> String {
        let fields = [
            ("type", self.r#type.as_deref()),
            ("org", self.org.as_deref()),
            ("reason", self.reason.as_deref()),
            ("cursor", cursor),
        ];
        address(PATH, &fields)
    }

    /// A page of what matches.
    async fn page(
        &self,
        console: &Console,
        signed: &Signed,
        limit: Limit,
    ) -> Result<Page<DeadLetter>, Problem> {
        let query = LettersQuery {
            r#type: self.r#type.clone(),
            organization_id: organizations::named(console, self.org.as_deref()).await?,
            reason: self.reason.clone(),
            limit,
            cursor: self.cursor.clone(),
        };
        console.webhooks.letters(&signed.operator, query).await
    }
}

pub async fn list(
    State(console): State<Arc<Console>>,
    signed: Signed,
    query: Result<Query<LettersFilter>, Problem>,
) -> Result<Response, Refusal> {
    let Query(filter) = query?;
    let page = filter.page(&console, &signed, Limit::default()).await?;
    let groups = console.webhooks.letter_groups(&signed.operator).await?;
    let ids = page.data.iter().filter_map(|letter| letter.organization_id);
    let names = Names::of(&console, ids).await?;
    let acts = signed.may_act() && !page.data.is_empty();
    let letters = Grid {
        title: "Dead letters".to_owned(),
        note: Some("Oldest first.".to_owned()),
        columns: vec!["Given up", "Event", "Type", "Organization", "Error"],
        rows: page.data.iter().map(|letter| row(letter, &names)).collect(),
        empty: "No dead letter matches.",
        next: page.next_cursor.map(|cursor| filter.address(Some(&cursor))),
    };
    let screen = Screen::new(&signed, PATH, "Dead letters")
        .lead("Events that could not be applied. Each is kept until it is replayed or discarded.")
        .with(by_reason(&groups))
        .with(filter.block())
        .with(Block::Grid(letters))
        .with_all(acts.then(|| {
            let buttons = [
                ("ask-replay", "Replay all that match", Tone::Plain),
                ("ask-discard", "Discard all that match", Tone::Bad),
            ];
            bulk_actions::asking(hidden(&filter), &buttons)
        }))
        .with(bulk_actions::past());
    Ok(screen.answer())
}

fn hidden(filter: &LettersFilter) -> Vec<(&'static str, String)> {
    let fields = [
        ("type", &filter.r#type),
        ("org", &filter.org),
        ("reason", &filter.reason),
    ];
    let set = fields.into_iter();
    set.filter_map(|(name, value)| Some((name, value.clone()?)))
        .collect()
}

fn by_reason(groups: &[DeadLetterGroup]) -> Block {
    let letters: i64 = groups.iter().map(|group| group.letters).sum();
    let rows = groups.iter().take(50).map(|group| {
        let filter = LettersFilter {
            r#type: Some(group.event_type.clone()),
            reason: Some(group.reason.as_str().to_owned()),
            ..LettersFilter::default()
        };
        vec![
            Cell::Number(grouped(group.letters)),
            Cell::text(&group.event_type),
            Cell::link(filter.address(None), group.reason.as_str()),
            Cell::time(group.oldest_at),
            Cell::time(group.newest_at),
        ]
    });
    Block::Grid(Grid {
        title: "By reason".to_owned(),
        note: (letters >= GROUPED)
            .then(|| format!("Of the {} oldest; there are more.", grouped(GROUPED))),
        columns: vec!["Letters", "Type", "Reason", "Oldest", "Newest"],
        rows: rows.collect(),
        empty: "There are none.",
        next: None,
    })
}

fn row(letter: &DeadLetter, names: &Names) -> Vec<Cell> {
    vec![
        Cell::time(letter.dead_lettered_at),
        Cell::link(page_of(&letter.event_id), &letter.event_id),
        Cell::text(&letter.event_type),
        Cell::maybe(letter.organization_id, |id| names.link(id)),
        Cell::text(&letter.error_message),
    ]
}
