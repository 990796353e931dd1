//! Dead letters: by reason, one by one, and what can be done with all that match.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use jiff::Timestamp;
use serde::Deserialize;

use super::organizations::Names;
use super::query::{address, filled};
use super::screen::{Block, Cell, Field, Filter, Form, Grid, Refusal, Screen, Tone, grouped};
use super::session::{Acting, Posted, Signed};
use super::webhooks::{button, notice, page_of, said, unknown_act};
use super::{Console, organizations};
use crate::server::extract::Query;
use crate::server::pagination::page::{Limit, Page};
use crate::server::problem::Problem;
use crate::webhooks::inspect::DeadLetter;
use crate::webhooks::operator::LettersQuery;
use crate::webhooks::{DeadLetterGroup, GROUPED};

pub const PATH: &str = "/console/dead-letters";
/// How many are replayed or discarded at a time, so that it ends soon.
const AT_ONCE: u32 = 50;
/// When to stop before they are done: a page has 30 seconds.
const ENOUGH: Duration = Duration::from_secs(15);

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
    /// Of a form: the last that was counted.
    #[serde(skip)]
    through: Option<Timestamp>,
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
        let through = self.through;
        console
            .webhooks
            .letters(&signed.operator, query, through)
            .await
    }
}

pub async fn list(
    State(console): State<Arc<Console>>,
    signed: Signed,
    query: Result<Query<LettersFilter>, Problem>,
) -> Result<Response, Refusal> {
    let Query(filter) = query?;
    Ok(screen(&console, &signed, &filter, None).await?.answer())
}

async fn screen(
    console: &Console,
    signed: &Signed,
    filter: &LettersFilter,
    first: Option<Block>,
) -> Result<Screen, Refusal> {
    let page = filter.page(console, signed, Limit::default()).await?;
    let groups = console.webhooks.letter_groups(&signed.operator).await?;
    let ids = page.data.iter().filter_map(|letter| letter.organization_id);
    let names = Names::of(console, ids).await?;
    let acts = signed.may_act() && !page.data.is_empty() && first.is_none();
    let letters = Grid {
        title: "Dead letters".to_owned(),
        note: Some("Oldest first.".to_owned()),
        columns: vec!["Given up", "Event", "Type", "Organization", "Error"],
        rows: page.data.iter().map(|letter| row(letter, &names)).collect(),
        empty: "No dead letter matches.",
        next: page.next_cursor.map(|cursor| filter.address(Some(&cursor))),
    };
    let screen = Screen::new(signed, PATH, "Dead letters")
        .lead("Events that could not be applied. Each is kept until it is replayed or discarded.")
        .with_all(first)
        .with(by_reason(&groups))
        .with(filter.block())
        .with(Block::Grid(letters))
        .with_all(acts.then(|| {
            Block::Form(Form {
                title: "All that match".to_owned(),
                text: "They are counted, and you are asked, before anything is done.".to_owned(),
                action: PATH.to_owned(),
                hidden: hidden(filter),
                buttons: vec![
                    button("ask-replay", "Replay all that match", Tone::Plain),
                    button("ask-discard", "Discard all that match", Tone::Bad),
                ],
                back: None,
            })
        }));
    Ok(screen)
}

fn hidden(filter: &LettersFilter) -> Vec<(&'static str, String)> {
    let fields = [
        ("type", &filter.r#type),
        ("org", &filter.org),
        ("reason", &filter.reason),
    ];
    let set = fields.into_iter();
    let set = set.filter_map(|(name, value)| Some((name, value.clone()?)));
    let through = filter.through.map(|time| ("through", time.to_string()));
    set.chain(through).collect()
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

pub async fn act(
    State(console): State<Arc<Console>>,
    Acting(Posted { signed, fields }): Acting,
) -> Result<Response, Refusal> {
    let own = |name| fields.get(name).map(str::to_owned);
    let through = fields.get("through").map(str::parse).transpose();
    let filter = LettersFilter {
        r#type: own("type"),
        org: own("org"),
        reason: own("reason"),
        cursor: own("cursor"),
        through: through.map_err(|_| not_counted())?,
    };
    let discards = match fields.get("do") {
        Some("ask-replay") => return ask(&console, &signed, &filter, false).await,
        Some("ask-discard") => return ask(&console, &signed, &filter, true).await,
        Some("replay") => false,
        Some("discard") => true,
        _ => return Err(unknown_act().into()),
    };
    if filter.through.is_none() {
        return Err(not_counted().into());
    }
    let limit = Limit::try_from(AT_ONCE).unwrap_or_default();
    let page = filter.page(&console, &signed, limit).await?;
    let done = Done::all(&console, &signed, &page.data, discards).await;
    // What was not tried comes first.
    let goes_on = match done.untried {
        0 => page
            .next_cursor
            .map(|cursor| (Some(cursor), "There are more")),
        _ => Some((
            filter.cursor.clone(),
            "It took long, and some were not tried",
        )),
    };
    let goes_on = goes_on.map(|(cursor, title)| go_on(&filter, cursor, discards, title));
    Ok(done.screen(&signed, &filter, discards, goes_on).answer())
}

/// Nothing is done with what nobody was asked about.
fn not_counted() -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "invalid_request",
        "The form does not say what was counted. Ask again from the page of the dead letters.",
    )
}

/// What came of each.
struct Done {
    rows: Vec<Vec<Cell>>,
    succeeded: usize,
    untried: usize,
}

impl Done {
    /// Replays or discards them one after another; what fails is a row, and the next is done.
    async fn all(
        console: &Console,
        signed: &Signed,
        letters: &[DeadLetter],
        discards: bool,
    ) -> Self {
        let (begun, mut done) = (
            Instant::now(),
            Self {
                rows: Vec::new(),
                succeeded: 0,
                untried: 0,
            },
        );
        for (n, letter) in letters.iter().enumerate() {
            if begun.elapsed() > ENOUGH {
                done.untried = letters.len() - n;
                break;
            }
            let (tone, came) = match do_one(console, signed, &letter.event_id, discards).await {
                Ok(came) => came,
                Err(problem) => (Tone::Bad, problem.detail().to_owned()),
            };
            done.succeeded += usize::from(tone == Tone::Good);
            let badge = match tone {
                Tone::Good => "done",
                _ => "not done",
            };
            done.rows.push(vec![
                Cell::link(page_of(&letter.event_id), &letter.event_id),
                Cell::text(&letter.event_type),
                Cell::Badge(tone, badge.to_owned()),
                Cell::text(came),
            ]);
        }
        done
    }

    fn screen(
        self,
        signed: &Signed,
        filter: &LettersFilter,
        discards: bool,
        goes_on: Option<Block>,
    ) -> Screen {
        let verb = if discards { "discarded" } else { "replayed" };
        let of = self.rows.len() + self.untried;
        let title = format!("{} of {of} {verb}", self.succeeded);
        let tone = match self.succeeded == of {
            true => Tone::Good,
            false => Tone::Warn,
        };
        let mut text = "Each has its entry in the audit log.".to_owned();
        if self.untried > 0 {
            text = format!("{} were not tried yet. {text}", self.untried);
        }
        Screen::new(signed, PATH, "Dead letters")
            .above(&filter.address(None), "Dead letters")
            .with(notice(tone, &title, &text))
            .with_all(goes_on)
            .with(Block::Grid(Grid {
                title: "What came of each".to_owned(),
                columns: vec!["Event", "Type", "Done", "Result"],
                rows: self.rows,
                empty: "None matched any more.",
                ..Grid::default()
            }))
    }
}

/// Replays or discards one, and says what came of it.
async fn do_one(
    console: &Console,
    signed: &Signed,
    event_id: &str,
    discards: bool,
) -> Result<(Tone, String), Problem> {
    if !discards {
        let replaying = console
            .webhooks
            .replay(event_id.to_owned(), &signed.operator);
        return Ok(said(&replaying.await?.result));
    }
    let discarding = console.webhooks.discard(&signed.operator, event_id);
    Ok(match discarding.await? {
        true => (Tone::Good, "discarded".to_owned()),
        false => (Tone::Warn, "it was not there any more".to_owned()),
    })
}

fn go_on(filter: &LettersFilter, cursor: Option<String>, discards: bool, title: &str) -> Block {
    let mut hidden = hidden(filter);
    hidden.extend(cursor.map(|cursor| ("cursor", cursor)));
    let (value, label) = match discards {
        true => ("discard", "Discard the next"),
        false => ("replay", "Replay the next"),
    };
    Block::Form(Form {
        title: title.to_owned(),
        text: format!("They are done {AT_ONCE} at a time, the oldest first."),
        action: PATH.to_owned(),
        hidden,
        buttons: vec![button(value, label, Tone::Main)],
        back: Some(filter.address(None)),
    })
}

/// Counts what matches, shows some of it below, and asks.
async fn ask(
    console: &Console,
    signed: &Signed,
    filter: &LettersFilter,
    discards: bool,
) -> Result<Response, Refusal> {
    let organization = organizations::named(console, filter.org.as_deref()).await?;
    let (count, last) = console
        .webhooks
        .count_letters(filter.r#type.clone(), organization, filter.reason.clone())
        .await?;
    let (value, verb, tone) = match discards {
        true => ("discard", "Discard", Tone::Bad),
        false => ("replay", "Replay", Tone::Main),
    };
    let many = if count == 1 {
        "dead letter"
    } else {
        "dead letters"
    };
    let what = match discards {
        true => "They are marked as processed and change nothing.",
        false => "The handler of each runs again; those that fail stay dead letters.",
    };
    // What comes after the count is not done.
    let mut counted = hidden(filter);
    counted.extend(last.map(|time| ("through", time.to_string())));
    let asked = Block::Form(Form {
        title: format!("{verb} {} {many}?", grouped(count)),
        text: format!("{what} They are done {AT_ONCE} at a time, the oldest first."),
        action: PATH.to_owned(),
        hidden: counted,
        buttons: vec![button(value, &format!("{verb} them"), tone)],
        back: Some(filter.address(None)),
    });
    Ok(screen(console, signed, filter, Some(asked)).await?.answer())
}
