//! What the tests stand on: a real PostgreSQL, a fresh database for each test,
//! and the service as it runs in production.

pub mod database;
pub mod dice;
pub mod events;
pub mod floods;
pub mod issuer;
pub mod libraries;
pub mod ports;
pub mod product;
pub mod program;
pub mod provider;
pub mod server;
pub mod service;
pub mod serving;
pub mod shell;
pub mod wire;

pub use database::TestDatabase;
pub use service::TestService;
