//! Backup and restore by PostgreSQL's own tools, with what they leave out: a
//! checksum, counts of one moment, and a look at what was written.

mod address;
mod archive;
mod load;
mod manifest;
mod restore;
mod service_file;
mod store;
mod tools;

pub use archive::{Written, to_file, to_stdout};
pub use manifest::Manifest;
pub use restore::{Restored, restore};

use std::path::PathBuf;

use crate::migrations::MigrationError;

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{0} is not installed: apt-get install postgresql-client, or brew install postgresql")]
    NoTool(&'static str),
    #[error("{tool} failed: {said}")]
    Tool { tool: &'static str, said: String },
    #[error("{path}: {error}")]
    File {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error(
        "the database has nothing to back up: no table in it has a row; check that \
         MIGRATION_DATABASE_URL or DATABASE_URL names the right one"
    )]
    Empty,
    #[error(
        "MIGRATION_DATABASE_URL: a backup is made with the login of the owner, and this one may not read \
         every table: {0}"
    )]
    Refused(sqlx::Error),
    #[error("{0} is there already; name another file, or remove it first")]
    Exists(PathBuf),
    #[error("another backup to {0} is being written; wait for it, or name another file")]
    Busy(PathBuf),
    #[error("{0}: its checksum is not that of its manifest; it was changed or cut short")]
    Checksum(PathBuf),
    #[error("{path}: it is no manifest of a backup: {error}")]
    Manifest {
        path: PathBuf,
        error: serde_json::Error,
    },
    #[error(
        "the database has {0} tables already; restore into an empty one: CREATE DATABASE …, and name it in MIGRATION_DATABASE_URL"
    )]
    NotEmpty(i64),
    #[error("after restoring, {0}")]
    Differs(String),
    #[error(transparent)]
    Migration(#[from] MigrationError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}
