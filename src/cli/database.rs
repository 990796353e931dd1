//! What commands do with the database, they do as the service would.

use super::Failure;
use super::serve::StopSignals;
use crate::app::Database;
use crate::config::DatabaseConfig;

/// Opens the database, does `work` with the service's login, and lets it go, as
/// it does when it is interrupted: an embedded server would go on otherwise.
pub async fn on_database(
    config: &DatabaseConfig,
    work: impl AsyncFnOnce(&Database) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut signals = StopSignals::listen()?;
    let database = Database::open(config).await?;
    let working = async {
        database.check_login().await?;
        work(&database).await
    };
    let result = tokio::select! {
        result = working => result,
        () = signals.received() => Err(Failure::failed(
            "interrupted; what was done is kept, and what was not is as it was",
        )),
    };
    database.close().await;
    result
}
