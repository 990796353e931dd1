//! Mails to customers, taken by another's mail server.

mod facts;
mod sending;
mod server;
mod settings;
