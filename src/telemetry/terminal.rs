//! Text for terminals: what is counted, and text from elsewhere, which must not
//! steer the terminal that shows it.

use std::fmt::Display;

/// `text` with what steers replaced: for one line.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if steers(c) { '\u{fffd}' } else { c })
        .collect()
}

/// `text` with what steers written as an escape, line ends and tabs left: for
/// several lines, and for JSON, of which it changes no value, since there it
/// can only stand in strings.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) && !matches!(c, '\n' | '\r' | '\t') {
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            safe.push(c);
        }
    }
    safe
}

/// `1 event`, `2 events`.
pub fn counted<N: Display + PartialEq + From<u8>>(number: N, thing: &str) -> String {
    let end = if number == N::from(1) { "" } else { "s" };
    format!("{number} {thing}{end}")
}

/// Control characters, which start escape sequences, and those that turn the
/// direction of writing.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_is_replaced_or_written_as_an_escape() {
        let nasty = "a\u{1b}[2J\u{9b}\u{7f}\u{202e}\tb\n";
        assert_eq!(
            printable(nasty),
            "a\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}\u{fffd}b\u{fffd}"
        );
        assert_eq!(escaped(nasty), "a\\u001b[2J\\u009b\\u007f\\u202e\tb\n");
    }

    #[test]
    fn json_keeps_its_value() {
        let value = serde_json::json!({"\u{9b}": ["\u{1b}\n\u{7f}", 1]});
        let text = escaped(&value.to_string());
        assert!(text.is_ascii());
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            value
        );
    }
}
