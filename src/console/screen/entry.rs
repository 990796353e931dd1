//! Forms that are filled in, buttons of a table's row, and pages of those who have not yet signed
//! in. Each form has the token of the session that it is made for.

use askama::Template;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Button, Frame, Screen, Tone};

/// A form with fields.
#[derive(Template)]
#[template(path = "entry.html")]
pub struct Entry {
    pub title: String,
    pub text: String,
    pub action: String,
    pub csrf: String,
    pub hidden: Vec<(&'static str, String)>,
    pub inputs: Vec<Input>,
    pub button: Button,
}

impl Entry {
    /// The markup of the form.
    pub fn html(&self) -> String {
        self.render().unwrap_or_default()
    }
}

/// A field of a form.
pub struct Input {
    pub name: &'static str,
    pub label: &'static str,
    /// As HTML names it: text, password.
    pub kind: &'static str,
    pub autocomplete: &'static str,
    pub hint: &'static str,
    /// Values with their names; empty: what is typed.
    pub choices: Vec<(&'static str, &'static str)>,
}

impl Input {
    pub fn text(name: &'static str, label: &'static str) -> Self {
        Self {
            name,
            label,
            kind: "text",
            autocomplete: "off",
            hint: "",
            choices: Vec::new(),
        }
    }

    pub fn password(name: &'static str, label: &'static str, autocomplete: &'static str) -> Self {
        Self {
            kind: "password",
            autocomplete,
            ..Self::text(name, label)
        }
    }

    /// A one-time code.
    pub fn code(label: &'static str) -> Self {
        Self {
            autocomplete: "one-time-code",
            ..Self::text("code", label)
        }
    }

    pub fn choice(
        name: &'static str,
        label: &'static str,
        choices: Vec<(&'static str, &'static str)>,
    ) -> Self {
        Self {
            choices,
            ..Self::text(name, label)
        }
    }

    pub fn hint(self, hint: &'static str) -> Self {
        Self { hint, ..self }
    }
}

/// A button in a table's row.
#[derive(Debug, Clone, Template)]
#[template(path = "row_form.html")]
pub struct RowForm {
    pub action: String,
    pub csrf: String,
    pub hidden: Vec<(&'static str, String)>,
    pub value: &'static str,
    pub label: &'static str,
    /// What it is about, for who does not see the row.
    pub about: String,
    pub tone: Tone,
}

impl RowForm {
    pub fn html(&self) -> String {
        self.render().unwrap_or_default()
    }
}

/// A picture that a page brings along.
pub struct Picture {
    pub alt: String,
    svg: String,
}

impl Picture {
    pub fn svg(svg: &str, alt: &str) -> Self {
        Self {
            alt: alt.to_owned(),
            svg: STANDARD.encode(svg),
        }
    }

    pub fn address(&self) -> String {
        format!("data:image/svg+xml;base64,{}", self.svg)
    }
}

impl Screen {
    /// A page of who has not yet signed in.
    pub fn outside(title: &str) -> Self {
        Self {
            frame: Frame::of(title),
            above: None,
            lead: None,
            blocks: Vec::new(),
        }
    }

    /// The page with another status than 200.
    pub fn answer_with(self, status: axum::http::StatusCode) -> axum::response::Response {
        super::answer(status, &self)
    }
}
