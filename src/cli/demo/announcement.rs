//! The file in which other commands find a running demo.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use reqwest::Url;

use crate::cli::running_demo::{FILE, Login, Running};

/// The file, removed when the demo ends.
pub struct Announcement(PathBuf);

impl Drop for Announcement {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Announcement {
    pub fn write(
        data_dir: &Path,
        address: SocketAddr,
        stripe_api_base: Url,
        login: Login,
    ) -> std::io::Result<Self> {
        let running = Running {
            pid: std::process::id(),
            address,
            stripe_api_base: stripe_api_base.to_string(),
            login,
        };
        let path = data_dir.join(FILE);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(serde_json::to_string(&running)?.as_bytes())?;
        Ok(Self(path))
    }
}
