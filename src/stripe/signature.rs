//! The `Stripe-Signature` header: `t=<unix seconds>,v1=<hex>[,v1=…][,v0=…]`.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

pub use crate::config::SigningSecret;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the Stripe-Signature header is missing")]
    Missing,
    #[error("no signature in the Stripe-Signature header matches the body")]
    Invalid,
    #[error("the signature's time is too far from now")]
    OutOfTolerance,
}

/// Whether a header may hold a signature made within `tolerance_secs` of `now`
/// (Unix seconds), so that reading the body is worthwhile.
pub fn precheck(header: &str, now: i64, tolerance_secs: u32) -> Result<(), SignatureError> {
    let (_, signed_at) = time_of(header)?;
    if fields(header, "v1").filter_map(digits).next().is_none() {
        return Err(SignatureError::Invalid);
    }
    within(signed_at, now, tolerance_secs)
}

/// Whether one of `secrets` signed `body` within `tolerance_secs` of `now`.
///
/// Any `v1` may match, since secrets overlap while they are rolled; other schemes
/// are ignored. A second `t` is rejected, as it would be unclear which time was
/// signed. Unlike Stripe's own libraries, this rejects times in the future, so
/// that a wrong clock cannot create a long-lived signature.
pub fn verify(
    header: Option<&str>,
    body: &[u8],
    secrets: &[SigningSecret],
    now: i64,
    tolerance_secs: u32,
) -> Result<(), SignatureError> {
    let header = header.ok_or(SignatureError::Missing)?;
    let (timestamp, signed_at) = time_of(header)?;
    let expected: Vec<Digits> = secrets
        .iter()
        .map(|secret| words(hex::encode(mac(secret, timestamp, body)).as_bytes()))
        .collect();
    let mut matches = false;
    for candidate in fields(header, "v1").filter_map(digits) {
        for mac in &expected {
            matches |= bool::from(mac[..].ct_eq(&candidate[..]));
        }
    }
    if !matches {
        return Err(SignatureError::Invalid);
    }
    within(signed_at, now, tolerance_secs)
}

/// The only time of a header, as text and in seconds.
fn time_of(header: &str) -> Result<(&str, i64), SignatureError> {
    let mut times = fields(header, "t");
    let (Some(timestamp), None) = (times.next(), times.next()) else {
        return Err(SignatureError::Invalid);
    };
    let signed_at = unix_seconds(timestamp).ok_or(SignatureError::Invalid)?;
    Ok((timestamp, signed_at))
}

fn within(signed_at: i64, now: i64, tolerance_secs: u32) -> Result<(), SignatureError> {
    if now.abs_diff(signed_at) > u64::from(tolerance_secs) {
        return Err(SignatureError::OutOfTolerance);
    }
    Ok(())
}

/// The header that Stripe would send with `body` at `now` (Unix seconds).
pub fn sign(secret: &SigningSecret, body: &[u8], now: i64) -> String {
    format!(
        "t={now},v1={}",
        hex::encode(mac(secret, &now.to_string(), body))
    )
}

fn mac(secret: &SigningSecret, timestamp: &str, body: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes())
        .expect("HMAC takes keys of any length");
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    mac.finalize().into_bytes().into()
}

fn fields<'a>(header: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    header
        .split(',')
        .filter_map(|field| field.split_once('='))
        .filter(move |(name, _)| *name == key)
        .map(|(_, value)| value)
}

/// Digits only: `str::parse` would also take a sign.
fn unix_seconds(text: &str) -> Option<i64> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// The digits of a signature. Comparing them by words, rather than what they stand for
/// by bytes, makes thousands of signatures in one header cheap.
type Digits = [u64; 8];

/// None: not lower-case hexadecimal of the right length.
fn digits(text: &str) -> Option<Digits> {
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == 64 && text.as_bytes().iter().all(is_digit)).then(|| words(text.as_bytes()))
}

fn words(digits: &[u8]) -> Digits {
    let mut words = Digits::default();
    for (word, bytes) in words.iter_mut().zip(digits.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] =
        br#"{"id":"evt_1","object":"event","type":"invoice.paid","data":{"object":{}}}"#;
    const T: i64 = 1_700_000_000;
    const V1: &str = "f5cea1cf83fdb88f207396bf70178f94f66c7b7c8b15f68a223eede5a7b27faf";

    fn secrets() -> Vec<SigningSecret> {
        vec![SigningSecret::new("whsec_test_secret")]
    }

    fn check(header: &str) -> Result<(), SignatureError> {
        verify(Some(header), BODY, &secrets(), T, 300)
    }

    #[test]
    fn the_known_vector_of_stripes_libraries_verifies() {
        assert_eq!(sign(&secrets()[0], BODY, T), format!("t={T},v1={V1}"));
        assert_eq!(check(&format!("t={T},v1={V1}")), Ok(()));
        assert_eq!(
            check(&format!("t={T},v1={},v1={V1},v0=00", "0".repeat(64))),
            Ok(())
        );
    }

    #[test]
    fn each_of_several_secrets_is_accepted() {
        let rolled = vec![SigningSecret::new("whsec_new"), secrets().remove(0)];
        let header = format!("t={T},v1={V1}");
        assert_eq!(verify(Some(&header), BODY, &rolled, T, 300), Ok(()));
    }

    #[test]
    fn what_stripe_would_not_send_is_refused() {
        let upper = V1.to_uppercase();
        for header in [
            String::new(),
            format!("v1={V1}"),
            format!("t={T}"),
            format!("t={T},v0={V1}"),
            format!("t={T},t={T},v1={V1}"),
            format!("t={T}, v1={V1}"),
            format!("t={T},v1={upper}"),
            format!("t={T},v1={}", &V1[1..]),
            format!("t=+{T},v1={V1}"),
            format!("t={T}.0,v1={V1}"),
            format!("t=-1,v1={V1}"),
            format!("t=,v1={V1}"),
            format!("t=99999999999999999999,v1={V1}"),
            format!("t={},v1={V1}", T + 1),
            format!("t={T},v1={}", V1.replace('f', "e")),
        ] {
            assert_eq!(check(&header), Err(SignatureError::Invalid), "{header}");
        }
        assert_eq!(
            verify(None, BODY, &secrets(), T, 300),
            Err(SignatureError::Missing)
        );
        assert_eq!(
            verify(Some(&format!("t={T},v1={V1}")), b"{}", &secrets(), T, 300),
            Err(SignatureError::Invalid)
        );
    }

    #[test]
    fn the_time_may_differ_by_the_tolerance_and_no_more() {
        let header = format!("t={T},v1={V1}");
        let at = |now| verify(Some(&header), BODY, &secrets(), now, 300);
        assert_eq!(at(T + 300), Ok(()));
        assert_eq!(at(T - 300), Ok(()));
        assert_eq!(at(T + 301), Err(SignatureError::OutOfTolerance));
        assert_eq!(at(T - 301), Err(SignatureError::OutOfTolerance));
        assert_eq!(at(i64::MIN), Err(SignatureError::OutOfTolerance));
    }

    #[test]
    fn form_and_time_are_known_without_the_body() {
        let other = "0".repeat(64);
        let at = |header: &str, now| precheck(header, now, 300);
        assert_eq!(at(&format!("t={T},v1={other}"), T + 300), Ok(()));
        let late = Err(SignatureError::OutOfTolerance);
        assert_eq!(at(&format!("t={T},v1={other}"), T + 301), late);
        for header in [
            "",
            "t=1",
            &format!("t={T}"),
            &format!("v1={other}"),
            &format!("t={T},t={T},v1={other}"),
            &format!("t={T},v1=00"),
        ] {
            assert_eq!(at(header, T), Err(SignatureError::Invalid), "{header}");
        }
    }
}
