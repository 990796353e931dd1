//! What pages are made of. The templates escape whatever is written into them, and nothing
//! else makes markup.

pub mod entry;
mod text;

use std::sync::LazyLock;

use askama::Template;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};

pub use cell::Cell;
pub use form::{Button, Field, Filter, Form};
pub use live::{Live, PATH as SCRIPT, script};
pub use refusal::Refusal;

use super::session::Signed;
pub use crate::pages::number::grouped;
use crate::server::problem::Problem;

pub use text::digest;

/// No script runs, and nothing comes from outside.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; \
                      base-uri 'none'; frame-ancestors 'none'";
const STYLE_SHEET: &str = include_str!("templates/console.css");
pub const STYLE: &str = "/console/assets/console.css";

/// The style sheet's address, another one for another sheet.
static VERSIONED: LazyLock<String> = LazyLock::new(|| {
    let digest = hex::encode(&Sha256::digest(STYLE_SHEET)[..6]);
    format!("{STYLE}?v={digest}")
});

pub async fn style() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/css; charset=utf-8"),
        (header::CACHE_CONTROL, "public, max-age=86400"),
    ];
    (headers, STYLE_SHEET).into_response()
}

/// A page, with the headers of all.
pub fn answer(status: StatusCode, template: &impl Template) -> Response {
    let text = match template.render() {
        Ok(text) => text,
        Err(error) => {
            tracing::error!(%error, "a page of the console cannot be written");
            return Problem::internal().into_response();
        }
    };
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, text).into_response()
}

/// Who looks.
#[derive(Debug, Clone)]
pub struct Visitor {
    pub read_only: bool,
    pub form_token: String,
}

/// What is around every page.
pub struct Frame {
    pub title: String,
    /// The path of the section that the page is in.
    section: &'static str,
    pub visitor: Option<Visitor>,
    /// Whether a part of it is brought up to date by the script.
    pub live: bool,
}

/// A link of the navigation.
pub struct Section {
    pub href: &'static str,
    pub name: &'static str,
    pub current: bool,
}

const SECTIONS: [(&str, &str); 10] = [
    ("/console", "Home"),
    (super::webhooks::PATH, "Webhooks in"),
    (super::dead_letters::PATH, "Dead letters"),
    (super::events_out::PATH, "Events out"),
    (super::organizations::PATH, "Organizations"),
    (super::explained::PATH, "Explain"),
    (super::plans::PATH, "Plans"),
    (super::figures::PATH, "Figures"),
    (super::audit_log::PATH, "Audit log"),
    (super::operators::PATH, "Operators and keys"),
];

impl Frame {
    /// Of a page for everybody.
    pub fn of(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            section: "",
            visitor: None,
            live: false,
        }
    }

    pub fn sections(&self) -> Vec<Section> {
        let sections = SECTIONS.into_iter().map(|(href, name)| Section {
            href,
            name,
            current: self.section == href,
        });
        sections.collect()
    }

    pub fn style(&self) -> &str {
        &VERSIONED
    }

    pub fn form_token(&self) -> &str {
        let visitor = self.visitor.as_ref();
        visitor.map_or("", |visitor| &visitor.form_token)
    }
}

/// A page of blocks.
#[derive(Template)]
#[template(path = "screen.html")]
pub struct Screen {
    frame: Frame,
    /// The page above it: its address and name.
    above: Option<(String, String)>,
    lead: Option<String>,
    blocks: Vec<Block>,
}

impl Screen {
    pub fn new(signed: &Signed, section: &'static str, title: &str) -> Self {
        Self {
            frame: Frame {
                title: title.to_owned(),
                section,
                visitor: Some(signed.visitor()),
                live: false,
            },
            above: None,
            lead: None,
            blocks: Vec::new(),
        }
    }

    pub fn above(mut self, href: &str, name: &str) -> Self {
        self.above = Some((href.to_owned(), name.to_owned()));
        self
    }

    pub fn lead(mut self, lead: impl Into<String>) -> Self {
        self.lead = Some(lead.into());
        self
    }

    pub fn with(mut self, block: Block) -> Self {
        self.frame.live |= block.is_live();
        self.blocks.push(block);
        self
    }

    pub fn with_all(self, blocks: impl IntoIterator<Item = Block>) -> Self {
        blocks.into_iter().fold(self, Self::with)
    }

    pub fn answer(self) -> Response {
        self.answer_as(StatusCode::OK)
    }

    pub fn answer_as(self, status: StatusCode) -> Response {
        let response = answer(status, &self);
        match self.frame.live {
            true => live::allowed(response),
            false => response,
        }
    }
}

/// How good something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Warn,
    Bad,
    /// What a page is for.
    Main,
}

impl Tone {
    pub fn class(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Good => "good",
            Self::Warn => "warn",
            Self::Bad => "bad",
            Self::Main => "main",
        }
    }
}

pub enum Block {
    Notice {
        tone: Tone,
        title: String,
        text: String,
    },
    Cards(Vec<Card>),
    Facts {
        title: String,
        rows: Vec<(&'static str, Cell)>,
    },
    Grid(Grid),
    Filter(Filter),
    Form(Form),
    Picture(entry::Picture),
    /// Bars side by side, and their numbers.
    Bars {
        grid: Grid,
        bars: Vec<Bar>,
    },
    /// What is above, as a file.
    Download {
        href: String,
        text: &'static str,
    },
    /// Text as it is, byte for byte.
    Code {
        title: String,
        note: String,
        text: String,
    },
    /// How much of something is done.
    Progress {
        title: String,
        done: i64,
        of: i64,
        text: String,
    },
    Live(Live),
    /// An answer, and each cause with its kind and facts.
    Causes {
        title: String,
        answer: String,
        causes: Vec<(String, String, String)>,
    },
}

/// A bar: how high it is, and how much of that is bad, of a hundred.
pub struct Bar {
    pub height: i64,
    pub bad: i64,
}

impl Bar {
    /// Where it begins from the left, as the `n`th.
    pub fn left(n: &usize) -> usize {
        n * 10
    }

    pub fn top(&self) -> i64 {
        100 - self.height
    }

    pub fn bad_top(&self) -> i64 {
        100 - self.bad
    }
}

pub struct Card {
    pub label: &'static str,
    pub value: String,
    pub note: String,
    pub tone: Tone,
    pub href: Option<String>,
}

/// A table. On a narrow screen each of its rows is a card.
#[derive(Default)]
pub struct Grid {
    pub title: String,
    pub note: Option<String>,
    pub columns: Vec<&'static str>,
    pub rows: Vec<Vec<Cell>>,
    /// What stands in its place where there are no rows.
    pub empty: &'static str,
    /// The address of its next page.
    pub next: Option<String>,
}

impl Grid {
    fn note(&self) -> Option<String> {
        let note = self.note.as_ref()?;
        Some(Cell::Prose(note.clone()).html())
    }

    pub fn labelled<'a>(
        &'a self,
        row: &'a [Cell],
    ) -> impl Iterator<Item = (&'static str, &'a Cell)> {
        self.columns.iter().copied().zip(row)
    }
}

mod cell;
mod form;
mod live;
mod refusal;
#[cfg(test)]
mod tests;
