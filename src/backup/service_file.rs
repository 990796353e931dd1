//! A libpq service file with one service, which only its owner can read.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::BackupError;

/// The file, removed when dropped.
pub struct ServiceFile(PathBuf);

impl ServiceFile {
    /// The name of its service.
    pub const NAME: &str = "valuecanvas_billing";

    pub fn write(parameters: &[(&str, &str)]) -> Result<Self, BackupError> {
        let name = format!("valuecanvas-billing-{}.conf", Uuid::new_v4());
        let path = std::env::temp_dir().join(name);
        let failed = |error| BackupError::File {
            path: path.clone(),
            error,
        };
        let mut options = OpenOptions::new();
        let options = options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(&path).map_err(failed)?;
        let written = Self(path.clone());
        let mut text = format!("[{}]\n", Self::NAME);
        for (name, value) in parameters {
            text.push_str(&format!("{name}={value}\n"));
        }
        file.write_all(text.as_bytes()).map_err(failed)?;
        Ok(written)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ServiceFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a file with a password could not be removed");
        }
    }
}
