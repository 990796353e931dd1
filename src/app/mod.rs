//! The service as a whole: the database, the parts, and how they start and stop.
//!
//! The main thread, a runtime of one thread, has everything that answers: intake, the
//! API, probes, and the periodic parts beside them. Processing and the counting of
//! usage have a thread each, so that deliveries do not wait behind them
//! (docs/decisions/0008-threads.md). No rule of billing is here.

pub mod api;
pub mod background;
mod connections;
mod database;
pub mod health;
mod mail;
pub mod metrics;
mod outbox;
mod parts;
mod refused;
mod secrets;
mod start;
mod threads;

use embedded_postgres::EmbeddedPostgresError;

use crate::catalogue::CatalogueError;
use crate::config::{ConfigError, StripeConfig};
use crate::db::DatabaseError;
use crate::migrations::MigrationError;
use crate::stripe::client::Client;

pub use database::{Database, EMBEDDED};
pub use mail::mailer;
pub use secrets::{kept_webhook_secret, shared_webhook_secrets, webhook_secrets};
pub use start::{Service, start};

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Embedded(#[from] EmbeddedPostgresError),
    #[error(
        "DATABASE_URL: is not set, and no embedded database runs under {}; set it, \
         start `serve` or `demo` first, or give --embedded to start the embedded one",
        .0.display()
    )]
    NoDatabase(std::path::PathBuf),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Migration(#[from] MigrationError),
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error(transparent)]
    Setting(#[from] ConfigError),
    #[error("{0}")]
    VanishedPlans(String),
    #[error("{variable}: cannot listen on {address}: {error}")]
    Listen {
        variable: &'static str,
        address: std::net::SocketAddr,
        error: std::io::Error,
    },
    #[error("a client for Stripe cannot be made: {0}")]
    Client(reqwest::Error),
    #[error("DATA_DIR: cannot keep the generated webhook secret in {path}: {error}")]
    Secret {
        path: std::path::PathBuf,
        error: std::io::Error,
    },
}

/// The client of Stripe's API; `None` without a key.
pub fn stripe_client(stripe: &StripeConfig) -> Result<Option<Client>, StartError> {
    let Some(api) = &stripe.api else {
        return Ok(None);
    };
    Client::new(api.base.clone(), api.key.clone(), api.patience)
        .map(Some)
        .map_err(StartError::Client)
}
