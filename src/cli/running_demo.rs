//! A running demo as other commands find it: its address, credentials and Stripe
//! account, in a file of the data directory that only its owner reads.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use reqwest::Url;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

use crate::app;
use crate::config::{StripeApi, StripeConfig};
use crate::stripe::client::{Patience, SecretKey};

pub(super) const FILE: &str = "demo.json";
/// The demo's key for the stand-in, which accepts any.
pub(super) const KEY: &str = "sk_test_demo";

/// The credentials that the demo prints.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Login {
    /// The operator's, for the console.
    pub operator: String,
    pub operator_password: String,
    pub email: String,
    pub password: String,
    pub api_key: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    pub(super) pid: u32,
    pub address: SocketAddr,
    pub(super) stripe_api_base: String,
    pub login: Login,
}

impl Running {
    /// The demo that runs on `data_dir`, if any.
    pub fn find(data_dir: &Path) -> Option<Self> {
        let text = fs::read(data_dir.join(FILE)).ok()?;
        let running: Self = serde_json::from_slice(&text).ok()?;
        // A killed demo leaves its file.
        let pid = Pid::from_raw(i32::try_from(running.pid).ok()?)?;
        test_kill_process(pid).is_ok().then_some(running)
    }

    /// Its account with the stand-in, as settings.
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
