//! What of a JSON object the database keeps. `serde_json` takes more, and reads
//! of a member that comes twice only the last; the database reads both.

/// Exponents beyond this are none of a floating-point number's, and may be none
/// of the database's either.
const LARGEST_EXPONENT: i32 = 308;

/// Why `json`, which is well-formed, cannot be kept; None: it can.
pub fn fault(json: &str) -> Option<&'static str> {
    if serde_json::from_str::<serde_json::Value>(json).is_err() {
        return Some(
            "it holds half a character, a number that is out of range, or more than 100 levels",
        );
    }
    let mut rest = json.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = match first {
            b'"' => match string(after) {
                Some(rest) => rest,
                None => return Some("it holds a character that cannot be stored, such as NUL"),
            },
            b'-' | b'0'..=b'9' => match number(rest) {
                Some(rest) => rest,
                None => return Some("it holds a number that is out of range"),
            },
            _ => after,
        };
    }
    None
}

/// What comes after a string, whose quote was read; None: there is a NUL in it.
fn string(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        match rest {
            [b'\\', b'u', b'0', b'0', b'0', b'0', ..] => return None,
            [b'\\', _, after @ ..] => rest = after,
            [b'"', after @ ..] => return Some(after),
            [_, after @ ..] => rest = after,
            [] => return Some(rest),
        }
    }
}

/// What comes after a number; None: its exponent is too large.
fn number(text: &[u8]) -> Option<&[u8]> {
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let end = text.iter().position(|byte| !is_part(byte));
    let (number, rest) = text.split_at(end.unwrap_or(text.len()));
    let exponent = number.iter().position(|byte| matches!(byte, b'e' | b'E'));
    let fits = exponent.is_none_or(|at| {
        let digits = std::str::from_utf8(&number[at + 1..]).unwrap_or_default();
        let exponent: Option<i32> = digits.parse().ok();
        exponent.is_some_and(|exponent| exponent.abs() <= LARGEST_EXPONENT)
    });
    fits.then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_database_keeps_is_let_in_and_nothing_else() {
        for good in [
            r#"{}"#,
            r#"{"a":"\\u0000","b":"\"\\","c":[1,-2.5e-308,1E+10,0.1]}"#,
            r#"{"1e-999":"1e-999","\\":"x"}"#,
            r#"{"a":"é 𝄞 \ud834\udd1e \u0001"}"#,
        ] {
            assert_eq!(fault(good), None, "{good}");
        }
        let deep = format!(
            "{}{}",
            r#"{"a":"#.repeat(200),
            "1".to_owned() + &"}".repeat(200)
        );
        for bad in [
            r#"{"a":"\u0000"}"#,
            r#"{"\u0000":1}"#,
            r#"{"a":"\\\u0000"}"#,
            // The last of the same name hides the first from serde_json.
            r#"{"a":"\u0000","a":1}"#,
            r#"{"a":1e-20000,"a":1}"#,
            r#"{"a":1e-20000}"#,
            r#"{"a":[0.1E-99999999999999999999]}"#,
            r#"{"a":1e400}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":"\udc00\ud800","a":1}"#,
            &deep,
        ] {
            assert!(fault(bad).is_some(), "{bad}");
        }
    }
}
