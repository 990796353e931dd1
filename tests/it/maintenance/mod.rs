//! What keeps the database in order beside the daily work.

pub mod payloads;
mod retention;
