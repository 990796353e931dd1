//! What stands beside a backup: enough to tell whether it is whole, and whether
//! what was restored from it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::BackupError;

/// A backup's manifest, `FILE.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub created_at: Timestamp,
    /// The program that wrote it.
    pub version: String,
    /// SHA-256, in hexadecimal digits.
    pub sha256: String,
    pub bytes: u64,
    /// The rows of each table, all of one moment.
    pub rows: BTreeMap<String, i64>,
}

impl Manifest {
    /// Whether it is of a database that was migrated.
    pub fn has_ledger(&self) -> bool {
        self.rows.contains_key("billing_schema_migrations")
    }

    /// Where the manifest of `file` is.
    pub fn path_of(file: &Path) -> PathBuf {
        let mut name = file.as_os_str().to_owned();
        name.push(".json");
        name.into()
    }

    pub fn write(&self, file: &Path) -> Result<(), BackupError> {
        let path = Self::path_of(file);
        let mut text = serde_json::to_string_pretty(self).expect("a manifest is plain values");
        text.push('\n');
        std::fs::write(&path, text).map_err(|error| BackupError::File { path, error })
    }

    /// None: the backup came without one.
    pub fn read(file: &Path) -> Result<Option<Self>, BackupError> {
        let path = Self::path_of(file);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| BackupError::Manifest { path, error }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(BackupError::File { path, error }),
        }
    }
}
