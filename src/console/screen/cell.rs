//! What stands in a table's cell, or beside a fact's name.

use askama::Template;
use jiff::Timestamp;
use serde_json::Value;

use super::Tone;
use super::entry;
use crate::pages::time::Moment;

#[derive(Debug, Clone)]
pub enum Cell {
    Text(String),
    Code(String),
    Number(String),
    Time(Moment),
    Link {
        href: String,
        text: String,
    },
    Badge(Tone, String),
    /// Text with commands between backticks.
    Prose(String),
    /// What is shown when it is asked for.
    Hidden {
        summary: &'static str,
        text: String,
    },
    Act(entry::RowForm),
    None,
    Many(Vec<Cell>),
}

impl Cell {
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// What is shown when it is asked for.
    pub fn hidden(summary: &'static str, text: String) -> Self {
        Self::Hidden { summary, text }
    }

    /// The parts of a text, and whether each is a command.
    fn parts(text: &str) -> Vec<(bool, &str)> {
        let parts = text.split('`').enumerate();
        parts.map(|(n, part)| (n % 2 == 1, part)).collect()
    }

    pub fn link(href: impl Into<String>, text: impl Into<String>) -> Self {
        Self::Link {
            href: href.into(),
            text: text.into(),
        }
    }

    pub fn time(at: Timestamp) -> Self {
        Self::Time(Moment::now(at))
    }

    /// A time as it is, and how long ago.
    pub fn exact(at: Timestamp) -> Self {
        let written = at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
        Self::Many(vec![Self::text(written), Self::time(at)])
    }

    pub fn maybe<T>(value: Option<T>, cell: impl FnOnce(T) -> Self) -> Self {
        value.map_or(Self::None, cell)
    }

    /// A member of a JSON object: a time where the member is one by its name, else its text.
    pub fn of(object: &Value, name: &str) -> Self {
        let is_time = name == "at"
            || name.ends_with("At")
            || name.starts_with("period")
            || name.starts_with("currentPeriod");
        match &object[name] {
            Value::Null => Self::None,
            Value::String(text) => match text.parse() {
                Ok(at) if is_time => Self::time(at),
                _ => Self::text(text),
            },
            Value::Bool(yes) => Self::text(if *yes { "yes" } else { "no" }),
            Value::Number(number) => Self::Number(number.to_string()),
            other => Self::Code(other.to_string()),
        }
    }

    pub fn is_number(&self) -> bool {
        matches!(self, Self::Number(_))
    }

    /// The markup of the cell.
    pub fn html(&self) -> String {
        Shown { cell: self }.render().unwrap_or_default()
    }
}

#[derive(Template)]
#[template(path = "cell.html")]
struct Shown<'a> {
    cell: &'a Cell,
}
