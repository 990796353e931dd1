//! Buttons of a table's row, pictures, and pages of those who have not yet signed in.

use askama::Template;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Frame, Screen, Tone};

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
