//! Opaque credentials: 256 random bits behind a prefix that says what they are.
//! Only their hash is kept, and since they are random, a fast one is enough.

use sha2::{Digest, Sha256};

/// A user's token.
const SESSION: &str = "vcs_";
/// An API key.
const KEY: &str = "vck_";
/// Of a key, what may be shown: the prefix and as many digits.
const SHOWN: usize = KEY.len() + 8;
const DIGITS: usize = 64;

/// SHA-256 of a credential.
pub type Hash = [u8; 32];

/// What somebody presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Presented {
    Session(Hash),
    Key(Hash),
}

impl Presented {
    pub fn hash(&self) -> Hash {
        match self {
            Self::Session(hash) | Self::Key(hash) => *hash,
        }
    }
}

pub fn new_session() -> String {
    make(SESSION)
}

pub fn new_key() -> String {
    make(KEY)
}

fn make(prefix: &str) -> String {
    format!("{prefix}{}", hex::encode(rand::random::<[u8; 32]>()))
}

pub fn hash(text: &str) -> Hash {
    Sha256::digest(text.as_bytes()).into()
}

/// What of an API key lists show.
pub fn shown(key: &str) -> &str {
    &key[..SHOWN]
}

/// Reads a credential; None: it is none of ours.
pub fn read(text: &str) -> Option<Presented> {
    let is_ours = |prefix: &str| {
        text.strip_prefix(prefix).is_some_and(|digits| {
            digits.len() == DIGITS
                && digits
                    .bytes()
                    .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        })
    };
    if is_ours(SESSION) {
        Some(Presented::Session(hash(text)))
    } else if is_ours(KEY) {
        Some(Presented::Key(hash(text)))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_read_back_and_nothing_else() {
        let (session, key) = (new_session(), new_key());
        assert_eq!(read(&session), Some(Presented::Session(hash(&session))));
        assert_eq!(read(&key), Some(Presented::Key(hash(&key))));
        assert_ne!(new_key(), key);
        let upper = key.to_uppercase();
        for wrong in [
            "",
            "vck_",
            "vck_12",
            &session[1..],
            &upper,
            &format!("{key}0"),
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
