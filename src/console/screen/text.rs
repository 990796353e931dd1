//! Numbers and digests as pages write them.

use sha2::{Digest as _, Sha256};

/// How a number of bytes is written, and their digest.
pub fn digest(bytes: &[u8]) -> String {
    let hash = hex::encode(Sha256::digest(bytes));
    format!("{} bytes · SHA-256 {hash}", grouped(bytes.len()))
}

/// `1,234,567.5`, without zeros at its end.
pub fn grouped(number: impl ToString) -> String {
    let text = number.to_string();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", &*text),
    };
    let (whole, rest) = match digits.split_once('.') {
        Some((whole, rest)) => match rest.trim_end_matches('0') {
            "" => (whole, String::new()),
            rest => (whole, format!(".{rest}")),
        },
        None => (digits, String::new()),
    };
    let mut out = String::new();
    for (n, digit) in whole.chars().enumerate() {
        if n > 0 && (whole.len() - n).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    format!("{sign}{out}{rest}")
}
