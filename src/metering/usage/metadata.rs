//! Checks whether PostgreSQL can store a JSON object. `serde_json` accepts more:
//! of a duplicate member it reads only the last, while PostgreSQL reads both.

/// The largest exponent of a floating-point number; PostgreSQL may reject more.
const LARGEST_EXPONENT: i32 = 308;

/// Returns why well-formed `json` cannot be stored, or `None` if it can.
pub fn unstorable(json: &str) -> Option<&'static str> {
    if serde_json::from_str::<serde_json::Value>(json).is_err() {
        return Some(
            "it contains an unpaired surrogate, a number out of range, or more than 100 levels",
        );
    }
    let mut rest = json.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = match first {
            b'"' => match string(after) {
                Some(rest) => rest,
                None => return Some("it contains a character that cannot be stored, such as NUL"),
            },
            b'-' | b'0'..=b'9' => match number(rest) {
                Some(rest) => rest,
                None => return Some("it contains a number that is out of range"),
            },
            _ => after,
        };
    }
    None
}

/// Skips a string whose opening quote was read; `None` if it contains NUL.
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

/// Skips a number; `None` if its exponent is too large.
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
    fn exactly_what_the_database_can_store_is_accepted() {
        for good in [
            r#"{}"#,
            r#"{"a":"\\u0000","b":"\"\\","c":[1,-2.5e-308,1E+10,0.1]}"#,
            r#"{"1e-999":"1e-999","\\":"x"}"#,
            r#"{"a":"é 𝄞 \ud834\udd1e \u0001"}"#,
        ] {
            assert_eq!(unstorable(good), None, "{good}");
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
            // serde_json sees only the last member of a name.
            r#"{"a":"\u0000","a":1}"#,
            r#"{"a":1e-20000,"a":1}"#,
            r#"{"a":1e-20000}"#,
            r#"{"a":[0.1E-99999999999999999999]}"#,
            r#"{"a":1e400}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":"\udc00\ud800","a":1}"#,
            &deep,
        ] {
            assert!(unstorable(bad).is_some(), "{bad}");
        }
    }
}
