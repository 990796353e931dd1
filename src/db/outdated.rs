//! A schema that is older than the program.

/// Migrations that this program needs are missing.
#[derive(Debug, thiserror::Error)]
#[error("migrations: {0} not applied; run `migrate up`")]
pub struct SchemaOutdated(String);

impl SchemaOutdated {
    /// Where errors of the database are expected; it counts as an outage.
    pub fn error(missing: &[&str]) -> sqlx::Error {
        sqlx::Error::Configuration(Box::new(Self(missing.join(", "))))
    }
}
