//! The secrets that deliveries are checked with.

use std::path::Path;

use super::StartError;
use crate::config::{SigningSecret, StripeConfig};

/// The secrets that deliveries are checked with: those configured, else one that is
/// generated once and kept in the data directory.
pub fn webhook_secrets(
    stripe: &StripeConfig,
    data_dir: &Path,
) -> Result<Vec<SigningSecret>, StartError> {
    if let Some(secrets) = &stripe.webhook_secrets {
        return Ok(secrets.clone());
    }
    Ok(vec![kept_webhook_secret(data_dir)?])
}

/// The secrets of a running service that shares our settings or our data directory;
/// `None` if it cannot share either.
pub fn shared_webhook_secrets(
    stripe: &StripeConfig,
    data_dir: &Path,
) -> Result<Option<Vec<SigningSecret>>, StartError> {
    let kept = data_dir.join("webhook-secret").exists();
    let shared = stripe.webhook_secrets.is_some() || kept;
    shared
        .then(|| webhook_secrets(stripe, data_dir))
        .transpose()
}

/// The secret in the data directory, generated if missing.
pub fn kept_webhook_secret(data_dir: &Path) -> Result<SigningSecret, StartError> {
    let path = data_dir.join("webhook-secret");
    let secret = kept_secret(&path).map_err(|error| StartError::Secret { path, error })?;
    Ok(SigningSecret::new(secret))
}

fn kept_secret(path: &Path) -> std::io::Result<String> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    match std::fs::read_to_string(path) {
        Ok(secret) if secret.trim().starts_with("whsec_") => return Ok(secret.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let secret = format!("whsec_{}", hex::encode(rand::random::<[u8; 32]>()));
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    // Written under another name and renamed: readers see all of it or nothing.
    let aside = path.with_extension(format!("{}.new", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    std::fs::rename(&aside, path)?;
    Ok(secret)
}
