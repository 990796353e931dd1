//! What a browser keeps for us between two steps: signed with a key that the replicas share, for
//! one purpose and a few minutes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::server::signing::SigningKey;

/// Longer than any that we make.
const LONGEST: usize = 2_048;
const SIGNATURE_BYTES: usize = 32;
/// How long it holds.
const LASTS: SignedDuration = SignedDuration::from_mins(10);

#[derive(Serialize, Deserialize)]
struct Content<T> {
    until: i64,
    said: T,
}

/// Seals `said` for a purpose.
pub fn seal(key: &SigningKey, purpose: &str, said: &impl Serialize, now: Timestamp) -> String {
    let until = (now + LASTS).as_second();
    let mut bytes = serde_json::to_vec(&Content { until, said }).expect("what is said is plain");
    let signature = signing(key, purpose, &bytes).finalize().into_bytes();
    bytes.extend(signature);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What was sealed for the purpose; none if it was not, or too long ago.
pub fn open<T: DeserializeOwned>(
    key: &SigningKey,
    purpose: &str,
    sealed: &str,
    now: Timestamp,
) -> Option<T> {
    if sealed.len() > LONGEST {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
    let (content, signature) = bytes.split_at_checked(bytes.len().checked_sub(SIGNATURE_BYTES)?)?;
    signing(key, purpose, content)
        .verify_slice(signature)
        .ok()?;
    let content: Content<T> = serde_json::from_slice(content).ok()?;
    (content.until > now.as_second()).then_some(content.said)
}

fn signing(key: &SigningKey, purpose: &str, content: &[u8]) -> Hmac<Sha256> {
    let mut signing = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key's");
    signing.update(purpose.as_bytes());
    signing.update(b"\n");
    signing.update(content);
    signing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_for_its_purpose_and_time() {
        let (key, now) = ([7; 32], Timestamp::from_second(1_800_000_000).unwrap());
        let sealed = seal(&key, "code", &"jo", now);
        let read = |key, purpose, sealed: &str, at| open::<String>(key, purpose, sealed, at);
        assert_eq!(read(&key, "code", &sealed, now).as_deref(), Some("jo"));
        assert_eq!(read(&key, "enrol", &sealed, now), None);
        assert_eq!(read(&[8; 32], "code", &sealed, now), None);
        assert_eq!(read(&key, "code", &sealed, now + LASTS), None);
        for wrong in ["", "x", &sealed[1..], &"A".repeat(3_000)] {
            assert_eq!(read(&key, "code", wrong, now), None, "{wrong}");
        }
    }
}
