//! Mails to customers: a payment failed or waits for its payer, a trial ends, a card
//! expires, a quota is nearly or wholly used.
//!
//! A fact is queued once: in the transaction of the change, or, where it is a date or an
//! alert, by a search. The sender sees whether it still holds, renders it by templates, and
//! hands it to an SMTP server. Nothing is queued while mails are switched off, nor of what
//! happened before they were switched on.
//!
//! Nothing here changes billing state.

mod content;
mod facts;
mod kind;
mod message;
mod operations;
mod sender;
mod server;
mod store;
mod templates;

use std::path::Path;

use crate::config::ConfigError;

pub use content::Site;
pub use facts::{Fact, queue, search};
pub use kind::Kind;
pub use operations::{State, list, retry, state};
pub use sender::{Mailer, SendError, Sent};
pub use server::{Problem, Server};
pub use store::erase;
pub use store::operators::{Filter, Mail};

/// Whether the templates of `folder`, or the built-in ones, can be rendered.
pub fn check_templates(folder: Option<&Path>) -> Result<(), ConfigError> {
    templates::Templates::load(folder).map(drop)
}

/// The audit actions of this room.
pub fn audit_actions() -> impl Iterator<Item = &'static str> {
    [operations::RETRIED].into_iter()
}
