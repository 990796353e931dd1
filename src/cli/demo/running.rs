//! What a running demo tells commands beside it: its address and its account,
//! in a file of the data directory.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use reqwest::Url;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

use super::account::KEY;
use crate::app;
use crate::config::{StripeApi, StripeConfig};
use crate::stripe::client::{Patience, SecretKey};

const FILE: &str = "demo.json";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    pid: u32,
    pub address: SocketAddr,
    stripe_api_base: String,
}

/// The file, removed when the demo ends.
pub struct Announcement(PathBuf);

impl Drop for Announcement {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Running {
    pub fn announce(
        data_dir: &Path,
        address: SocketAddr,
        stripe_api_base: Url,
    ) -> std::io::Result<Announcement> {
        let running = Self {
            pid: std::process::id(),
            address,
            stripe_api_base: stripe_api_base.to_string(),
        };
        let path = data_dir.join(FILE);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(serde_json::to_string(&running)?.as_bytes())?;
        Ok(Announcement(path))
    }

    /// The demo that uses `data_dir`, if one runs.
    pub fn find(data_dir: &Path) -> Option<Self> {
        let text = fs::read(data_dir.join(FILE)).ok()?;
        let running: Self = serde_json::from_slice(&text).ok()?;
        // Killed, it left its file.
        let pid = Pid::from_raw(i32::try_from(running.pid).ok()?)?;
        test_kill_process(pid).is_ok().then_some(running)
    }

    /// Its account with the stand-in, as the settings would name it.
    pub fn stripe(&self, data_dir: &Path) -> StripeConfig {
        let base = Url::parse(&self.stripe_api_base).ok();
        let secret = app::kept_webhook_secret(data_dir).ok();
        StripeConfig {
            api: base.map(|base| StripeApi {
                base,
                key: SecretKey::new(KEY),
                patience: Patience::default(),
            }),
            key_is_live: Some(false),
            webhook_secrets: secret.map(|secret| vec![secret]),
            ..StripeConfig::default()
        }
    }
}
