//! Commands use the database as the service does.

use super::Failure;
use super::serve::StopSignals;
use crate::app::Database;
use crate::config::DatabaseConfig;

/// Opens the database, does `work` with the service's login and closes it, also
/// when interrupted: an embedded server would otherwise keep running.
pub async fn on_database(
    config: &DatabaseConfig,
    work: impl AsyncFnOnce(&Database) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut signals = StopSignals::listen()?;
    let database = Database::open(config).await?;
    let working = async {
        database.check_login().await?;
        database.check_schema().await?;
        work(&database).await
    };
    let result = tokio::select! {
        result = working => result,
        () = signals.received() => Err(Failure::failed(
            "interrupted; completed work is kept, and the rest is unchanged",
        )),
    };
    database.close().await;
    result
}
