//! One-time codes by the time (RFC 6238): six digits, of 30 seconds each. Pure: the secret, the
//! last code that was used and the time are given.

use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use subtle::ConstantTimeEq as _;
use totp_rs::{Algorithm, Builder, Secret, Totp};

/// What authenticators take for a key of HMAC-SHA1.
pub const SECRET_BYTES: usize = 20;
const DIGITS: u8 = 6;
const STEP_SECS: u64 = 30;
/// The steps before and after ours in which a code counts: clocks differ, and typing takes time.
const SKEW: u64 = 1;
/// What authenticators show beside the address.
const ISSUER: &str = "ValueCanvas Billing";

/// The step that a code is of, if it is one of those around `now` and later than `last`: a code
/// is used once, and none before it after it.
pub fn step_of(secret: &[u8], code: &str, last: i64, now: Timestamp) -> Option<i64> {
    let own = generator(secret)?;
    let current = u64::try_from(now.as_second()).ok()? / STEP_SECS;
    let steps = current.saturating_sub(SKEW)..=current + SKEW;
    let mut matching = steps.filter(|step| {
        let expected = own.generate(step * STEP_SECS).to_string();
        bool::from(expected.as_bytes().ct_eq(code.as_bytes()))
    });
    let step = matching.find_map(|step| i64::try_from(step).ok().filter(|step| *step > last));
    step.filter(|_| code.len() == usize::from(DIGITS))
}

/// The code of a time, as an authenticator shows it.
pub fn code_at(secret: &[u8], now: Timestamp) -> Option<String> {
    let at = u64::try_from(now.as_second()).ok()?;
    Some(generator(secret)?.generate(at).to_string())
}

fn generator(secret: &[u8]) -> Option<Totp> {
    let generator = Builder::new()
        .with_algorithm(Algorithm::SHA1)
        .with_digits(DIGITS)
        .with_step_duration(STEP_SECS)
        .with_secret(secret);
    generator.build().ok()
}

/// The secret as one types it.
pub fn base32(secret: &[u8]) -> String {
    Secret::from(secret).to_base32()
}

/// The address that authenticators read from a picture.
pub fn uri(secret: &[u8], email: &str) -> String {
    let part = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    format!(
        "otpauth://totp/{issuer}:{email}?secret={secret}&issuer={issuer}&algorithm=SHA1&digits={DIGITS}&period={STEP_SECS}",
        issuer = part(ISSUER),
        email = part(email),
        secret = base32(secret),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"12345678901234567890";

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(secs).unwrap()
    }

    /// The last six digits of those of RFC 6238, appendix B.
    #[test]
    fn the_codes_of_the_standard_come_out() {
        for (secs, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(code_at(SECRET, at(secs)).as_deref(), Some(code));
            assert_eq!(step_of(SECRET, code, 0, at(secs)), Some(secs / 30));
        }
    }

    #[test]
    fn a_code_counts_a_step_early_or_late_and_once() {
        let code = "005924";
        let step = 1_234_567_890 / 30;
        for (secs, found) in [
            (-60, None),
            (-30, Some(step)),
            (0, Some(step)),
            (30, Some(step)),
            (60, None),
        ] {
            let now = at(1_234_567_890 + secs);
            assert_eq!(step_of(SECRET, code, 0, now), found, "{secs}");
        }
        let now = at(1_234_567_890);
        assert_eq!(step_of(SECRET, code, step - 1, now), Some(step));
        assert_eq!(step_of(SECRET, code, step, now), None);
        for wrong in ["", "005925", "05924", "0059240", " 05924", "00592٤"] {
            assert_eq!(step_of(SECRET, wrong, 0, now), None, "{wrong}");
        }
    }

    #[test]
    fn the_address_names_the_account_and_escapes_it() {
        assert_eq!(base32(SECRET), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        assert_eq!(
            uri(SECRET, "jo+x@example.com"),
            "otpauth://totp/ValueCanvas%20Billing:jo%2Bx%40example%2Ecom?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ\
             &issuer=ValueCanvas%20Billing&algorithm=SHA1&digits=6&period=30"
        );
    }
}
