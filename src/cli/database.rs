//! What commands do with the database, they do as the service would.

use super::Failure;
use crate::app::Database;
use crate::config::DatabaseConfig;

/// Opens the database, does `work` with the service's login, and lets it go.
pub async fn on_database(
    config: &DatabaseConfig,
    work: impl AsyncFnOnce(&Database) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let database = Database::open(config).await?;
    let result = match database.check_login().await {
        Ok(()) => work(&database).await,
        Err(error) => Err(error.into()),
    };
    database.close().await;
    result
}
