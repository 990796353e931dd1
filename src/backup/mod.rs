//! Backup and restore with PostgreSQL's own tools, and what those lack: a checksum,
//! row counts from one snapshot, and verification of what was written.

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
        "MIGRATION_DATABASE_URL: a backup needs the owner's login, and this one may not read every \
         table: {0}"
    )]
    Refused(sqlx::Error),
    #[error("{0} already exists; name another file, or remove it first")]
    Exists(PathBuf),
    #[error("another backup to {0} is being written; wait for it, or name another file")]
    Busy(PathBuf),
    #[error("{0}: the checksum differs from the manifest's; the file was changed or truncated")]
    Checksum(PathBuf),
    #[error("{path}: not a manifest of a backup: {error}")]
    Manifest {
        path: PathBuf,
        error: serde_json::Error,
    },
    #[error(
        "the database already has {0} tables; restore into an empty one: CREATE DATABASE …, and name it in MIGRATION_DATABASE_URL"
    )]
    NotEmpty(i64),
    #[error("after restoring, {0}")]
    Differs(String),
    #[error(transparent)]
    Migration(#[from] MigrationError),
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}
