//! The manifest beside a backup: enough to verify the backup, and what was restored
//! from it.

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
    /// The version of the program that wrote it.
    pub version: String,
    /// SHA-256, in hexadecimal digits.
    pub sha256: String,
    pub bytes: u64,
    /// The number of rows of each table, all from one snapshot.
    pub rows: BTreeMap<String, i64>,
}

impl Manifest {
    /// Whether the database had our migrations.
    pub fn has_ledger(&self) -> bool {
        self.rows.contains_key("billing_schema_migrations")
    }

    /// The path of `file`'s manifest.
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

    /// `None` if the backup has no manifest.
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
