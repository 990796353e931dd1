//! The integration tests: one binary, so that it links once.

mod database;
mod embedded_postgres;
mod inbox;
mod support;
