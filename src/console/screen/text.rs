//! Digests as pages write them.

use sha2::{Digest as _, Sha256};

use crate::pages::number::grouped;

/// How a number of bytes is written, and their digest.
pub fn digest(bytes: &[u8]) -> String {
    let hash = hex::encode(Sha256::digest(bytes));
    format!("{} bytes · SHA-256 {hash}", grouped(bytes.len()))
}
