//! How the pages look, and what is around each of them.

use std::fmt::Write as _;

use askama::Template;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};

use super::{overview, words};
use crate::config::PortalConfig;
use crate::server::layers::Framed;
use crate::server::problem::Problem;

pub const STYLE: &str = "/portal/assets/portal.css";
const STYLE_SHEET: &str = include_str!("templates/portal.css");

/// What the operator's settings make of the pages.
pub struct Look {
    pub name: String,
    style_sheet: String,
    /// Another address for another sheet.
    style_address: String,
    policy: HeaderValue,
    framed: bool,
}

impl Look {
    pub fn of(config: &PortalConfig) -> Self {
        let style_sheet = format!("{STYLE_SHEET}{}{}", config.theme.css(), steps());
        let digest = hex::encode(&Sha256::digest(&style_sheet)[..6]);
        let ancestors = match config.frame_ancestors.is_empty() {
            true => "'none'".to_owned(),
            false => config.frame_ancestors.join(" "),
        };
        // No script runs, and nothing comes from outside.
        let policy = format!(
            "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; \
             base-uri 'none'; frame-ancestors {ancestors}"
        );
        Self {
            name: config.name.clone(),
            style_address: format!("{STYLE}?v={digest}"),
            style_sheet,
            policy: HeaderValue::try_from(policy).expect("origins are plain text"),
            framed: !config.frame_ancestors.is_empty(),
        }
    }

    /// Whether other sites' pages may have these in a frame.
    pub fn is_framed(&self) -> bool {
        self.framed
    }

    pub fn style(&self) -> Response {
        let headers = [
            (header::CONTENT_TYPE, "text/css; charset=utf-8"),
            (header::CACHE_CONTROL, "public, max-age=86400"),
        ];
        (headers, self.style_sheet.clone()).into_response()
    }

    /// A page, with the headers of all.
    pub fn answer(&self, status: StatusCode, template: &impl Template) -> Response {
        let text = match template.render() {
            Ok(text) => text,
            Err(error) => {
                tracing::error!(%error, "a customer page cannot be written");
                return Problem::internal().into_response();
            }
        };
        let headers = [
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("text/html; charset=utf-8"),
            ),
            (header::CONTENT_SECURITY_POLICY, self.policy.clone()),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        let mut response = (status, headers, text).into_response();
        if self.framed {
            response.extensions_mut().insert(Framed);
        }
        response
    }
}

/// How far bars are filled, and how long clocks run: styles within a page are forbidden.
fn steps() -> String {
    let mut css = String::new();
    for percent in 0..=100 {
        let _ = write!(css, ".w{percent}{{width:{percent}%}}");
    }
    for secs in (0..=LONGEST_CLOCK_SECS).step_by(CLOCK_STEP_SECS) {
        let _ = write!(css, ".lasts-{secs}{{--left:{secs}s}}");
    }
    css
}

const LONGEST_CLOCK_SECS: usize = 900;
const CLOCK_STEP_SECS: usize = 15;

/// The step of a clock that never runs longer than `secs`.
pub fn clock_step(secs: i64) -> usize {
    let secs = usize::try_from(secs).unwrap_or(0).min(LONGEST_CLOCK_SECS);
    secs / CLOCK_STEP_SECS * CLOCK_STEP_SECS
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Warn,
    Bad,
}

impl Tone {
    pub fn class(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Good => "good",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// Something that is said above all else of a page.
#[derive(Debug, Clone)]
pub struct Notice {
    pub tone: Tone,
    pub title: String,
    pub text: String,
    /// Ways on: their addresses, names, and whether each leads to another site.
    pub links: Vec<(String, String, bool)>,
}

impl Notice {
    pub fn new(tone: Tone, title: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            tone,
            title: title.into(),
            text: text.into(),
            links: Vec::new(),
        }
    }

    pub fn link(mut self, href: impl Into<String>, name: impl Into<String>) -> Self {
        self.links.push((href.into(), name.into(), false));
        self
    }

    /// A link that leaves these pages.
    pub fn away(mut self, href: impl Into<String>, name: impl Into<String>) -> Self {
        self.links.push((href.into(), name.into(), true));
        self
    }

    /// What is wrong is said at once, to those who listen as well.
    pub fn role(&self) -> &'static str {
        match self.tone {
            Tone::Bad => "alert",
            _ => "status",
        }
    }
}

/// Who looks.
#[derive(Debug, Clone)]
pub struct Seen {
    pub organization: String,
    pub role: &'static str,
    pub manages: bool,
    pub form_token: String,
    pub return_url: Option<String>,
}

/// What is around every page.
pub struct Around {
    pub title: String,
    pub brand: String,
    pub style: String,
    section: &'static str,
    pub seen: Option<Seen>,
    pub notices: Vec<Notice>,
}

/// A link of the navigation.
pub struct Section {
    pub href: &'static str,
    pub name: &'static str,
    pub current: bool,
}

const SECTIONS: [(&str, &str); 5] = [
    (super::overview::PATH, "Overview"),
    (super::plans::PATH, "Plans"),
    (super::invoices::PATH, "Invoices"),
    (super::cards::PATH, "Payment methods"),
    (super::audit_log::PATH, "Activity"),
];

impl Around {
    pub fn of(look: &Look, seen: Option<Seen>, section: &'static str, title: &str) -> Self {
        Self {
            title: title.to_owned(),
            brand: look.name.clone(),
            style: look.style_address.clone(),
            section,
            seen,
            notices: Vec::new(),
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

    pub fn form_token(&self) -> &str {
        self.seen.as_ref().map_or("", |seen| &seen.form_token)
    }

    pub fn manages(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.manages)
    }

    pub fn with(mut self, notices: impl IntoIterator<Item = Notice>) -> Self {
        self.notices.extend(notices);
        self
    }
}

/// A page that only says something.
#[derive(Template)]
#[template(path = "portal/message.html")]
pub struct Message {
    pub around: Around,
    pub lead: String,
    /// Where one goes on, where nothing around the page says so: an address and its name.
    pub back: Option<(&'static str, &'static str)>,
}

impl Look {
    /// A page that says what is wrong.
    pub fn refused(&self, seen: Option<Seen>, problem: &Problem) -> Response {
        let notice = words::said(problem);
        let back = seen.is_none().then_some((overview::PATH, "Overview"));
        let message = Message {
            around: Around::of(self, seen, "", &notice.title),
            lead: notice.text,
            back,
        };
        let mut response = self.answer(problem.status(), &message);
        // The problem's own headers, such as Retry-After.
        let headers = problem.clone().into_response();
        if let Some(retry) = headers.headers().get(header::RETRY_AFTER) {
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, retry.clone());
        }
        response
    }
}

/// A question before something that cannot be undone by going back.
#[derive(Template)]
#[template(path = "portal/ask.html")]
pub struct Ask {
    pub around: Around,
    pub text: String,
    pub facts: Vec<(&'static str, String)>,
    /// The form's address, with its key.
    pub action: String,
    pub hidden: Vec<(&'static str, String)>,
    pub act: &'static str,
    pub tone: Tone,
    pub back: (&'static str, &'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_never_late() {
        assert_eq!(clock_step(899), 885);
        assert_eq!(clock_step(14), 0);
        assert_eq!(clock_step(-5), 0);
        assert_eq!(clock_step(90_000), 900);
    }

    #[test]
    fn the_policy_names_who_may_frame_the_pages() {
        let policy = |ancestors: &[&str]| {
            let look = Look::of(&PortalConfig {
                frame_ancestors: ancestors.iter().map(ToString::to_string).collect(),
                ..PortalConfig::default()
            });
            look.policy.to_str().unwrap().to_owned()
        };
        assert!(policy(&[]).ends_with("frame-ancestors 'none'"));
        let two = policy(&["https://a.example", "https://b.example"]);
        assert!(two.ends_with("frame-ancestors https://a.example https://b.example"));
        assert!(two.contains("default-src 'none'") && !two.contains("script"));
    }
}
