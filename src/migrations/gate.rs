//! Holds writers back while the schema lacks migrations: they would fail halfway and use up
//! the attempts of the events they work on.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::postgres::PgPool;

use super::{MIGRATIONS, missing};
use crate::db::{self, SchemaOutdated, WorkerTx};

/// How long a schema that was whole counts as whole.
const FRESH: Duration = Duration::from_secs(1);

/// Whether the database has the migrations that this program needs.
#[derive(Debug, Default)]
pub struct Gate {
    whole_at: Mutex<Option<Instant>>,
}

impl Gate {
    /// # Errors
    /// [`SchemaOutdated`] if migrations are missing, and outages.
    pub async fn check(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let whole_at = *self.whole_at.lock().unwrap_or_else(PoisonError::into_inner);
        if whole_at.is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        self.look(pool).await
    }

    /// The same, whatever was found before.
    pub async fn look(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let missing = match Self::missing(pool).await {
            // Before the first migration, the roles do not exist.
            Err(error) if is_undefined(&error) => {
                MIGRATIONS.iter().map(|one| one.version).collect()
            }
            found => found?,
        };
        let is_whole = missing.is_empty();
        let mut whole_at = self.whole_at.lock().unwrap_or_else(PoisonError::into_inner);
        *whole_at = is_whole.then(Instant::now);
        match is_whole {
            true => Ok(()),
            false => Err(SchemaOutdated::error(&missing)),
        }
    }

    async fn missing(pool: &PgPool) -> Result<Vec<&'static str>, sqlx::Error> {
        let mut tx = WorkerTx::begin(pool).await.map_err(db::opening_refusal)?;
        let found = missing(tx.conn()).await?;
        tx.rollback().await?;
        Ok(found)
    }
}

/// Whether what a statement names does not exist: the schema may be older than the program.
pub fn is_undefined(error: &sqlx::Error) -> bool {
    let undefined = ["42P01", "42703", "42883", "42704", "22023"];
    db::sql_state(error).is_some_and(|state| undefined.contains(&&*state))
}
